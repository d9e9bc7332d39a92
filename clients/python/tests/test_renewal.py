"""The state machine: whose token is renewed when, and what a failure does."""

from token_broker_client import _rules
from token_broker_client._errors import TokenBrokerError
from token_broker_client._token import Token, User
from world import USER, Flight, World, refusal, token


def test_a_hit_is_from_memory_and_one_call_serves_all_who_wait():
    world = World()
    world.holds = True
    flights = {id(world.begin()) for _ in range(5)}
    assert len(flights) == 1 and len(world.calls) == 1 and world.machine.cached(USER) is None
    world.release()
    assert world.machine.cached(USER) is world.got()
    assert (world.got().token_id, world.got().access_token, len(world.calls)) == ("token-0", "secret of token-0", 1)


def test_a_busy_user_costs_one_call_a_renewal_and_never_waits():
    world = World(latency=0.5)
    world.got()
    for _ in range(1_000):
        world.passes(1.0)
        assert isinstance(world.machine.ask(USER), Token)
    # Each token is renewed 80 s after its call began.
    assert len(world.calls) == 1 + 1_000 // 80


def test_who_is_not_asked_for_is_not_renewed_until_somebody_asks():
    world = World().says(token("first", 3_600.0, 700.0))
    world.got()
    world.passes(1_000.0)
    assert len(world.calls) == 1 and world.machine.next_at() is None
    assert world.machine.cached(USER).token_id == "first"
    world.settle()
    assert len(world.calls) == 2 and world.machine.cached(USER).token_id == "token-0"


def test_within_ten_minutes_of_an_ask_it_is_renewed():
    world = World().says(token("first", 3_600.0, 600.0))
    world.got()
    world.passes(600.0)
    assert len(world.calls) == 2


def test_a_failed_renewal_leaves_the_token_and_backs_off():
    world = World(jitter=1.0)
    world.got()
    world.says(*[refusal() for _ in range(3)])
    world.passes(79.9)
    for after, calls in ((0.2, 2), (0.8, 2), (0.2, 3), (1.8, 3), (0.2, 4)):
        world.passes(after)
        assert (len(world.calls), world.got().token_id) == (calls, "token-0"), after
    world.passes(4.0)
    assert (len(world.calls), world.got().token_id) == (5, "token-1")
    assert world.machine.counts().failures == 3


def test_an_ended_token_is_never_handed_out():
    world = World()
    world.got()
    world.says(*[refusal() for _ in range(1_000)])
    world.passes(99.0)
    assert world.machine.cached(USER).token_id == "token-0"
    world.passes(1.0)
    assert world.machine.cached(USER) is None
    assert isinstance(world.machine.ask(USER), TokenBrokerError)


def test_the_pushback_is_heeded_and_said_to_whoever_asks_meanwhile():
    world = World(jitter=0.0).says(refusal(wait=7.0))
    assert world.ask().retry_after == 7.0
    world.passes(6.9)
    assert isinstance(world.ask(), TokenBrokerError) and len(world.calls) == 1
    world.passes(0.2)
    assert world.got().token_id == "token-0"


def test_a_refusal_is_not_repeated_for_each_caller():
    world = World().says(refusal("NOT_FOUND", reason="USER_NOT_CONFIGURED"))
    for _ in range(10):
        assert world.ask().reason == "USER_NOT_CONFIGURED"
        world.passes(0.9)
    assert len(world.calls) == 1
    world.passes(1.1)
    assert world.got() and len(world.calls) == 2


def test_without_a_token_failures_back_off_up_to_two_seconds():
    world = World(jitter=1.0).says(*[refusal() for _ in range(1_000)])
    for _ in range(1_000):
        world.ask()
        world.passes(0.1)
    # 0.2, 0.4, 0.8, 1.6, and then one each 2 s.
    assert 50 <= len(world.calls) <= 54


def test_tokens_that_are_short_or_have_ended_cause_no_loop():
    for seconds in (0.0, 0.5, -3.0, None):
        world = World(latency=0.01)
        world.says(*[token("short", seconds) for _ in range(100_000)])
        for _ in range(1_000):
            world.machine.ask(USER)
            world.passes(0.1)
        # Those that have ended are failures, whose pauses are 0.1 s to 1 s here; short ones have a rest behind them.
        assert len(world.calls) <= 110, seconds


