"""Whose token, the token itself, and an answer that brings one.

Must never print a secret, nor a number in full.
"""

from __future__ import annotations

from typing import Callable

from . import _rules


class User:
    """A user of the vault, at one merchant. Not a tuple: what formats or writes one down would show the number in full."""

    __slots__ = ("_merchant_id", "_number")

    def __init__(self, merchant_id: str, number: str) -> None:
        self._merchant_id = merchant_id
        self._number = number

    @property
    def merchant_id(self) -> str:
        """The merchant."""
        return self._merchant_id

    @property
    def number(self) -> str:
        """The user's number: not for logs."""
        return self._number

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, User):
            return NotImplemented
        return (self._merchant_id, self._number) == (other._merchant_id, other._number)

    def __hash__(self) -> int:
        return hash((self._merchant_id, self._number))

    def __repr__(self) -> str:
        return f"User(merchant_id={self.merchant_id!r}, number={_rules.masked(self.number)!r})"


def user_named(merchant_id: str, number: str) -> User:
    """The user of these names; whether there is one, the broker says."""
    for option, value in (("merchant_id", merchant_id), ("number", number)):
        if not isinstance(value, str):
            raise TypeError(f"{option}: is of type {type(value).__name__}: give a str")
    return User(merchant_id, number)


class Answer:
    """What a broker's answer brings: all that is read of it."""

    __slots__ = ("access_token", "expires_in", "renew_in", "scope", "token_id")

    def __init__(
        self, access_token: str, token_id: str, scope: str = "", expires_in: float | None = None, renew_in: float | None = None
    ) -> None:
        self.access_token = access_token
        self.token_id = token_id
        self.scope = scope
        self.expires_in = expires_in
        self.renew_in = renew_in

    def __repr__(self) -> str:
        return f"Answer(token_id={self.token_id!r})"


class Token:
    """A token of one user, as a source hands it out. Printing it shows no secret."""

    __slots__ = ("_answer", "_clock", "_life", "_user")

    def __init__(self, user: User, answer: Answer, life: _rules.Life, clock: Callable[[], float]) -> None:
        self._user = user
        self._answer = answer
        self._life = life
        self._clock = clock

    @property
    def access_token(self) -> str:
        """The secret itself: not for logs."""
        return self._answer.access_token

    @property
    def authorization(self) -> str:
        """The value of the header `Authorization`: `Bearer` and the secret."""
        return f"Bearer {self._answer.access_token}"

    @property
    def token_id(self) -> str:
        """Its name, which is safe to log and the same everywhere."""
        return self._answer.token_id

    @property
    def scope(self) -> str:
        """What it allows, as the vault says; may be empty."""
        return self._answer.scope

    @property
    def expires_in(self) -> float:
        """Seconds that it still lives, by the monotonic clock; 0 once it has ended."""
        return max(self._life.ends - self._clock(), 0.0)

    @property
    def merchant_id(self) -> str:
        """The merchant."""
        return self._user.merchant_id

    @property
    def number(self) -> str:
        """The user's number: not for logs."""
        return self._user.number

    @property
    def user(self) -> User:
        """Whose it is; printing it masks the number."""
        return self._user

    @property
    def life(self) -> _rules.Life:
        """When it is renewed and when it ends, by the source's clock."""
        return self._life

    def __repr__(self) -> str:
        return f"Token({self._user!r}, token_id={self.token_id!r}, expires_in={self.expires_in:.1f})"
