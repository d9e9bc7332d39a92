"""What a call's end is read as, and how it is shown."""

import copy
import pickle
from datetime import datetime, timezone

import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from token_broker_client import ConfigurationError, Reason, TokenBrokerError, User, WarmUpFailed
from token_broker_client._errors import DETAILS, from_status
from token_broker_client._proto import token_broker_pb2 as pb


def trailers(*messages):
    status = status_pb2.Status(code=14)
    for message in messages:
        status.details.add().Pack(message)
    return [("x", "y"), (DETAILS, status.SerializeToString())]


def info(reason, domain="token-broker", **metadata):
    return details.ErrorInfo(reason=reason, domain=domain, metadata=metadata)


def wait(seconds, nanos=0):
    retry = details.RetryInfo()
    retry.retry_delay.seconds, retry.retry_delay.nanos = seconds, nanos
    return retry


def test_all_that_a_broker_says_is_read():
    bad = details.BadRequest()
    bad.field_violations.add(field="number", description="write it in E.164")
    said = info("CREDENTIALS_REJECTED", held_until="2027-01-15T08:00:00Z", vault_error="272")
    request = details.RequestInfo(request_id="abc")
    error = from_status("FAILED_PRECONDITION", "the password is wrong", trailers(said, wait(1, 500_000_000), request, bad))
    assert (error.code, error.reason, error.retry_after, error.request_id) == (
        "FAILED_PRECONDITION",
        Reason.CREDENTIALS_REJECTED,
        1.5,
        "abc",
    )
    assert error.held_until == datetime(2027, 1, 15, 8, tzinfo=timezone.utc)
    assert error.field_violations == [("number", "write it in E.164")] and error.metadata["vault_error"] == "272"
    assert error.is_permanent and error.message == "the password is wrong"
    assert str(error) == (
        "CREDENTIALS_REJECTED: the password is wrong; held_until: 2027-01-15T08:00:00Z; vault_error: 272; try again in 2 s; "
        "request id: abc"
    )
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error)), error.again()):  # noqa: S301
        assert str(other) == str(error) and other.field_violations == error.field_violations and other is not error


def test_the_word_of_others_is_no_reason():
    error = from_status("UNAVAILABLE", "busy", trailers(info("VAULT_THROTTLED", "example.org"), wait(3)))
    assert (error.reason, error.metadata, error.retry_after, error.is_temporary) == (None, {}, 3.0, True)
    both = from_status("UNAVAILABLE", "busy", trailers(info("OTHER", "example.org"), info("VAULT_THROTTLED")))
    assert both.reason == "VAULT_THROTTLED"


def test_what_is_missing_or_broken_says_nothing():
    broken = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    status = status_pb2.Status(details=[broken])
    status.details.add().Pack(wait(-1))
    status.details.add().Pack(details.RetryInfo())
    for said in ([], [(DETAILS, b"\xff\xff\xff")], [(DETAILS, status.SerializeToString())]):
        error = from_status("UNAVAILABLE", "away", said)
        assert (error.reason, error.retry_after, error.request_id, error.held_until) == (None, None, None, None)
        assert str(error) == "UNAVAILABLE: away"


@pytest.mark.parametrize("held_until", ["", "soon", "2027-01-15", "2027-13-45T00:00:00Z"])
def test_a_time_that_is_none_is_not_told(held_until):
    assert TokenBrokerError("no", metadata={"held_until": held_until}).held_until is None


def test_reasons_are_the_contracts():
    names = [name for name in pb.ErrorReason.keys() if name != "ERROR_REASON_UNSPECIFIED"]
    assert [reason.value for reason in Reason] == names
    temporary = [reason.value for reason in Reason if TokenBrokerError("", reason=reason.value, code="INTERNAL").is_temporary]
    assert temporary == [
        "IDENTITY_UNAVAILABLE",
        "VAULT_THROTTLED",
        "VAULT_UNAVAILABLE",
        "VAULT_RESPONSE_INVALID",
        "SIGN_IN_TOO_SOON",
        "DEADLINE_EXCEEDED",
        "BROKER_OVERLOADED",
        "BROKER_SHUTTING_DOWN",
    ]


def test_of_a_newer_brokers_reason_the_code_decides():
    assert TokenBrokerError("", reason="OF_TOMORROW", code="UNAVAILABLE").is_temporary
    assert TokenBrokerError("", reason="OF_TOMORROW", code="INTERNAL").is_permanent
    # The reason is known: the code says nothing against it (metadata that is too large).
    assert TokenBrokerError("", reason="INVALID_REQUEST", code="RESOURCE_EXHAUSTED").is_permanent
    assert [code for code in ("CANCELLED", "ABORTED", "UNKNOWN") if TokenBrokerError("", code=code).is_temporary] == [
        "CANCELLED",
        "ABORTED",
    ]


def test_shown_on_one_line_whatever_answered():
    error = TokenBrokerError("a\nb\x1b[31m", code="UNKNOWN", request_id="x\ny", metadata={"k\n": "v\r"})
    assert "\n" not in str(error) + repr(error) + error.message and "\x1b" not in str(error) and "\r" not in str(error)


def test_a_warm_up_that_failed_tells_the_first_and_has_them_all():
    failures = [
        (User("m", "+447871239999"), TokenBrokerError("no", code="NOT_FOUND")),
        (User("m", "+1"), ConfigurationError("x")),
    ]
    error = WarmUpFailed.of(failures)
    assert (str(error), error.code, error.failures) == ("NOT_FOUND: no (and 1 other users have no token)", "NOT_FOUND", failures)
    assert "44787" not in repr(error.failures)
