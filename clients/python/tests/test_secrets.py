"""What is printed shows no secret, and no number in full."""

import copy
import json

import pytest

from token_broker_client import ConfigurationError, Token, TokenBrokerError, TokenRejected, User
from token_broker_client._channel import broken, parse
from token_broker_client._files import Materials, call_metadata
from token_broker_client._options import check
from token_broker_client._proto import token_broker_pb2 as pb
from token_broker_client._rules import Life
from token_broker_client._token import Answer, user_named
from token_broker_client._unauthorized import Attempts, is_unauthorized
from world import USER

HIDDEN = "the-hidden-one"


def held(token_id="its-id"):
    return Token(USER, Answer(HIDDEN, token_id, "read", 9.0), Life(109.0, 105.0), lambda: 100.0)


def test_a_token_shows_its_id_alone():
    token = held()
    assert (token.access_token, token.authorization, token.scope) == (HIDDEN, f"Bearer {HIDDEN}", "read")
    assert (token.merchant_id, token.number, token.user, token.expires_in) == ("m", "+447871239999", USER, 9.0)
    for shown in (str(token), repr(token), f"{token}", f"{[token]}"):
        assert HIDDEN not in shown and "+4478" not in shown and "…9999" in shown and "its-id" in shown
    assert not hasattr(token, "__dict__"), "which things print that show an object's insides"


def test_a_user_shows_the_end_of_its_number():
    assert str(USER) == repr(USER) == f"{USER}" == "User(merchant_id='m', number='…9999')"
    assert repr(User("m", "+12")) == "User(merchant_id='m', number='…')"
    shown = ("%s" % USER, json.dumps([USER], default=str))  # noqa: UP031 - it is what would take a tuple apart
    assert not any("7871" in text for text in shown) and not hasattr(USER, "__dict__") and not isinstance(USER, tuple)


def test_a_user_is_one_by_its_names():
    same, other = User("m", "+447871239999"), User("m2", "+447871239999")
    assert same == USER != other and hash(same) == hash(USER) and len({same, USER, other}) == 2
    assert (USER.merchant_id, USER.number) == ("m", "+447871239999") and USER != ("m", "+447871239999")
    assert copy.deepcopy(USER) == USER


def test_a_user_has_two_names_that_are_text():
    with pytest.raises(TypeError, match="number: is of type int: give a str"):
        user_named("m", 447871239999)
    assert user_named("m", "+447871239999") == USER


def test_an_answer_is_read_and_shows_nothing():
    raw = pb.GetTokenResponse(token=pb.Token(access_token=HIDDEN, token_id="id", scope="read"))
    raw.token.expires_in.seconds, raw.token.expires_in.nanos = 5, 500_000_000
    answer = parse(raw.SerializeToString())
    assert (answer.access_token, answer.token_id, answer.scope, answer.expires_in, answer.renew_in) == (
        HIDDEN,
        "id",
        "read",
        5.5,
        None,
    )
    none = parse(b"")
    assert isinstance(none, TokenBrokerError) and (none.code, none.is_permanent) == ("INTERNAL", True)
    assert HIDDEN not in repr(answer) and HIDDEN not in repr(broken(ValueError(HIDDEN)))
    assert HIDDEN not in repr(Materials(key=HIDDEN.encode()))


def test_a_token_file_that_no_header_takes_is_not_shown(tmp_path):
    file = tmp_path / "token"
    options = check("https://a:1", ca_file="ca", token_file=file)
    for content in (f"{HIDDEN}\n{HIDDEN}", f"{HIDDEN}\x00", f"{HIDDEN} é", "", " \n"):
        file.write_text(content)
        with pytest.raises(ConfigurationError) as refused:
            call_metadata(options)
        assert HIDDEN not in str(refused.value) and str(file) in str(refused.value)
    file.write_text(f"{HIDDEN}\n")
    assert call_metadata(options) == (("authorization", f"Bearer {HIDDEN}"),)
    file.unlink()
    with pytest.raises(ConfigurationError, match=r"token_file: .* can't be read: No such file"):
        call_metadata(options)


class Response:
    def __init__(self, **named):
        self.__dict__.update(named)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Response(status_code=401), True),
        (Response(status=401), True),
        (Response(code=401), True),
        (Response(response=Response(status_code=401)), True),
        (Response(status_code=200), False),
        (Response(status=403), False),
        (Response(status="401"), False),
        (ValueError("401"), False),
        (None, False),
    ],
)
def test_a_401_is_known_by_its_status(answer, expected):
    assert is_unauthorized(answer) is expected


def test_a_request_is_repeated_once():
    attempts = Attempts(is_unauthorized)
    refused = Response(status=401)
    assert not attempts.are_refused(Response(status=200)) and attempts.are_refused(refused)
    attempts.note(held())
    assert attempts.other(held("another")).token_id == "another"
    with pytest.raises(TokenRejected, match="the vault's API answers 401 to a new token as well") as rejected:
        attempts.note(held("another"))
    assert HIDDEN not in str(rejected.value) and rejected.value.is_permanent
    with pytest.raises(TokenRejected, match="that the vault gives again"):
        attempts.other(held())
