"""Which channels a call goes over, and when they are made anew and closed."""

import pytest

from token_broker_client import ConfigurationError
from token_broker_client._channel import AVOIDED_FOR, FILES_EVERY, RENEWED_AFTER, Link, Links
from token_broker_client._files import Materials
from token_broker_client._options import check
from world import refusal

PLAIN, TLS = check("http://a:1"), check("https://a:1", ca_file="ca")
OLD, NEW = Materials(b"old"), Materials(b"new")


class Channels:
    """Made and closed, by name."""

    def __init__(self, options):
        self.made, self.closed = [], []
        self.links = Links(options, self._make, self.closed.append)

    def _make(self, materials):
        self.made.append(f"{len(self.made)}")
        return [self.made[-1]]


def test_one_channel_while_the_files_stay_as_they_are():
    channels = Channels(TLS)
    assert channels.links.is_due(0.0)
    channels.links.take(OLD, 0.0)
    for second in range(1, 9):
        assert not channels.links.is_due(second * FILES_EVERY - 0.1) and channels.links.is_due(second * FILES_EVERY)
        channels.links.take(OLD, second * FILES_EVERY)
    assert (channels.made, channels.closed) == (["0"], [])


def test_the_former_is_closed_once_its_calls_are_over():
    channels = Channels(TLS)
    channels.links.take(OLD, 0.0)
    call = channels.links.begin()
    channels.links.take(NEW, 1.0)
    assert (channels.made, channels.closed) == (["0", "1"], [])
    assert channels.links.begin().channels == ["1"]
    channels.links.end(call, None, 2.0)
    assert channels.closed == ["0"]


def test_files_that_can_not_be_used_leave_what_there_is():
    channels = Channels(TLS)
    unfit = ConfigurationError("no")
    channels.links.take(unfit, 0.0)
    for _ in range(3):
        with pytest.raises(ConfigurationError):
            channels.links.begin()
    assert not channels.links.is_due(FILES_EVERY - 0.1) and channels.links.is_due(FILES_EVERY), "once a second all the same"
    channels.links.take(OLD, FILES_EVERY)
    channels.links.take(unfit, 2 * FILES_EVERY)
    assert channels.links.begin().channels == ["0"] and channels.closed == []


def test_a_channel_that_reaches_nobody_is_made_anew_of_what_the_files_held():
    channels = Channels(TLS)
    channels.links.take(OLD, 0.0)
    channels.links.end(channels.links.begin(), refusal(), RENEWED_AFTER)
    channels.links.take(ConfigurationError("no"), RENEWED_AFTER)
    assert (channels.made, channels.closed, channels.links.materials) == (["0", "1"], ["0"], OLD)
    assert not channels.links.is_due(RENEWED_AFTER + FILES_EVERY - 0.1)


def test_a_channel_that_reaches_nobody_is_made_anew_but_not_at_once():
    channels = Channels(PLAIN)
    channels.links.take(Materials(), 0.0)
    call = channels.links.begin()
    channels.links.end(call, refusal(), RENEWED_AFTER - 0.1)
    assert not channels.links.is_due(1e9)
    for error, is_due in (
        (refusal(reason="VAULT_UNAVAILABLE"), False),
        (refusal("DEADLINE_EXCEEDED"), False),
        (None, False),
        (refusal(), True),
    ):
        channels.links.end(channels.links.begin(), error, RENEWED_AFTER)
        assert channels.links.is_due(RENEWED_AFTER) is is_due
    channels.links.take(Materials(), RENEWED_AFTER)
    assert (channels.made, channels.closed) == (["0", "1"], ["0"]) and not channels.links.is_due(1e9)


def test_endpoints_are_asked_in_turn_and_those_last_that_were_not_reached():
    link = Link(OLD, ["a", "b", "c"], 0.0)
    assert [link.order(0.0) for _ in range(3)] == [[1, 2, 0], [2, 0, 1], [0, 1, 2]]
    link.note(1, refusal(), 10.0)
    assert [link.order(11.0)[-1] for _ in range(3)] == [1, 1, 1]
    assert [link.order(10.0 + AVOIDED_FOR)[0] for _ in range(3)] == [1, 2, 0]
    link.note(1, refusal(), 100.0)
    link.note(1, refusal("NOT_FOUND"), 100.0)
    assert [link.order(100.0)[0] for _ in range(3)] == [1, 2, 0]


def test_closing_closes_all_of_them():
    channels = Channels(TLS)
    channels.links.take(OLD, 0.0)
    channels.links.begin()
    channels.links.take(NEW, 1.0)
    channels.links.close()
    assert channels.closed == ["0", "1"] and channels.links.materials is None
