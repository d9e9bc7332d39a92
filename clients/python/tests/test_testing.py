"""What the package has for the suites of those who use it: without the two programs as far as that goes, and with them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from token_broker_client import Reason, TokenBrokerError, TokenSource
from token_broker_client.testing import BROKER, SANDBOX, Broker

pytest_plugins = ["token_broker_client.testing.pytest_plugin"]

UNSET = [variable for variable, _ in (SANDBOX, BROKER) if not os.environ.get(variable)]
with_the_programs = pytest.mark.skipif(bool(UNSET), reason=f"without the real programs: {' and '.join(UNSET)} not set")
# In a process of its own, which is killed then.
A_SUITE = """
from token_broker_client.testing import Broker
broker = Broker()
print(broker.endpoint, broker.vault_url, flush=True)
input()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Has this script in the place of the sandbox."""

    def stand_in(script):
        program = tmp_path / "sandbox"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o700)
        monkeypatch.setenv(SANDBOX[0], str(program))
        monkeypatch.setenv(BROKER[0], "/bin/sh")

    return stand_in


def address(url):
    parts = urllib.parse.urlsplit(url)
    return parts.hostname, parts.port


def await_end(*urls):
    """Returns once nothing listens there any more: a connection that is still taken is over when the program is."""
    late = time.monotonic() + 10
    for url in urls:
        with contextlib.suppress(ConnectionRefusedError):
            while time.monotonic() < late:
                with contextlib.suppress(ConnectionResetError), socket.create_connection(address(url), 10) as connection:
                    while connection.recv(1024):
                        pass
            pytest.fail(f"{url} is still there")


def test_programs_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(SANDBOX[0], raising=False)
    with pytest.raises(
        RuntimeError, match=r"no token-broker-sandbox in PATH, and no TOKEN_BROKER_SANDBOX_PROGRAM: have .*tar.gz"
    ):
        Broker()
    monkeypatch.setenv(SANDBOX[0], "/bin/sh")
    monkeypatch.setenv(BROKER[0], str(tmp_path / "gone"))
    with pytest.raises(RuntimeError, match=r"TOKEN_BROKER_PROGRAM names .*/gone, which is no program: have .* token-broker of"):
        Broker()


def test_what_does_not_start_says_why(stand_in):
    for script, why in (
        ("echo 'the port is taken' >&2; exit 1", "did not start: the port is taken"),
        ("exit 3", "did not start: it ended with 3, without a word"),
        ("echo hello; cat", "says 'hello.*have TOKEN_BROKER_SANDBOX_PROGRAM name"),
    ):
        stand_in(script)
        with pytest.raises(RuntimeError, match=why):
            Broker()


def test_users_are_new_until_there_are_none(stand_in):
    told = {"endpoint": "http://127.0.0.1:1", "vault_url": "http://127.0.0.1:1", "merchant_id": "m", "numbers": ["+1", "+2"]}
    stand_in(f"echo '{json.dumps(told)}'; cat")
    with Broker() as broker:
        users = [broker.new_user(), broker.new_user()]
        assert [(user.merchant_id, user.number) for user in users] == [("m", "+1"), ("m", "+2")]
        with pytest.raises(RuntimeError, match="all 2 users have been handed out: start another Broker"):
            broker.new_user()
        with pytest.raises(RuntimeError, match=r"the sandbox does not answer: .*refused"):
            broker.control("stats")


def test_its_arguments_are_the_sandboxes(stand_in, tmp_path):
    stand_in(f'echo "$@" > {tmp_path}/arguments; exit 1')
    with pytest.raises(RuntimeError, match="without a word"):
        Broker(("--lifetime", "20s"))
    assert (tmp_path / "arguments").read_text() == "--listen 127.0.0.1:0 --broker /bin/sh --lifetime 20s\n"


@with_the_programs
def test_a_token_is_live_until_it_is_revoked(token_broker, token_broker_user):
    def customer(token):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.addheaders = [("Authorization", token.authorization)]
        with opener.open(f"{token_broker.vault_url}/v1/customer", timeout=10) as answer:
            return answer.status, token.token_id

    user = token_broker_user
    with TokenSource(token_broker.endpoint) as source:
        first = source.token(user.merchant_id, user.number)
        assert source.with_token(user.merchant_id, user.number, customer) == (200, first.token_id)
        assert token_broker.control("revoke", {"access_token": first.access_token}) == {"revoked": 1}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            customer(first)
        status, token_id = source.with_token(user.merchant_id, user.number, customer)
        assert status == 200 and token_id != first.token_id


@with_the_programs
def test_the_vault_fails_for_one_user(token_broker, token_broker_user):
    user = token_broker_user
    refusal = {"kind": "refusal", "error_id": 11, "error": "WRONG_LOGIN_OR_PASSWORD_EXCEPTION", "message": "no"}
    # Once more than it is asked for: the test below looks.
    assert token_broker.control("faults", [{**refusal, "number": user.number, "times": 2}]) == {"unused_faults": 2}
    with TokenSource(token_broker.endpoint) as source:
        with pytest.raises(TokenBrokerError) as refused:
            source.token(user.merchant_id, user.number)
        assert refused.value.reason == Reason.CREDENTIALS_REJECTED
        other = token_broker.new_user()
        assert source.token(other.merchant_id, other.number).token_id


@with_the_programs
def test_faults_of_the_test_before_are_over(token_broker, token_broker_user):
    assert token_broker.control("stats")["unused_faults"] == 0


@with_the_programs
def test_what_the_sandbox_refuses_is_told(token_broker):
    with pytest.raises(ValueError, match=r"the sandbox refuses POST faults: .*a JSON list of faults is wanted"):
        token_broker.control("faults", {})


@with_the_programs
def test_the_arguments_reach_the_sandbox():
    with Broker(["--lifetime", "20s"]) as broker, TokenSource(broker.endpoint) as source:
        user = broker.new_user()
        assert 15 < source.token(user.merchant_id, user.number).expires_in <= 20


@with_the_programs
def test_closing_ends_both_programs():
    broker = Broker()
    broker.close()
    await_end(broker.endpoint, broker.vault_url)
    broker.close()
    with pytest.raises(RuntimeError, match="this Broker is closed"):
        broker.control("stats")


@with_the_programs
def test_a_sandbox_that_has_ended_is_told():
    with Broker() as broker:
        broker._process.terminate()
        broker._process.wait(10)
        with pytest.raises(RuntimeError, match="the sandbox has ended: it ended with 0, without a word"):
            broker.control("stats")


@with_the_programs
def test_a_suite_that_is_killed_leaves_nothing():
    source = str(Path(__file__).parents[1] / "src")
    pipe, environment = subprocess.PIPE, {**os.environ, "PYTHONPATH": source}
    suite = subprocess.Popen([sys.executable, "-c", A_SUITE], env=environment, stdin=pipe, stdout=pipe, text=True)
    with suite:
        urls = suite.stdout.readline().split()
        assert len(urls) == 2
        suite.send_signal(signal.SIGKILL)
    await_end(*urls)
