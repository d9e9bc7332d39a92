#!/usr/bin/env python3
"""The callers and probes that an attack must not hurt: a program of its own, which run.py starts, so that nothing else delays it.

    good.py JSON: grpc, health, admin (addresses), certificates (a directory, for TLS), users (the first `warm` are in use)

Each line on standard input, and its end, ends a phase; what that saw is then printed as one line of JSON. A call begins when it
is due, whatever became of those before it, and its time counts from then, connecting included: a client that waits for a slow
broker would ask it less, and find it fast.
"""

import asyncio
import collections
import contextlib
import gc
import json
import os
import ssl
import sys

import frames
from stage import DEADLINE_SECONDS, raise_descriptors, request_body

# Calls a second: few enough that these callers take a fraction of a core, of which a handshake takes a client a millisecond.
STANDING_RATE, NEW_RATE, NEW_RATE_TLS = 250, 250, 125
COLD_RATE = PROBE_RATE = 10
STANDING_CONNECTIONS = 8
# No answer with a token is shorter.
SMALLEST_ANSWER_BYTES = 280
# Each kind has an address of its own, none of them an attacker's.
STANDING, NEW, COLD, PROBES = (f"127.0.0.{last}" for last in range(2, 6))
# Where the kernel lets it: what is measured is how long the broker takes, not how long this waits for a processor.
NICE = -10


class Failed(Exception):
    """No token, and why."""


class Refused(Failed):
    """The broker says that it has not begun with the call, which may go to another connection (RFC 9113, 6.8)."""


class Connection(asyncio.Protocol):
    """HTTP/2 as far as a caller needs it."""

    def __init__(self):
        self.buffer, self.waiting, self.next, self.usable = bytearray(), {}, 1, True

    def connection_made(self, transport):
        self.transport = transport
        transport.write(frames.hello())

    def connection_lost(self, _error):
        self.usable = False
        for stream in list(self.waiting):
            self.end(stream, Failed("closed"))

    def data_received(self, data):
        self.buffer += data
        for kind, flags, stream, payload in frames.read(self.buffer):
            if kind in (frames.SETTINGS, frames.PING) and not flags & frames.ACK:
                self.transport.write(frames.frame(kind, frames.ACK, 0, payload if kind == frames.PING else b""))
            elif kind == frames.GOAWAY:
                self.go_away(int.from_bytes(payload[:4], "big"))
            elif kind == frames.RST_STREAM:
                self.end(stream, Refused("refused") if payload[-1] == 7 else Failed("reset"))
            elif stream in self.waiting:
                self.part(kind, flags, stream, payload)

    def part(self, kind, flags, stream, payload):
        answer = self.waiting[stream]
        if kind == frames.DATA:
            answer.size += len(payload)
        if flags & frames.END_STREAM:
            code = frames.status(payload)
            self.end(stream, None if code == frames.OK and answer.size >= answer.least else Failed(f"status {code}"))

    def go_away(self, last):
        self.usable = False
        for stream in [stream for stream in self.waiting if stream > last]:
            self.end(stream, Refused("goaway"))
        if not self.waiting:
            self.transport.close()

    def end(self, stream, error):
        answer = self.waiting.pop(stream, None)
        if answer is not None and not answer.done():
            answer.set_exception(error) if error else answer.set_result(None)
        if not self.usable and not self.waiting:
            self.transport.close()

    def call(self, fields, body, least):
        answer = asyncio.get_running_loop().create_future()
        answer.size, answer.least = 0, least
        self.waiting[self.next] = answer
        self.transport.write(frames.call(self.next, fields, body))
        self.next += 2
        return answer


class Kept:
    """A connection that is made when it is needed first, and again when it is lost."""

    def __init__(self, connect):
        self.connect, self.lock, self.connection = connect, asyncio.Lock(), None

    async def call(self, *request):
        while True:
            async with self.lock:
                if self.connection is None or not self.connection.usable:
                    self.connection = await self.connect()
            with contextlib.suppress(Refused):
                return await self.connection.call(*request)