def test_a_call_that_took_longer_than_its_token_lives_is_repeated_once():
    world = World(latency=2.0).says(token("short", 1.5), token("short", 1.5), token("short", 1.5))
    error = world.ask()
    assert "has ended" in str(error) and error.is_temporary and len(world.calls) == 2


def test_a_pause_made_up_beside_a_good_token_ends_with_it():
    world = World(jitter=1.0).says(token("first", 100.0, 98.0), refusal(), refusal(), refusal())
    world.got()
    world.passes(99.5)
    assert len(world.calls) == 3
    world.passes(0.5)
    # At its end it is asked at once, though the back-off was 2 s.
    assert len(world.calls) == 4


def test_after_an_answer_there_is_a_rest():
    world = World().says(token("blink", 0.2))
    world.got()
    world.passes(0.3)
    flight = world.begin()
    assert isinstance(flight, Flight) and len(world.calls) == 1
    world.passes(0.6)
    assert len(world.calls) == 1
    world.passes(0.2)
    assert len(world.calls) == 2 and flight.done()


def test_a_caller_has_its_time_and_the_call_goes_on():
    world = World()
    world.holds = True
    asking = world.machine.asking(USER, 2.0)
    _flight, seconds = asking.send(None)
    assert seconds == 2.0
    world.settle()
    try:
        asking.send(None)
    except TokenBrokerError as error:
        assert (error.code, error.is_temporary, str(error)) == (
            "DEADLINE_EXCEEDED",
            True,
            "DEADLINE_EXCEEDED: no token within 2 s",
        )
    world.release()
    assert world.machine.cached(USER).token_id == "token-0"


def test_a_caller_that_is_woken_late_gets_no_token_that_has_ended():
    world = World()
    asking = world.machine.asking(USER, 1_000.0)
    flight, _ = asking.send(None)
    world.settle()
    world.now += 200.0
    found = asking.send(flight.results[0])
    assert isinstance(found[0], Flight) and found[0] is not flight and found[1] == 800.0


def test_each_caller_has_an_error_of_its_own():
    world = World().says(refusal(wait=60.0))
    world.ask()
    raised = []
    for _ in range(2):
        try:
            world.machine.asking(USER, 1.0).send(None)
        except TokenBrokerError as error:
            raised.append(error)
    assert raised[0] is not raised[1] and str(raised[0]) == str(raised[1]) and raised[0].retry_after == 60.0


def test_users_are_bounded_and_who_is_being_called_for_is_not_forgotten():
    world = World()
    world.holds = True
    held = [User("held", str(number)) for number in range(9)]
    for user in held:
        world.begin(user)
    world.holds = False
    for number in range(_rules.USERS_MAX - 9):
        world.now += 0.001
        world.begin(User("m", str(number)))
    assert world.machine.counts().users == _rules.USERS_MAX
    world.begin(User("m", "one more"))
    assert world.machine.counts().users == _rules.USERS_MAX + 1 - _rules.FORGOTTEN
    assert world.machine.cached(User("m", "0")) is None
    assert world.machine.cached(User("m", str(_rules.FORGOTTEN))) is not None
    world.release()
    assert all(world.machine.cached(user) is not None for user in held)


def test_what_is_left_of_earlier_times_takes_no_memory():
    world = World()
    for _ in range(10_000):
        world.machine.rejected(world.got())
    assert len(world.machine._entries) < 100


def test_closing_tells_who_waits_and_who_comes():
    world = World()
    world.holds = True
    flight = world.begin()
    world.machine.close(TokenBrokerError("closed"))
    assert flight.results[0].message == "closed" and world.ask().message == "closed"
    world.release()
    assert world.machine.cached(USER) is None and world.machine.next_at() is None


def test_whoever_drives_is_told_only_when_the_next_time_moves_forward():
    world = World()
    world.got()
    told = world.earlier
    for _ in range(100):
        world.got()
    assert world.earlier == told
    world.machine.rejected(world.got())
    assert world.earlier == told + 1
