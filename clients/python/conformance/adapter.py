"""The conformance adapter: does with the installed package what JSON lines on standard input say.

`--aio` takes the asyncio source.

Must never hold up one command for another: each is begun at once and answered when it is done. Prints nothing but answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import token_broker_client
from token_broker_client import ConfigurationError, TokenBrokerError, TokenRejected, aio

# Commands that run at once: more than any history has.
AT_ONCE = 256
# A request to the vault that takes longer is a fault.
HTTP_SECONDS = 30.0
FILES = ("ca_file", "token_file", "certificate_file", "key_file")


def error_object(error: TokenBrokerError) -> dict:
    """What an answer says of an error."""
    kind = "configuration" if isinstance(error, ConfigurationError) else "broker"
    return {
        "kind": "rejected" if isinstance(error, TokenRejected) else kind,
        "code": error.code,
        "reason": error.reason,
        "retry_after_seconds": error.retry_after,
        "held_until": error.held_until and error.held_until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "request_id": error.request_id,
        "fields": [{"field": one.field, "description": one.description} for one in error.field_violations],
        "is_temporary": error.is_temporary,
        "text": str(error),
    }


def options(command: dict) -> dict:
    """What a source is made with."""
    made = {name: command[name] for name in FILES if command.get(name) is not None}
    if command.get("timeout_seconds") is not None:
        made["timeout"] = command["timeout_seconds"]
    return {"endpoints": command["endpoints"], "use_proxy": bool(command.get("use_proxy")), **made}


def whose(command: dict) -> tuple:
    return command["merchant_id"], command["number"]


def get(url: str, token: token_broker_client.Token) -> object:
    """The response of the vault's API; urllib raises for a 401."""
    request = urllib.request.Request(url, headers={"Authorization": token.authorization})  # noqa: S310 - the suite's own
    with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as response:  # noqa: S310
        response.read()
        return response


class Adapter:
    """What both kinds of source share."""

    def __init__(self) -> None:
        self.source = None
        self._handed: dict = {}
        self._printing = threading.Lock()

    def told(self, token: token_broker_client.Token) -> dict:
        self._handed[token.merchant_id, token.number, token.token_id] = token
        return {
            "token_id": token.token_id,
            "access_token": token.access_token,
            "expires_in_seconds": token.expires_in,
            "scope": token.scope,
            "shown": f"{token} {token!r}",
        }

    def at_once(self, command: dict) -> dict:
        """Commands that wait for nothing."""
        source, action = self.source, command["do"]
        if action == "cached":
            token = source.cached(*whose(command))
            return {"token_id": token and self.told(token)["token_id"]}
        if action == "rejected":
            return {"is_news": source.rejected(self._handed[(*whose(command), command["token_id"])])}
        if action == "counts":
            return source.counts()._asdict()
        raise ValueError(f"no such command: {action}")

    def answer(self, number: int, **said: object) -> None:
        with self._printing:
            print(json.dumps({"id": number, **said}), flush=True)

    def refuse(self, number: int, fault: Exception) -> None:
        if isinstance(fault, TokenBrokerError):
            self.answer(number, error=error_object(fault))
        else:
            self.answer(number, error={"kind": "adapter", "text": f"{type(fault).__name__}: {fault}"})


class Threads(Adapter):
    """Over the source for threads."""

    def run(self) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for line in sys.stdin:
                command = json.loads(line)
                if command["do"] in ("open", "close"):
                    # What comes behind it is for the new one.
                    self._answer(command)
                else:
                    pool.submit(self._answer, command)
            self._close()

    def _answer(self, command: dict) -> None:
        try:
            self.answer(command["id"], ok=self._do(command))
        except Exception as fault:
            self.refuse(command["id"], fault)

    def _close(self) -> None:
        if self.source is not None:
            self.source.close()

    def _do(self, command: dict) -> dict:
        action = command["do"]
        if action == "open":
            source = token_broker_client.TokenSource(**options(command))
            self._close()
            self.source = source
        elif action == "close":
            self._close()
        elif action == "warm":
            self.source.warm([tuple(user) for user in command["users"]])
        elif action == "token":
            return self.told(self.source.token(*whose(command), timeout=command.get("timeout_seconds")))
        elif action == "use":
            sent = []

            def send(token: token_broker_client.Token) -> object:
                sent.append(token.token_id)
                return get(command["url"], token)

            response = self.source.with_token(*whose(command), send)
            return {"status": response.status, "token_id": sent[-1], "requests": len(sent)}
        else:
            return self.at_once(command)
        return {}


class Tasks(Adapter):
    """Over the source for asyncio."""

    async def run(self) -> None:
        loop, lines = asyncio.get_running_loop(), asyncio.Queue()
        loop.set_default_executor(ThreadPoolExecutor(AT_ONCE))

        def read() -> None:
            for line in sys.stdin:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, None)

        threading.Thread(target=read, daemon=True).start()
        tasks = set()
        while (line := await lines.get()) is not None:
            command = json.loads(line)
            task = asyncio.create_task(self._answer(command))
            if command["do"] in ("open", "close"):
                await task
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await self._close()
        await asyncio.gather(*tasks)

    async def _answer(self, command: dict) -> None:
        try:
            self.answer(command["id"], ok=await self._do(command))
        except Exception as fault:
            self.refuse(command["id"], fault)

    async def _close(self) -> None:
        if self.source is not None:
            await self.source.close()

    async def _do(self, command: dict) -> dict:
        action = command["do"]
        if action == "open":
            source = aio.TokenSource(**options(command))
            await self._close()
            self.source = source
        elif action == "close":
            await self._close()
        elif action == "warm":
            await self.source.warm([tuple(user) for user in command["users"]])
        elif action == "token":
            return self.told(await self.source.token(*whose(command), timeout=command.get("timeout_seconds")))
        elif action == "use":
            sent = []

            async def send(token: token_broker_client.Token) -> object:
                sent.append(token.token_id)
                return await asyncio.to_thread(get, command["url"], token)

            response = await self.source.with_token(*whose(command), send)
            return {"status": response.status, "token_id": sent[-1], "requests": len(sent)}
        else:
            return self.at_once(command)
        return {}


if __name__ == "__main__":
    if "--aio" in sys.argv[1:]:
        asyncio.run(Tasks().run())
    else:
        Threads().run()
