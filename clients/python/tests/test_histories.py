"""The state machine under anything, by chance: what holds whatever happens."""

import random

import pytest

from token_broker_client._token import Token, User
from world import World, refusal, token

SEEDS = 300
STEPS = 150


class Chance(World):
    """A broker that answers by chance, and judges each call."""

    def __init__(self, seed):
        self.random = random.Random(seed)  # noqa: S311
        super().__init__(jitter=0.5)
        self.draw = self.random.random
        self.users = [User("m", str(number)) for number in range(3)]
        self.under_way = set()
        self.answered = {}
        # By user and id: when the broker says that it ends.
        self.ends = {}

    def settle(self):
        self.latency = self.random.choice([0.0, 0.01, 0.5, 3.0])
        super().settle()

    def _answer(self, call):
        kind = self.random.random()
        if kind < 0.3:
            wait = self.random.choice([None, None, 0.0, 2.0, 900.0])
            return refusal(self.random.choice(["UNAVAILABLE", "DEADLINE_EXCEEDED", "NOT_FOUND", "INTERNAL"]), wait)
        name = f"{call.user.number}-{self.random.randrange(6)}"
        seconds = self.random.choice([0.0, 0.1, 1.0, 5.0, 100.0, 2_000.0])
        self.ends.setdefault((call.user, name), set()).add(call.sent + seconds)
        return token(name, seconds, self.random.choice([None, 0.0, seconds * 0.8, seconds * 2]))


def play(seed):
    world = Chance(seed)
    held = []
    for _ in range(STEPS):
        user = world.random.choice(world.users)
        action = world.random.random()
        if action < 0.5:
            found = world.machine.ask(user)
            world.settle()
        else:
            found = world.machine.cached(user)
        if isinstance(found, Token):
            assert world.now < found.life.ends, "it has ended"
            assert found.life.ends in world.ends[user, found.token_id], "it lives longer than the broker said"
            held.append(found)
        if held and world.random.random() < 0.3:
            world.machine.rejected(world.random.choice(held[-5:]))
        slots = [call.user for _, _, call in world.coming]
        assert len(slots) == len(set(slots)), "two calls for one user"
        world.passes(world.random.choice([0.0, 0.05, 0.3, 1.0, 20.0, 700.0]))
    return world


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_whatever_happens_no_token_has_ended_and_no_user_has_two_calls(first):
    for seed in range(first, first + 50):
        world = play(seed)
        counts = world.machine.counts()
        assert counts.calls == len(world.calls), seed
        for user in world.users:
            sent = [call.sent for call in world.calls if call.user == user]
            # Whatever is complained of: no more than each action may have begun, and what a minute of its own leads to.
            assert len(sent) <= 2 * STEPS + (world.now - 1_000.0), seed
