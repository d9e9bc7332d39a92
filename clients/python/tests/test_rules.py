"""The pure rules."""

import math

import pytest

from token_broker_client import _rules
from token_broker_client._rules import WITH_TOKEN, WITHOUT_TOKEN, life, masked, pause, plain, wait_in_words


def test_the_numbers_are_those_of_every_caller():
    assert (_rules.LIFETIME_MAX, _rules.REST, _rules.REFUSED, _rules.PUSHBACK_MAX) == (604_800, 1, 10, 600)
    assert (_rules.SHARE_LEAST, _rules.SHARE_SPREAD, _rules.PUSHBACK_SPREAD, _rules.JITTER_LEAST) == (0.75, 0.1, 0.1, 0.05)
    assert (WITHOUT_TOKEN, WITH_TOKEN) == ((0.2, 2.0), (1.0, 30.0))
    assert (_rules.IDLE_AFTER, _rules.COMPLAINTS_MAX, _rules.CALLS_MAX, _rules.USERS_MAX) == (600, 16, 2, 10_000)


@pytest.mark.parametrize(
    ("expires_in", "renew_in", "jitter", "expected"),
    [
        (1_000.0, None, 0.0, (1_000, 750)),
        (1_000.0, None, 1.0, (1_000, 850)),
        (1_000.0, None, 99.0, (1_000, 850)),
        (-1.0, None, 1.0, (0, 0)),
        (None, None, 1.0, (0, 0)),
        (1e18, None, 1.0, (604_800, 604_800 * 0.85)),
        (1_000.0, 900.0, 0.0, (1_000, 900)),
        (1_000.0, 900.0, 1.0, (1_000, 900)),
        (1_000.0, 2_000.0, 1.0, (1_000, 1_000)),
        (1_000.0, -1.0, 0.0, (1_000, 750)),
        (1_000.0, 0.0, 0.0, (1_000, 0)),
    ],
)
def test_a_life_is_counted_from_when_the_call_began(expires_in, renew_in, jitter, expected):
    counted = life(50.0, expires_in, renew_in, jitter)
    assert (counted.ends - 50, counted.renew - 50) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("is_permanent", "wait", "before", "has_token", "jitter", "expected"),
    [
        (False, None, 0, False, 1.0, 0.2),
        (False, None, 1, False, 1.0, 0.4),
        (False, None, 30, False, 1.0, 2.0),
        (False, None, 10**9, True, 1.0, 30.0),
        (False, None, 0, False, 0.0, 0.01),
        (False, None, 0, True, 1.0, 1.0),
        (True, None, 0, False, 0.0, 10.0),
        (False, 7.0, 0, False, 0.0, 7.0),
        (False, 7.0, 0, True, 1.0, 7.7),
        (False, 0.0, 0, False, 0.0, 0.01),
        (False, 86_400.0, 0, True, 0.0, 600.0),
        (True, 3.0, 0, False, 0.0, 10.0),
    ],
)
def test_a_pause_is_the_brokers_or_doubles_and_is_never_none(is_permanent, wait, before, has_token, jitter, expected):
    found = pause(is_permanent=is_permanent, retry_after=wait, before=before, has_token=has_token, jitter=jitter)
    assert found == pytest.approx(expected)
    assert math.isfinite(found) and found > 0


def test_people_see_the_end_of_a_number_and_no_short_one():
    assert [masked(number) for number in ("+447871239999", "+1234", "1234", "")] == ["…9999", "…1234", "…", "…"]


def test_text_of_others_stays_on_its_line():
    assert plain("a\nb\x1b[2J é") == "a\\u000ab\\u001b[2J é"
    assert [wait_in_words(wait) for wait in (0, 0.0001, 0.2, 1, 1.2)] == ["at once", "in 1 ms", "in 200 ms", "in 1 s", "in 2 s"]
