"""Attackers: each keeps many connections, all in one thread of one process, and sends what was made before.

Must never wait for one connection while others could send, nor open those anew as fast as it can that the broker closed: it would
be another attack.
"""

import collections
import contextlib
import select
import socket
import ssl
import struct
import time

import frames

# Not in Python's socket: ports are shared by connections to other addresses, as those of `connect` without `bind` are.
IP_BIND_ADDRESS_NO_PORT = 24
# An attacker waits for the kernel and for the broker's part of a handshake only so long.
CONNECT_SECONDS = 2.0
# Connections are opened so many a second, and so many again where the broker closed them: floods of them are not what is tried.
OPENED_A_SECOND, REOPENED_A_SECOND = 3_000, 200
POLL_SECONDS = 0.005
# Opened between two looks at all the others.
OPENED_AT_ONCE = 50
# What a connection begins with is sent by then, unless the broker doesn't read it.
SENDING_SECONDS = 2.0
READ_BYTES = 256 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
WOULD_BLOCK = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)


def addresses(count, third=1):
    """So many addresses of loopback, which good callers don't have."""
    return [f"127.0.{third}.{last}" for last in range(1, count + 1)]


def connect(address, source, tls=None, receive_buffer=None):
    """A connection from one address to another. Closing it leaves nothing behind, also in the kernel."""
    host, port = address.split(":")
    made = socket.socket()
    try:
        made.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.bind((source, 0))
        made.settimeout(CONNECT_SECONDS)
        made.connect((host, int(port)))
        return tls.wrap_socket(made, server_hostname=host) if tls else made
    except OSError:
        made.close()
        raise


class Finished(OSError):
    """All is sent."""


class Line:
    """One connection of an attacker's."""

    def __init__(self, sock):
        self.socket, self.buffer = sock, bytearray()
        # What is left to be sent, and how many chunks and streams were begun.
        self.out, self.chunk, self.streams = memoryview(b""), 0, 0


class Flood:
    """Connections that each send `opening`, then `chunks`: once, and then a new connection does, or again and again (`cycle`)."""

    def __init__(self, address, count, opening=b"", chunks=(), cycle=False, sources=("127.0.1.1",), reads=True, **how):
        self.address, self.count, self.opening, self.chunks, self.cycle = address, count, opening, chunks, cycle
        self.sources, self.how = sources, how
        self.events = select.EPOLLRDHUP | (select.EPOLLIN if reads else 0)
        self.lines, self.opened, self.refused, self.lost, self.sent = {}, 0, 0, 0, 0
        self.epoll, self.rests_until, self.all_by = select.epoll(), 0.0, None

    def run(self, attacking):
        while not attacking.over():
            self.open_missing()
            for descriptor, events in self.epoll.poll(POLL_SECONDS):
                self.serve(self.lines[descriptor], events)
            if not attacking.is_ready and self.stands():
                attacking.ready()
        attacking.figures.update(self.told())

    def stands(self):
        """Whether each was opened once, and has sent what it begins with; or doesn't get rid of it."""
        if self.opened + self.refused < self.count:
            return False
        self.all_by = self.all_by or time.monotonic() + SENDING_SECONDS
        return time.monotonic() > self.all_by or not any(line.out for line in self.lines.values())

    def told(self):
        figures = {"opened": self.opened, "closed by the broker": self.lost, "not let in": self.refused}
        return {"connections open": len(self.lines)} | figures | {"MiB sent": round(self.sent / 2**20, 1)}

    def open_missing(self):
        for _ in range(min(OPENED_AT_ONCE, self.count - len(self.lines))):
            turn, now = self.opened + self.refused, time.monotonic()
            if now < self.rests_until:
                return
            # What was missed while others were served is made up for.
            rate = OPENED_A_SECOND if turn < self.count else REOPENED_A_SECOND
            self.rests_until = max(now - POLL_SECONDS, self.rests_until) + 1 / rate
            try:
                made = connect(self.address, self.sources[turn % len(self.sources)], **self.how)
            except OSError:
                self.refused += 1
                continue
            made.setblocking(False)
            self.opened += 1
            line = self.lines[made.fileno()] = Line(made)
            line.out = memoryview(self.begin(line))
            self.epoll.register(made.fileno(), self.events | select.EPOLLOUT)

    def begin(self, _line):
        return self.opening

    def serve(self, line, events):
        try:
            if events & select.EPOLLIN:
                self.read(line)
            elif events & (select.EPOLLERR | select.EPOLLHUP | select.EPOLLRDHUP):
                raise ConnectionError
            if events & select.EPOLLOUT:
                self.write(line)
        except WOULD_BLOCK:
            pass
        except OSError as error:
            self.lost += not isinstance(error, Finished)
            self.close(line)

    def read(self, line):
        with contextlib.suppress(*WOULD_BLOCK):
            while data := line.socket.recv(READ_BYTES):
                self.received(line, data)
            raise ConnectionError

    def received(self, line, data):
        """By default nobody cares."""

    def write(self, line):
        if not line.out and not self.refill(line):
            self.epoll.modify(line.socket.fileno(), self.events)
            return
        sent = line.socket.send(line.out)
        self.sent += sent
        line.out = line.out[sent:]

    def refill(self, line):
        """The next chunk, if there is one."""
        if not self.chunks:
            return False
        if line.chunk == len(self.chunks):
            if not self.cycle:
                raise Finished
            line.chunk = 0
        line.out, line.chunk = memoryview(self.chunks[line.chunk]), line.chunk + 1
        return True

    def say(self, line, data):
        """Sends this behind what is still to be sent."""
        line.out = memoryview(bytes(line.out) + data)
        self.epoll.modify(line.socket.fileno(), self.events | select.EPOLLOUT)

    def close(self, line):
        del self.lines[line.socket.fileno()]
        self.epoll.unregister(line.socket.fileno())
        line.socket.close()


class Living(Flood):
    """As `Flood`, and answers what asks whether it lives."""

    def received(self, line, data):
        line.buffer += data
        answers = b""
        for kind, flags, stream, payload in frames.read(line.buffer):
            if kind == frames.PING and not flags & frames.ACK:
                answers += frames.frame(frames.PING, frames.ACK, 0, payload)
            answers += self.part(line, kind, flags, stream, payload) or b""
        if answers:
            self.say(line, answers)

    def part(self, line, kind, flags, stream, payload):
        """What is to be sent upon this frame."""


class Pressing(Living):
    """Keeps so many calls under way on each connection: for each that ends the next begins, with `message(turn)`."""

    def __init__(self, address, count, streams, fields, message, **how):
        super().__init__(address, count, **how)
        self.streams, self.fields, self.message = streams, fields, message
        self.turn, self.statuses = 0, collections.Counter()

    def told(self):
        return super().told() | {"calls": self.turn, "statuses": dict(self.statuses)}

    def begin(self, line):
        return frames.hello() + b"".join(self.next(line) for _ in range(self.streams))

    def next(self, line):
        line.streams += 1
        self.turn += 1
        return frames.call(2 * line.streams - 1, self.fields, self.message(self.turn))

    def part(self, line, kind, flags, stream, payload):
        if kind == frames.RST_STREAM:
            code = "reset"
        elif kind == frames.HEADERS and flags & frames.END_STREAM:
            code = frames.status(payload)
        else:
            return None
        self.statuses[str(code)] += 1
        return self.next(line)
