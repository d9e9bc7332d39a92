"""Why there is no token, for programs and in words.

Must never hold a token, nor tell less than the broker said; nor believe an ErrorInfo that is another's.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from . import _rules

if TYPE_CHECKING:
    from ._token import User

# `google.rpc.ErrorInfo.domain` of every error of the broker.
DOMAIN = "token-broker"
# The trailer in which gRPC's servers send a google.rpc.Status.
DETAILS = "grpc-status-details-bin"

_Error = TypeVar("_Error", bound="TokenBrokerError")


class Reason(str, enum.Enum):
    """The reasons of the contract's `ErrorReason`. `TokenBrokerError.reason` is a plain string that is equal to one of these, or,
    of a newer broker, to none.
    """

    INVALID_REQUEST = "INVALID_REQUEST"
    CALLER_UNAUTHENTICATED = "CALLER_UNAUTHENTICATED"
    IDENTITY_UNAVAILABLE = "IDENTITY_UNAVAILABLE"
    CALLER_NOT_ALLOWED = "CALLER_NOT_ALLOWED"
    USER_NOT_CONFIGURED = "USER_NOT_CONFIGURED"
    CREDENTIALS_REJECTED = "CREDENTIALS_REJECTED"
    SECOND_FACTOR_REQUIRED = "SECOND_FACTOR_REQUIRED"
    VAULT_REQUEST_REJECTED = "VAULT_REQUEST_REJECTED"
    VAULT_THROTTLED = "VAULT_THROTTLED"
    VAULT_UNAVAILABLE = "VAULT_UNAVAILABLE"
    VAULT_RESPONSE_INVALID = "VAULT_RESPONSE_INVALID"
    SIGN_IN_TOO_SOON = "SIGN_IN_TOO_SOON"
    MIN_REMAINING_UNATTAINABLE = "MIN_REMAINING_UNATTAINABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    BROKER_OVERLOADED = "BROKER_OVERLOADED"
    BROKER_SHUTTING_DOWN = "BROKER_SHUTTING_DOWN"
    INTERNAL = "INTERNAL"


# Reasons that pass without anybody's help.
_TEMPORARY_REASONS = frozenset(
    reason.value
    for reason in (
        Reason.IDENTITY_UNAVAILABLE,
        Reason.VAULT_THROTTLED,
        Reason.VAULT_UNAVAILABLE,
        Reason.VAULT_RESPONSE_INVALID,
        Reason.SIGN_IN_TOO_SOON,
        Reason.DEADLINE_EXCEEDED,
        Reason.BROKER_OVERLOADED,
        Reason.BROKER_SHUTTING_DOWN,
    )
)
_KNOWN_REASONS = frozenset(reason.value for reason in Reason)
# The same of codes, where no reason that is known says more.
_TEMPORARY_CODES = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED"})


class FieldViolation(NamedTuple):
    """A field of the request at fault, and what is wrong with it."""

    field: str
    description: str


class TokenBrokerError(Exception):
    """Why there is no token."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        reason: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        field_violations: Iterable[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        #: The text alone, on one line.
        self.message = _rules.plain(message)
        #: The name of the gRPC code, such as `"UNAVAILABLE"`; `None` where no call was made.
        self.code = code
        #: The broker's reason; `None` where no broker answered.
        self.reason = reason
        #: Seconds to wait before another try, where the broker says so.
        self.retry_after = retry_after
        #: What the broker calls this call in its log.
        self.request_id = request_id
        #: The fields of the request at fault.
        self.field_violations = list(field_violations)
        #: What the broker says beside the reason.
        self.metadata = dict(metadata or {})

    @property
    def held_until(self) -> datetime | None:
        """Until when the broker does not try again by itself, where it holds the user's sign-ins back."""
        try:
            parsed = datetime.strptime(self.metadata.get("held_until", ""), "%Y-%m-%dT%H:%M:%SZ")
        except ValueError:
            return None
        return parsed.replace(tzinfo=timezone.utc)

    @property
    def is_temporary(self) -> bool:
        """Whether a later call may fare better without anybody's help."""
        if self.reason in _KNOWN_REASONS:
            return self.reason in _TEMPORARY_REASONS
        return self.code in _TEMPORARY_CODES

    @property
    def is_permanent(self) -> bool:
        """Whether no later call fares better until somebody has mended something: here, at the broker or at the vault."""
        return not self.is_temporary

    def __str__(self) -> str:
        head = self.reason or self.code
        parts = [f"{head}: {self.message}" if head else self.message]
        # The text has the fields at fault already.
        parts += [f"{key}: {value}" for key, value in sorted(self.metadata.items()) if value]
        if self.retry_after is not None:
            parts.append(f"try again {_rules.wait_in_words(self.retry_after)}")
        if self.request_id:
            parts.append(f"request id: {self.request_id}")
        return _rules.plain("; ".join(parts))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def again(self: _Error) -> _Error:
        """The same for another caller: a raised exception gathers the frames that it went through."""
        return copy.copy(self)


class ConfigurationError(TokenBrokerError, ValueError):
    """What a source was told can't be used: an option, or a file that one names."""


class TokenRejected(TokenBrokerError):
    """The vault's API answers 401 to a new token as well, or there is no other: it is not the token's fault."""


class WarmUpFailed(TokenBrokerError):
    """Some users have no token yet: everything about the first, and the others in `failures`."""

    def __init__(self, message: str, failures: Iterable[tuple[User, TokenBrokerError]] = (), **said: Any) -> None:
        super().__init__(message, **said)
        #: All users without a token, and why.
        self.failures = list(failures)

    @classmethod
    def of(cls, failures: list[tuple[User, TokenBrokerError]]) -> WarmUpFailed:
        """Of some, at least one."""
        first = failures[0][1]
        others = f" (and {len(failures) - 1} other users have no token)" if len(failures) > 1 else ""
        return cls(
            first.message + others,
            failures,
            code=first.code,
            reason=first.reason,
            retry_after=first.retry_after,
            request_id=first.request_id,
            field_violations=first.field_violations,
            metadata=first.metadata,
        )


def from_status(code: str, message: str, trailers: Iterable[tuple[str, str | bytes]]) -> TokenBrokerError:
    """Of what a call ended with; details that are missing, broken or another's say nothing."""
    status = status_pb2.Status()
    packed = next((value for key, value in trailers if key == DETAILS), b"")
    try:
        status.ParseFromString(packed if isinstance(packed, bytes) else packed.encode())
    except DecodeError:
        status.Clear()
    said: dict[str, Any] = {}
    for detail in status.details:
        try:
            _read(detail, said)
        except DecodeError:
            continue
    return TokenBrokerError(message, code=code, **said)


def _read(detail: Any, said: dict[str, Any]) -> None:
    """Adds what one detail says; of each kind the first counts."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    request, bad = error_details_pb2.RequestInfo(), error_details_pb2.BadRequest()
    if detail.Unpack(info):
        if info.domain == DOMAIN:
            said.setdefault("reason", info.reason)
            said.setdefault("metadata", dict(info.metadata))
    elif detail.Unpack(retry):
        wait = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        if retry.HasField("retry_delay") and wait >= 0:
            said.setdefault("retry_after", wait)
    elif detail.Unpack(request):
        said.setdefault("request_id", request.request_id or None)
    elif detail.Unpack(bad):
        violations = [FieldViolation(one.field, one.description) for one in bad.field_violations]
        said.setdefault("field_violations", violations)
