"""The users that a source knows, their tokens, and what keeps these good: which call is to be made when, and for whom.

A state machine that does nothing itself. Whoever drives it makes the calls that `due` names as time comes, and brings what
they ended with to `answered`; `on_earlier` tells it that the next time has moved forward. All is done under one lock, or on
one loop.

Must never have two calls under way for one user, tie one to whoever asked for it, hand out a token that has ended, displace a
good one by anything but its successor or a complaint, or ask in a loop, whatever a broker answers.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Generator
from typing import Any, Callable, NamedTuple, Protocol, Union

from . import _rules
from ._errors import TokenBrokerError
from ._token import Answer, Token, User

# What a flight brings.
Outcome = Union[Token, TokenBrokerError]
# How often a caller begins again whose token had ended by the time that it was woken.
TRIES = 3


class Flight(Protocol):
    """What those wait for who want a call's result: a future of threads or of asyncio."""

    def set_result(self, result: Any, /) -> None:
        """Gives it to all of them."""

    def done(self) -> bool:
        """Whether it was given, or nobody can wait any more."""


class Complaint:
    """A token that the vault's API answered with 401."""

    __slots__ = ("ends", "named", "token_id")

    def __init__(self, token_id: str, ends: float) -> None:
        self.token_id = token_id
        # When it would have ended.
        self.ends = ends
        # Whether calls name it: until the broker has answered with it all the same. A name that the broker would refuse must not
        # spoil the user's later calls.
        self.named = 0 < len(token_id) <= _rules.TOKEN_ID_MAX


class Stopped(NamedTuple):
    """No call before this, and why."""

    until: float
    error: TokenBrokerError


class Entry(NamedTuple):
    """When to see to a slot; what counts is a slot's own entry, any other is left of earlier."""

    at: float
    serial: int
    slot: Slot


class Slot:
    """All about one user."""

    __slots__ = ("asked", "calls", "complaints", "entry", "failures", "flight", "held", "rested", "stopped", "under_way", "user")

    def __init__(self, user: User, asked: float) -> None:
        self.user = user
        self.held: Token | None = None
        # When somebody asked last.
        self.asked = asked
        # What is waited for, from the moment a call is decided on until its result is there; its call; and how many it had.
        self.flight: Flight | None = None
        self.under_way: Call | None = None
        self.calls = 0
        # When a call that was decided on goes out, or else when the token is to be renewed.
        self.entry: Entry | None = None
        self.complaints: deque[Complaint] = deque()
        self.stopped: Stopped | None = None
        # Failures in a row.
        self.failures = 0
        # After an answer, no call before this.
        self.rested = -math.inf

    def good(self, now: float) -> Token | None:
        """The token, if it has not ended."""
        held = self.held
        return held if held is not None and now < held.life.ends else None

    def is_stopped(self, now: float) -> bool:
        return self.stopped is not None and now < self.stopped.until

    def forget_ended(self, now: float) -> None:
        """Drops complaints of tokens that would have ended."""
        self.complaints = deque(one for one in self.complaints if one.ends > now)

    def named(self, now: float) -> tuple[str, ...]:
        """The ids that a call names, the newest first."""
        self.forget_ended(now)
        return tuple(one.token_id for one in reversed(self.complaints) if one.named)

    def is_stale(self, token_id: str, named: tuple[str, ...]) -> bool:
        """Whether this answer was complained of before its call could name it. Where it was named, the vault insists on the
        token: it is believed from now on, or each call would cost a sign-in.
        """
        for one in self.complaints:
            if one.named and one.token_id == token_id:
                one.named = token_id not in named
                return one.named
        return False


class Call(NamedTuple):
    """A call that is to be made now."""

    slot: Slot
    user: User
    rejected_token_ids: tuple[str, ...]
    # When it began.
    sent: float


class Counts(NamedTuple):
    """What a source has done so far."""

    #: Users that it knows.
    users: int
    #: Calls to the broker.
    calls: int
    #: Those, with their repeats, that brought no token.
    failures: int
    #: Tokens that were complained of.
    complaints: int


