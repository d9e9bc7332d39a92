"""Pure: when a token ends and is renewed, how long to pause after a failure, and how a number is shown.

Must never have a token live longer than the broker said, nor name a time that lets a call follow the last one at once; nor read a
clock or draw by chance: both are given. All times are seconds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

# No token lives longer: the contract's.
LIFETIME_MAX = 7 * 24 * 3_600.0
# Of its life so much passes before a token is renewed, where the broker does not say when …
SHARE_LEAST = 0.75
# … and up to so much more, by chance, so that callers who began together do not come at once.
SHARE_SPREAD = 0.1
# After an answer, the next call for the same user comes no sooner, unless the token was complained of: whatever lives a broker
# gives its tokens, it is not asked in a loop.
REST = 1.0
# After an answer that no repeat helps against: somebody may have mended its cause, which nobody tells.
REFUSED = 10.0
# A wait that the broker names is kept, but it is asked again after this long: whoever mended the cause may have ended the wait.
PUSHBACK_MAX = 10 * 60.0
# Such a part of it is added by chance.
PUSHBACK_SPREAD = 0.1
# Least part of a pause that jitter leaves: none at all is no pause.
JITTER_LEAST = 0.05
# A user who was asked for within this time has the token renewed ahead of its end. Whoever asks more rarely has it renewed behind
# the answer, or waits.
IDLE_AFTER = 10 * 60.0
# Most complaints that are remembered of a user, and most ids of one call: the contract's.
COMPLAINTS_MAX = 16
# Longest id that a call may name: the contract's.
TOKEN_ID_MAX = 64
# Most calls of one flight: the second, where the answer was complained of while it came, or took longer than its token lives.
CALLS_MAX = 2
# Most users of one source. Beyond that those are forgotten who were not asked for for longest …
USERS_MAX = 10_000
# … so many at once, since to find them takes a look at all.
FORGOTTEN = USERS_MAX // 16
# Digits of a number that people are shown, at its end.
SHOWN = 4


class Backoff(NamedTuple):
    """A pause that doubles with each failure in a row, from `first` to `longest`."""

    first: float
    longest: float

    def pause(self, failures: int, jitter: float) -> float:
        """After so many failures before this one; `jitter` is 0 to 1."""
        # Past 2**63 no pause is shorter than its longest, and no float overflows before.
        widest = min(self.first * 2.0 ** min(failures, 63), self.longest)
        return widest * min(max(jitter, JITTER_LEAST), 1.0)


# After a failure while there is no token: soon, since somebody waits; and no later than this, since a broker that is back is
# back.
WITHOUT_TOKEN = Backoff(0.2, 2.0)
# After a failed renewal: the token at hand is good, and all callers lost the same broker.
WITH_TOKEN = Backoff(1.0, 30.0)


class Life(NamedTuple):
    """The two times of a token's life that count."""

    # From here on it is not handed out.
    ends: float
    # From here on it is renewed: not later than its end.
    renew: float


def _unit(jitter: float) -> float:
    return min(max(jitter, 0.0), 1.0)


def life(sent: float, expires_in: float | None, renew_in: float | None, jitter: float) -> Life:
    """The life of a token that a call brought which began at `sent`: counted from there, since nobody knows how long the
    answer was on its way. What is missing or negative counts as not said.
    """
    lives = min(expires_in, LIFETIME_MAX) if expires_in is not None and expires_in > 0 else 0.0
    if renew_in is not None and renew_in >= 0:
        renew = min(renew_in, lives)
    else:
        renew = lives * (SHARE_LEAST + SHARE_SPREAD * _unit(jitter))
    return Life(sent + lives, sent + renew)


def pause(*, is_permanent: bool, retry_after: float | None, before: int, has_token: bool, jitter: float) -> float:
    """How long nothing is asked for a user after this failure, the first of `before` + 1 in a row."""
    backoff = WITH_TOKEN if has_token else WITHOUT_TOKEN
    ours = REFUSED if is_permanent else backoff.pause(before, jitter)
    named = 0.0
    if retry_after is not None:
        named = min(retry_after, PUSHBACK_MAX) * (1.0 + PUSHBACK_SPREAD * _unit(jitter))
    return max(named, ours)


def masked(number: str) -> str:
    """A number as people may see it: its last digits, and none of a short one."""
    return "…" + (number[-SHOWN:] if len(number) > SHOWN else "")


def plain(text: str) -> str:
    """Text of others on one line: what would end it, steer a terminal or hide is shown by its number."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def wait_in_words(seconds: float) -> str:
    """Whole seconds, but milliseconds below one; rounded up, so that no wait looks like none."""
    if seconds <= 0:
        return "at once"
    return f"in {math.ceil(seconds * 1_000)} ms" if seconds < 1 else f"in {math.ceil(seconds)} s"
