from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    INVALID_REQUEST: _ClassVar[ErrorReason]
    CALLER_UNAUTHENTICATED: _ClassVar[ErrorReason]
    IDENTITY_UNAVAILABLE: _ClassVar[ErrorReason]
    CALLER_NOT_ALLOWED: _ClassVar[ErrorReason]
    USER_NOT_CONFIGURED: _ClassVar[ErrorReason]
    CREDENTIALS_REJECTED: _ClassVar[ErrorReason]
    SECOND_FACTOR_REQUIRED: _ClassVar[ErrorReason]
    VAULT_REQUEST_REJECTED: _ClassVar[ErrorReason]
    VAULT_THROTTLED: _ClassVar[ErrorReason]
    VAULT_UNAVAILABLE: _ClassVar[ErrorReason]
    VAULT_RESPONSE_INVALID: _ClassVar[ErrorReason]
    SIGN_IN_TOO_SOON: _ClassVar[ErrorReason]
    MIN_REMAINING_UNATTAINABLE: _ClassVar[ErrorReason]
    DEADLINE_EXCEEDED: _ClassVar[ErrorReason]
    BROKER_OVERLOADED: _ClassVar[ErrorReason]
    BROKER_SHUTTING_DOWN: _ClassVar[ErrorReason]
    INTERNAL: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
INVALID_REQUEST: ErrorReason
CALLER_UNAUTHENTICATED: ErrorReason
IDENTITY_UNAVAILABLE: ErrorReason
CALLER_NOT_ALLOWED: ErrorReason
USER_NOT_CONFIGURED: ErrorReason
CREDENTIALS_REJECTED: ErrorReason
SECOND_FACTOR_REQUIRED: ErrorReason
VAULT_REQUEST_REJECTED: ErrorReason
VAULT_THROTTLED: ErrorReason
VAULT_UNAVAILABLE: ErrorReason
VAULT_RESPONSE_INVALID: ErrorReason
SIGN_IN_TOO_SOON: ErrorReason
MIN_REMAINING_UNATTAINABLE: ErrorReason
DEADLINE_EXCEEDED: ErrorReason
BROKER_OVERLOADED: ErrorReason
BROKER_SHUTTING_DOWN: ErrorReason
INTERNAL: ErrorReason

class GetTokenRequest(_message.Message):
    __slots__ = ("merchant_id", "number", "min_remaining", "rejected_token_ids")
    MERCHANT_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MIN_REMAINING_FIELD_NUMBER: _ClassVar[int]
    REJECTED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    merchant_id: str
    number: str
    min_remaining: _duration_pb2.Duration
    rejected_token_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, merchant_id: _Optional[str] = ..., number: _Optional[str] = ..., min_remaining: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., rejected_token_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class GetTokenResponse(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: Token
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("access_token", "token_type", "expires_at", "scope", "token_id", "expires_in", "renew_in")
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TYPE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_FIELD_NUMBER: _ClassVar[int]
    RENEW_IN_FIELD_NUMBER: _ClassVar[int]
    access_token: str
    token_type: str
    expires_at: _timestamp_pb2.Timestamp
    scope: str
    token_id: str
    expires_in: _duration_pb2.Duration
    renew_in: _duration_pb2.Duration
    def __init__(self, access_token: _Optional[str] = ..., token_type: _Optional[str] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., scope: _Optional[str] = ..., token_id: _Optional[str] = ..., expires_in: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., renew_in: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