def _is_our_own_pause(error: TokenBrokerError) -> bool:
    """Whether the pause after it is the back-off alone: neither did the broker name a wait, nor is no repeat of use."""
    return error.retry_after is None and not error.is_permanent


class Machine:
    """All users of a source."""

    def __init__(
        self,
        clock: Callable[[], float],
        draw: Callable[[], float],
        new_flight: Callable[[], Flight],
        on_earlier: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._draw = draw
        self._new_flight = new_flight
        self._on_earlier = on_earlier
        self._slots: dict[User, Slot] = {}
        self._entries: list[Entry] = []
        self._serials = itertools.count()
        self._closed: TokenBrokerError | None = None
        self._calls = self._failures = self._complaints = 0

    # What callers want.

    def cached(self, user: User) -> Token | None:
        """This user's token, if it is good. One that is due, and that nobody renews, is renewed behind it."""
        slot, now = self._slots.get(user), self._clock()
        token = slot.good(now) if slot is not None else None
        if slot is None or token is None:
            return None
        slot.asked = now
        if token.life.renew <= now and slot.entry is None and slot.flight is None and not slot.is_stopped(now):
            self._begin(slot, now)
        return token

    def ask(self, user: User) -> Outcome | Flight:
        """This user's token, why there is none, or what to wait for."""
        if self._closed is not None:
            return self._closed
        token = self.cached(user)
        if token is not None:
            return token
        now = self._clock()
        slot = self._slots.get(user)
        if slot is None:
            if len(self._slots) >= _rules.USERS_MAX:
                self._make_room()
            slot = self._slots[user] = Slot(user, now)
        slot.asked = now
        if slot.flight is not None:
            return slot.flight
        if slot.stopped is not None and now < slot.stopped.until:
            return slot.stopped.error
        return self._begin(slot, now)

    def asking(self, user: User, timeout: float) -> Generator[tuple[Flight, float], Outcome | None, Token]:
        """The whole of a caller's wait: yields what to wait for and for how many seconds, and is sent what that brought, or
        `None` where it was not there in time. Its value is the token.
        """
        by = self._clock() + timeout
        for _ in range(TRIES):
            found: Any = self.ask(user)
            if not isinstance(found, (Token, TokenBrokerError)):
                found = yield found, max(by - self._clock(), 0.0)
            if found is None:
                raise TokenBrokerError(f"no token within {timeout:g} s", code="DEADLINE_EXCEEDED")
            if isinstance(found, TokenBrokerError):
                raise found.again() from None
            # It was good when the call ended; whoever waits may not have run since.
            token: Token = found
            if self._clock() < token.life.ends:
                return token
        raise _ended()

    def rejected(self, token: Token) -> bool:
        """Takes a complaint; whether it is news. Only the token that is held can be complained of: another has gone already."""
        slot, now = self._slots.get(token.user), self._clock()
        if slot is None or slot.held is None or slot.held.token_id != token.token_id:
            return False
        slot.forget_ended(now)
        if any(one.token_id == token.token_id for one in slot.complaints):
            return False
        if len(slot.complaints) == _rules.COMPLAINTS_MAX:
            slot.complaints.popleft()
        slot.complaints.append(Complaint(token.token_id, slot.held.life.ends))
        self._complaints += 1
        slot.held = None
        slot.rested = now
        if slot.stopped is not None and _is_our_own_pause(slot.stopped.error):
            # Made up when there was a good token: now somebody waits.
            slot.stopped = None
        if slot.under_way is None and not slot.is_stopped(now):
            self._begin(slot, now)
        return True

    def counts(self) -> Counts:
        return Counts(len(self._slots), self._calls, self._failures, self._complaints)

    # What drives it.

    def next_at(self) -> float | None:
        """When `due` is to be asked next."""
        while self._entries and self._entries[0] is not self._entries[0].slot.entry:
            heapq.heappop(self._entries)
        return self._entries[0].at if self._entries else None

    def due(self) -> list[Call]:
        """The calls that are to be made now."""
        calls: list[Call] = []
        now = self._clock()
        while True:
            at = self.next_at()
            if at is None or at > now:
                return calls
            slot = heapq.heappop(self._entries).slot
            slot.entry = None
            if slot.flight is None:
                # A renewal: only if somebody asked lately.
                if now - slot.asked > _rules.IDLE_AFTER:
                    continue
                slot.flight, slot.calls = self._new_flight(), 0
            slot.calls += 1
            self._calls += 1
            slot.under_way = Call(slot, slot.user, slot.named(now), now)
            calls.append(slot.under_way)

    def answered(self, call: Call, answer: Answer | TokenBrokerError) -> None:
        """Notes what a call brought."""
        slot, now = call.slot, self._clock()
        if slot.under_way is not call:
            return
        slot.under_way = None
        outcome: Outcome
        if isinstance(answer, TokenBrokerError):
            outcome = answer
        else:
            life = _rules.life(call.sent, answer.expires_in, answer.renew_in, self._draw())
            has_ended = life.ends <= now
            is_stale = slot.is_stale(answer.token_id, call.rejected_token_ids)
            took_long = now >= call.sent + _rules.REST
            if slot.calls < _rules.CALLS_MAX and (is_stale or (has_ended and took_long)):
                self._schedule(slot, now)
                return
            outcome = _ended() if has_ended else Token(slot.user, answer, life, self._clock)
        flight, slot.flight = slot.flight, None
        if isinstance(outcome, Token):
            slot.held, slot.failures, slot.stopped, slot.rested = outcome, 0, None, now + _rules.REST
            self._schedule(slot, max(outcome.life.renew, slot.rested))
        else:
            self._failed(slot, outcome, now)
        if flight is not None:
            _land(flight, outcome)

    def close(self, why: TokenBrokerError) -> None:
        """Forgets everybody; whoever waits is told why."""
        self._closed = why
        slots = list(self._slots.values())
        self._slots.clear()
        self._entries.clear()
        for slot in slots:
            slot.under_way = slot.entry = slot.held = None
            if slot.flight is not None:
                _land(slot.flight, why)

    def _begin(self, slot: Slot, now: float) -> Flight:
        """Decides on a call, now or after the rest; takes the place of a renewal that is to come."""
        if slot.flight is None:
            slot.flight, slot.calls = self._new_flight(), 0
        self._schedule(slot, max(now, slot.rested))
        return slot.flight

    def _schedule(self, slot: Slot, at: float) -> None:
        before = self.next_at()
        slot.entry = Entry(at, next(self._serials), slot)
        if len(self._entries) > 2 * len(self._slots) + _rules.COMPLAINTS_MAX:
            # Most are left of earlier.
            entries = (one.entry for one in self._slots.values() if one is not slot)
            self._entries = [entry for entry in entries if entry is not None]
            heapq.heapify(self._entries)
        heapq.heappush(self._entries, slot.entry)
        if before is None or at < before:
            self._on_earlier()

    def _failed(self, slot: Slot, error: TokenBrokerError, now: float) -> None:
        self._failures += 1
        held = slot.good(now)
        until = now + _rules.pause(
            is_permanent=error.is_permanent,
            retry_after=error.retry_after,
            before=slot.failures,
            has_token=held is not None,
            jitter=self._draw(),
        )
        if held is not None and _is_our_own_pause(error):
            # Once the token has ended somebody waits for the next.
            until = min(until, held.life.ends)
        slot.failures += 1
        slot.stopped = Stopped(until, error)
        if held is not None:
            self._schedule(slot, until)
        # Without a token the next who asks begins anew.

    def _make_room(self) -> None:
        """Forgets who was not asked for for longest, but nobody whose call is under way."""
        idle = (slot for slot in self._slots.values() if slot.flight is None)
        for slot in heapq.nsmallest(_rules.FORGOTTEN, idle, key=lambda slot: slot.asked):
            slot.entry = None
            del self._slots[slot.user]


def _land(flight: Flight, outcome: Outcome) -> None:
    # A loop that ends cancels what waits on it.
    if not flight.done():
        flight.set_result(outcome)


def _ended() -> TokenBrokerError:
    why = "the broker's answer holds a token that has ended: see that the vault's tokens live longer than a call takes"
    return TokenBrokerError(why, code="UNAVAILABLE")