class Phase:
    """What is seen between two lines of standard input."""

    def __init__(self):
        self.times = collections.defaultdict(list)
        self.failures = collections.defaultdict(collections.Counter)
        self.open = 0
        self.closed = asyncio.Event()

    async def see(self, kind, due, doing):
        self.open += 1
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await doing
            self.times[kind].append(round((asyncio.get_running_loop().time() - due) * 1e3, 3))
        except (OSError, Failed, TimeoutError, asyncio.IncompleteReadError) as error:
            self.failures[kind][str(error) if isinstance(error, Failed) else type(error).__name__] += 1
        finally:
            self.open -= 1
            if not self.open:
                self.closed.set()

    async def told(self):
        # All of its calls have begun, and end by their deadlines.
        while self.open:
            self.closed.clear()
            await self.closed.wait()
        return json.dumps({"times_ms": self.times, "failures": self.failures})


class Callers:
    """All of them."""

    def __init__(self, options):
        self.options, self.phase, self.tasks, self.ended = options, Phase(), set(), False
        self.fields = frames.block(frames.GET_TOKEN)
        self.health = frames.block(frames.HEALTH_CHECK)
        self.tls = None
        if directory := options["certificates"]:
            self.tls = ssl.create_default_context(cafile=f"{directory}/ca.crt")
            self.tls.load_cert_chain(f"{directory}/client.crt", f"{directory}/client.key")
            self.tls.set_alpn_protocols(["h2"])
        self.standing = [Kept(lambda: self.connect(STANDING)) for _ in range(STANDING_CONNECTIONS)]
        self.cold = Kept(lambda: self.connect(COLD))

    async def connect(self, source, where="grpc", tls=True):
        host, port = self.options[where].split(":")
        loop, secured = asyncio.get_running_loop(), self.tls if tls else None
        made = await loop.create_connection(Connection, host, int(port), ssl=secured, local_addr=(source, 0))
        return made[1]

    def request(self, user):
        return self.fields, request_body(user), SMALLEST_ANSWER_BYTES

    def warm(self, turn):
        return self.request(turn % self.options["warm"])

    async def ask_standing(self, turn):
        await self.standing[turn % STANDING_CONNECTIONS].call(*self.warm(turn))

    async def ask_new(self, turn):
        connection = await self.connect(NEW)
        try:
            await connection.call(*self.warm(turn))
        finally:
            connection.transport.close()

    async def ask_cold(self, turn):
        user = self.options["warm"] + turn
        if user >= self.options["users"]:
            raise Failed("no user is left that nobody asked for")
        await self.cold.call(*self.request(user))

    async def check_health(self, _turn):
        connection = await self.connect(PROBES, "health", tls=False)
        try:
            await connection.call(self.health, frames.EMPTY_MESSAGE, len(frames.EMPTY_MESSAGE))
        finally:
            connection.transport.close()

    async def probe(self, path):
        host, port = self.options["admin"].split(":")
        reader, writer = await asyncio.open_connection(host, int(port), local_addr=(PROBES, 0))
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
            line = await reader.readuntil(b"\r\n")
            if b" 200 " not in line:
                raise Failed(line.decode().strip())
        finally:
            writer.close()

    async def fill(self):
        for user in range(self.options["warm"]):
            await self.phase.see("warm", 0, self.ask_standing(user))

    def steadily(self, kind, rate, ask):
        """Has it asked at this rate, for ever."""
        loop = asyncio.get_running_loop()
        began = loop.time()

        def due(turn):
            if self.ended:
                return
            # A task that nobody holds may be collected.
            task = loop.create_task(self.phase.see(kind, began + turn / rate, ask(turn)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            loop.call_at(began + (turn + 1) / rate, due, turn + 1)

        due(0)

    async def run(self):
        await self.fill()
        self.steadily("standing", STANDING_RATE, self.ask_standing)
        self.steadily("new", NEW_RATE_TLS if self.tls else NEW_RATE, self.ask_new)
        self.steadily("cold", COLD_RATE, self.ask_cold)
        self.steadily("livez", PROBE_RATE, lambda _: self.probe("/livez"))
        self.steadily("readyz", PROBE_RATE, lambda _: self.probe("/readyz"))
        self.steadily("health", PROBE_RATE, self.check_health)
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while not self.ended:
            self.ended = not await lines.readline()
            seen, self.phase = self.phase, Phase()
            print(await seen.told(), flush=True)


def main():
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    # Nothing here is big, and a pause would be taken for the broker's.
    gc.disable()
    raise_descriptors()
    asyncio.run(Callers(json.loads(sys.argv[1])).run())


if __name__ == "__main__":
    sys.exit(main())
