"""A state machine over a broker that says what it is told to, in time that passes only when a test lets it.

Must never read a clock, nor wait.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from token_broker_client._errors import TokenBrokerError
from token_broker_client._slot import Call, Machine
from token_broker_client._token import Answer, Token, User

USER = User("m", "+447871239999")


class Flight:
    """A future that nobody waits for."""

    def __init__(self):
        self.results = []

    def set_result(self, result):
        self.results.append(result)

    def done(self):
        return bool(self.results)


def refusal(code="UNAVAILABLE", wait=None, reason=None):
    return TokenBrokerError("no", code=code, reason=reason, retry_after=wait)


def token(token_id, seconds, renew_in=None):
    return Answer(f"secret of {token_id}", token_id, "read", seconds, renew_in)


class World:
    """Drives a machine. Without a script the broker gives tokens of 100 s that it has renewed at 80 s."""

    def __init__(self, start=1_000.0, jitter=0.5, latency=0.0):
        self.now = start
        self.latency = latency
        self.script = []
        # Every call that went out, and those whose answer is still on its way, by when it comes.
        self.calls: list[Call] = []
        self.coming = []
        self.serials = itertools.count()
        self.holds = False
        self.draw: Callable[[], float] = lambda: jitter
        self.given = itertools.count()
        self.earlier = 0
        self.machine = Machine(lambda: self.now, lambda: self.draw(), Flight, self._on_earlier)

    def _on_earlier(self):
        self.earlier += 1

    def says(self, *answers):
        """What the next calls bring; a function is given the call."""
        self.script += answers
        return self

    def _answer(self, call):
        said = self.script.pop(0) if self.script else token(f"token-{next(self.given)}", 100.0, 80.0)
        return said(call) if callable(said) else said

    def settle(self):
        """Does all that is to be done now."""
        while True:
            calls = self.machine.due()
            for call in calls:
                self.calls.append(call)
                at = float("inf") if self.holds else self.now + self.latency
                heapq.heappush(self.coming, (at, next(self.serials), call))
            if not calls and not (self.coming and self.coming[0][0] <= self.now):
                return
            while self.coming and self.coming[0][0] <= self.now:
                call = heapq.heappop(self.coming)[2]
                self.machine.answered(call, self._answer(call))

    def release(self):
        """Lets the calls go that are held."""
        self.holds = False
        self.coming = [(self.now, serial, call) for _, serial, call in self.coming]
        self.settle()

    def passes(self, seconds):
        """Time goes by, and all is done in it that falls due."""
        end = self.now + seconds
        self.settle()
        while True:
            times = [at for at in (self.machine.next_at(), self.coming[0][0] if self.coming else None) if at is not None]
            if not times or min(times) > end:
                break
            self.now = max(self.now, min(times))
            self.settle()
        self.now = end
        self.settle()

    def begin(self, user=USER):
        """Asks, and goes on at once: a token, an error or a flight."""
        found = self.machine.ask(user)
        self.settle()
        return found

    def ask(self, user=USER):
        """What a caller gets who waits for as long as it takes."""
        found = self.begin(user)
        while isinstance(found, Flight):
            if found.done():
                return found.results[0]
            at = self.machine.next_at() if self.machine.next_at() is not None else self.coming[0][0]
            self.passes(max(at - self.now, 0.0) + self.latency)
        return found

    def got(self, user=USER):
        """The token that a caller gets."""
        found = self.ask(user)
        assert isinstance(found, Token), found
        return found

    def named(self, call):
        return list(self.calls[call].rejected_token_ids)
