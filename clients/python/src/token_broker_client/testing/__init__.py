"""A real broker with a vault that fails on demand, both of them programs of this machine, for test suites.

    with Broker() as broker, TokenSource(broker.endpoint) as source:
        user = broker.new_user()
        token = source.token(user.merchant_id, user.number)
        broker.control("revoke", {"all": True})

For pytest: `pytest_plugins = ["token_broker_client.testing.pytest_plugin"]`.

Must never be imported by the package itself, need pytest, or leave a program behind: the two end once their standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterable
from typing import IO, Any, cast

from .._token import User

__all__ = ["BROKER", "SANDBOX", "Broker"]

# The variables that name the two programs, and what they are called where the variables are not set.
SANDBOX = ("TOKEN_BROKER_SANDBOX_PROGRAM", "token-broker-sandbox")
BROKER = ("TOKEN_BROKER_PROGRAM", "token-broker")
# The sandbox itself gives its broker 30 s and says so: this is for a program that is no sandbox.
START_SECONDS = 60.0
# It ends at once. Killed, it could not end its broker.
END_SECONDS = 10.0
# The control answers from memory.
CONTROL_SECONDS = 10.0


class Broker:
    """A broker of its own, from here to `close()` or the end of `with`; also over once this process is gone, however it ends.

    `arguments` are the sandbox's own, such as `("--lifetime", "20s")` or `("--broker-log", "broker.log")`.
    """

    def __init__(self, arguments: Iterable[str] = ()) -> None:
        self._program, broker = _program(*SANDBOX), _program(*BROKER)
        command = [self._program, "--listen", "127.0.0.1:0", "--broker", broker, *arguments]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8", errors="replace")
        try:
            told = self._told()
        except BaseException:
            self.close()
            raise
        self.endpoint: str = told["endpoint"]
        """Where the broker is, for a `TokenSource`: in plaintext."""
        self.vault_url: str = told["vault_url"]
        """The vault, also for calls of its API: `GET {vault_url}/v1/customer` is 200 with a live token, else 401."""
        self.merchant_id: str = told["merchant_id"]
        """Of all users."""
        self._numbers: deque[str] = deque(told["numbers"])
        self._known = len(self._numbers)

    def new_user(self) -> User:
        """A user whom no test has had so far."""
        try:
            return User(self.merchant_id, self._numbers.popleft())
        except IndexError:
            raise RuntimeError(f"all {self._known} users have been handed out: start another Broker") from None

    def control(self, path: str, body: object = None) -> Any:
        """Tells the vault to fail, to revoke, or how to be: `body` to its `/_sandbox/` + `path`, such as

        `control("faults", [{"kind": "reply", "status": 503, "body": "busy", "number": number}])`,
        `control("settings", {"lifetime": "2s"})`, `control("revoke", {"access_token": token.access_token})`.

        Without a body it asks: `control("stats")`. What the vault answers is returned.
        """
        data = None if body is None else json.dumps(body).encode()
        return self._ask(path, data, "GET" if data is None else "POST")

    def drop_faults(self) -> None:
        """Ends what the vault was told to do wrong and has not done yet, everybody's, and an outage."""
        self._ask("faults", None, "DELETE")

    def close(self) -> None:
        """Ends both programs."""
        process = self._process
        for end in (_stream(process.stdin).close, process.terminate):
            with contextlib.suppress(OSError):  # it is gone already
                end()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _stream(process.stdout).close()
        _stream(process.stderr).close()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Broker(endpoint={self.endpoint!r}, vault_url={self.vault_url!r})"

    def _told(self) -> dict[str, Any]:
        late = threading.Timer(START_SECONDS, self._process.kill)
        late.daemon = True
        late.start()
        try:
            line = _stream(self._process.stdout).readline()
        finally:
            late.cancel()
        if not line.endswith("\n"):
            self._process.wait()
            raise RuntimeError(f"{self._program} did not start: {self._said()}")
        try:
            return cast("dict[str, Any]", json.loads(line))
        except ValueError:
            variable, name = SANDBOX
            raise RuntimeError(f"{self._program} says {line[:100]!r}: have {variable} name {name}") from None

    def _said(self) -> str:
        """Why it has ended."""
        said = _stream(self._process.stderr).read().strip()
        return said or f"it ended with {self._process.returncode}, without a word"

    def _ask(self, path: str, data: bytes | None, method: str) -> Any:
        headers = {} if data is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.vault_url}/_sandbox/{path}", data, headers, method=method)  # noqa: S310
        try:
            # Never by a proxy of the environment: it is on this machine.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=CONTROL_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                raise ValueError(f"the sandbox refuses {method} {path}: {refused.read().decode(errors='replace')}") from None
        except OSError as why:
            if _stream(self._process.stdin).closed:
                raise RuntimeError("this Broker is closed") from None
            ended = self._process.poll() is not None
            raise RuntimeError(f"the sandbox {f'has ended: {self._said()}' if ended else f'does not answer: {why}'}") from why


def _program(variable: str, name: str) -> str:
    """Where a program is."""
    named = os.environ.get(variable)
    found = shutil.which(named or name)
    if found is None:
        where = f"{variable} names {named}, which is no program" if named else f"there is no {name} in PATH, and no {variable}"
        raise RuntimeError(f"{where}: have {variable} name the {name} of the release's archive, token-broker-VERSION-ARCH.tar.gz")
    return found


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None, "all three are pipes"  # noqa: S101
    return stream
