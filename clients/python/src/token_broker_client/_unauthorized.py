"""The rule for a 401 of the vault's API: complain of the token, ask for the next, and repeat the request once.

Must never have a request sent a third time, nor a token sent again that was complained of.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Any, Callable

from ._errors import TokenRejected
from ._token import Token

UNAUTHORIZED = 401
# Where HTTP clients keep a response's status: requests, httpx; urllib, http.client, aiohttp; urllib's HTTPError.
STATUS_NAMES = ("status_code", "status", "code")
# What closes one: of requests, httpx, urllib and http.client; and of httpx, aiohttp and others where it may be awaited.
CLOSING_NAMES = ("close", "release")
CLOSING_NAMES_AWAITED = ("aclose", "release", "close")


def is_unauthorized(answer: Any) -> bool:
    """Whether this response, or the exception that a client raised for one, is a 401."""
    status = _status(answer)
    if status is None:
        status = _status(_of(answer, "response"))
    return status == UNAUTHORIZED


def _status(answer: Any) -> int | None:
    found = (_of(answer, name) for name in STATUS_NAMES)
    return next((status for status in found if isinstance(status, int)), None)


def _of(answer: Any, name: str) -> Any:
    # Others' attributes may do anything: of urllib's HTTPError without a body they raise KeyError, in older versions.
    try:
        return getattr(answer, name, None)
    except Exception:
        return None


def _closing(answer: Any, names: tuple[str, ...]) -> Any:
    # An exception's own response is what holds the connection.
    response = _of(answer, "response")
    closed = answer if response is None else response
    found = (_of(closed, name) for name in names)
    return next((close for close in found if callable(close)), lambda: None)


def discard(answer: Any) -> None:
    """Closes a response that nobody gets, which may hold a connection; that it can't be closed is no fault."""
    with contextlib.suppress(Exception):
        _closing(answer, CLOSING_NAMES)()


async def discard_awaited(answer: Any) -> None:
    """The same of a client for asyncio, or for threads."""
    with contextlib.suppress(Exception):
        closed = _closing(answer, CLOSING_NAMES_AWAITED)()
        if inspect.isawaitable(closed):
            await closed


class Attempts:
    """The requests of one use of a token."""

    def __init__(self, is_refusal: Callable[[Any], bool]) -> None:
        self._is_refusal = is_refusal
        self._dead: Token | None = None

    def are_refused(self, answer: Any) -> bool:
        """Whether this is a 401."""
        return self._is_refusal(answer)

    def note(self, token: Token) -> None:
        """Takes it that this token was refused: it is to be complained of, and the request repeated with the next.

        Raises TokenRejected where it was repeated already.
        """
        if self._dead is not None:
            raise _rejected("a new token as well", token)
        self._dead = token

    def other(self, token: Token) -> Token:
        """The token, if it is another than the one complained of."""
        if self._dead is not None and self._dead.token_id == token.token_id:
            raise _rejected("a token that the vault gives again", token)
        return token


def _rejected(which: str, token: Token) -> TokenRejected:
    remedy = "see whether the user may do this, and whether the broker signs in at the vault whose API this is"
    return TokenRejected(f"the vault's API answers 401 to {which}: {token!r}: {remedy}")
