"""The rule for a 401 of the vault's API: complain of the token, ask for the next, and repeat the request once.

Must never have a request sent a third time, nor a token sent again that was complained of.
"""

from __future__ import annotations

from typing import Any, Callable

from ._errors import TokenRejected
from ._token import Token

UNAUTHORIZED = 401
# Where HTTP clients keep a response's status: requests, httpx; urllib, http.client, aiohttp; urllib's HTTPError.
STATUS_NAMES = ("status_code", "status", "code")


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


class Attempts:
    """The requests of one use of a token."""

    def __init__(self, is_refusal: Callable[[Any], bool]) -> None:
        self._is_refusal = is_refusal
        self._dead: Token | None = None

    def must_repeat(self, token: Token, answer: Any) -> bool:
        """Whether the token is to be complained of and the request repeated with the next."""
        if not self._is_refusal(answer):
            return False
        if self._dead is not None:
            raise _rejected("a new token as well", token)
        self._dead = token
        return True

    def other(self, token: Token) -> Token:
        """The token, if it is another than the one complained of."""
        if self._dead is not None and self._dead.token_id == token.token_id:
            raise _rejected("a token that the vault gives again", token)
        return token


def _rejected(which: str, token: Token) -> TokenRejected:
    remedy = "see whether the user may do this, and whether the broker signs in at the vault whose API this is"
    return TokenRejected(f"the vault's API answers 401 to {which}: {token!r}: {remedy}")
