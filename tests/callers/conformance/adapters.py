"""One language's client behind its adapter: a program that takes commands as lines of JSON and answers each when it is done.

Must never wait for an answer without end, nor take an answer that names no command.
"""

import contextlib
import itertools
import json
import subprocess
import threading
from concurrent.futures import Future

# A client's own time ends at 30 s; whoever takes longer has hung.
ANSWER_SECONDS = 45


class Failed(Exception):
    """What a client did that it must not."""


class Refused(Failed):
    """A command's error, where a good answer was wanted."""

    def __init__(self, command, error):
        super().__init__(f"{command}: {json.dumps(error, ensure_ascii=False)}")
        self.error = error


class Adapter:
    """The program, and the commands that it has not answered yet."""

    def __init__(self, name, command, environment, log):
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1, env=environment
        )
        self._ids = itertools.count(1)
        self._lock, self._waiting = threading.Lock(), {}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            with contextlib.suppress(ValueError, KeyError):
                answer = json.loads(line)
                with self._lock:
                    future = self._waiting.pop(answer["id"])
                future.set_result(answer)
        with self._lock:
            waiting, self._waiting = self._waiting, None
        for future in waiting.values():
            future.set_exception(Failed(f"the adapter in {self.name} ended"))

    def begin(self, do, **arguments):
        """Sends a command; its whole answer comes later."""
        future, number = Future(), next(self._ids)
        line = json.dumps({"id": number, "do": do} | {name: value for name, value in arguments.items() if value is not None})
        with self._lock:
            if self._waiting is None:
                raise Failed(f"the adapter in {self.name} has ended")
            self._waiting[number] = future
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        return future

    def answer(self, do, **arguments):
        return whole(self.begin(do, **arguments))

    def done(self, do, **arguments):
        """What a command brought that has to go well."""
        return good(self.begin(do, **arguments), do)

    def refused(self, do, **arguments):
        """The error of a command that has to be refused."""
        answer = self.answer(do, **arguments)
        if "error" not in answer:
            raise Failed(f"{do} went well: {shown(answer)}")
        return answer["error"]

    def end(self):
        """Lets it end by itself, as its input does."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise Failed(f"the adapter in {self.name} did not end with its input") from None


def whole(future):
    try:
        return future.result(ANSWER_SECONDS)
    except TimeoutError:
        raise Failed(f"no answer within {ANSWER_SECONDS} s") from None


def good(future, what):
    answer = whole(future)
    if "ok" not in answer:
        raise Refused(what, answer.get("error"))
    return answer["ok"]


def shown(answer):
    """An answer as a person may see it."""
    told = {name: value for name, value in answer.get("ok", {}).items() if name != "access_token"}
    return json.dumps(told, ensure_ascii=False)
