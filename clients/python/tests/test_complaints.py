"""The state machine: tokens that the vault's API answered with 401."""

from token_broker_client import _rules
from token_broker_client._errors import TokenBrokerError
from world import USER, World, refusal, token


def test_a_complaint_goes_out_once_and_late_ones_do_nothing():
    world = World()
    dead = world.got()
    world.holds = True
    assert world.machine.rejected(dead) and world.machine.cached(USER) is None
    assert not any(world.machine.rejected(dead) for _ in range(10))
    world.settle()
    assert (len(world.calls), world.named(1)) == (2, ["token-0"])
    world.release()
    assert world.got().token_id == "token-1"
    assert not world.machine.rejected(dead), "it was replaced"
    assert (len(world.calls), world.machine.counts().complaints) == (2, 1)


def test_each_call_names_all_that_are_dead_while_they_would_have_lived():
    world = World()
    for dead in range(3):
        found = world.got()
        assert found.token_id == f"token-{dead}"
        world.machine.rejected(found)
    assert world.got().token_id == "token-3"
    assert world.named(3) == ["token-2", "token-1", "token-0"]
    for _ in range(200):
        world.passes(1.0)
        world.got()
    assert world.named(-1) == [], "they would have ended"


def test_the_newest_sixteen_are_named():
    world = World()
    for _ in range(20):
        world.machine.rejected(world.got())
    world.got()
    assert world.named(-1) == [f"token-{dead}" for dead in range(19, 3, -1)]
    assert len(world.named(-1)) == _rules.COMPLAINTS_MAX


def test_a_token_that_the_vault_insists_on_is_believed():
    world = World().says(*[token("insisted", 100.0, 80.0) for _ in range(10)])
    for _ in range(50):
        world.machine.rejected(world.got())
    assert (len(world.calls), world.named(1)) == (2, ["insisted"])
    for _ in range(90):
        world.passes(1.0)
        world.got()
    assert len(world.calls) > 2 and world.named(2) == [], "it is named no more"


def test_an_answer_that_was_under_way_does_not_bring_the_dead_token_back():
    world = World().says(token("dead", 100.0, 80.0))
    dead = world.got()
    world.holds = True
    world.passes(80.0)
    assert len(world.calls) == 2 and world.named(1) == []
    assert world.machine.rejected(dead)
    world.says(token("dead", 100.0), token("next", 100.0))
    world.release()
    assert (world.got().token_id, len(world.calls), world.named(2)) == ("next", 3, ["dead"])


def test_no_flight_makes_a_third_call():
    world = World().says(token("dead", 100.0, 80.0))
    dead = world.got()
    world.holds = True
    world.passes(80.0)
    world.machine.rejected(dead)
    # Both answer with a token that the call could not name, as far as they knew.
    world.says(token("dead", 100.0), token("dead", 100.0))
    world.release()
    assert (world.got().token_id, len(world.calls)) == ("dead", 3)


def test_a_complaint_waits_for_a_pushback_too():
    world = World(jitter=0.0).says(token("dead", 100.0, 80.0), refusal(wait=15.0))
    dead = world.got()
    world.passes(80.0)
    assert len(world.calls) == 2 and world.machine.rejected(dead)
    assert world.ask().retry_after == 15.0 and len(world.calls) == 2
    world.passes(15.1)
    assert world.got().token_id == "token-0" and world.named(2) == ["dead"]


def test_a_complaint_does_not_wait_for_a_pause_made_up_beside_a_good_token():
    world = World(jitter=1.0).says(token("dead", 100.0, 80.0), *[refusal() for _ in range(5)])
    dead = world.got()
    world.passes(95.9)
    assert len(world.calls) == 6 and isinstance(world.machine.ask(USER), type(dead))
    world.machine.rejected(dead)
    assert world.got().token_id == "token-0" and len(world.calls) == 7


def test_a_complaint_does_not_wait_for_the_rest():
    world = World()
    world.machine.rejected(world.got())
    world.settle()
    assert len(world.calls) == 2


def test_an_id_that_the_broker_would_refuse_is_not_named_and_causes_no_loop():
    for unfit in ("", "x" * 65):
        world = World().says(*[token(unfit, 100.0, 80.0) for _ in range(100)])
        news = sum(world.machine.rejected(world.got()) for _ in range(50))
        assert news == 1 and len(world.calls) == 2 and world.named(1) == []


def test_a_token_of_another_source_is_no_news():
    other = World().got()
    world = World()
    assert not world.machine.rejected(other)
    world.says(token("its own", 100.0))
    world.got()
    assert not world.machine.rejected(other) and world.machine.counts().complaints == 0


def test_complaints_that_the_broker_answers_with_failures_do_not_hammer_it():
    world = World(jitter=1.0)
    world.machine.rejected(world.got())
    world.says(*[refusal() for _ in range(1_000)])
    for _ in range(100):
        assert isinstance(world.ask(), TokenBrokerError)
        world.passes(0.1)
    assert len(world.calls) <= 11
