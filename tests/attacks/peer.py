"""A client of one connection, which minds nothing but the answer that it waits for: no PING, no GOAWAY."""

import contextlib
import re
import time

import frames
from floods import connect

# An answer from the cache takes a millisecond; whoever has none by then is not answered.
ANSWER_SECONDS = 2.0
SOURCE = "127.0.1.1"
# The field `token_id` of the answer: 32 hex digits.
TOKEN_ID = re.compile(rb"\x2a\x20([0-9a-f]{32})")


class Peer(contextlib.ExitStack):
    """The connection; leaving it closes it."""

    def __init__(self, address, tls, never_idle=False):
        super().__init__()
        self.never_idle = never_idle
        self.socket = self.enter_context(connect(address, SOURCE, tls))
        self.buffer, self.stream, self.closed, self.data = bytearray(), -1, False, b""
        self.socket.sendall(frames.hello())

    def send(self, path, message):
        """Begins a call."""
        self.stream += 2
        self.socket.sendall(frames.call(self.stream, frames.block(path), message))

    def begin(self):
        """A call whose message doesn't come: it is under way for as long as the broker waits for that."""
        self.stream += 2
        self.socket.sendall(frames.frame(frames.HEADERS, frames.END_HEADERS, self.stream, frames.block(frames.GET_TOKEN)))

    def ask(self, message):
        """The status that a call of GetToken is answered with; none where the connection is closed, or nothing comes of it."""
        try:
            if self.never_idle:
                self.begin()
            self.send(frames.GET_TOKEN, message)
            return self.answer(time.monotonic() + ANSWER_SECONDS)
        except TimeoutError:
            return None
        except OSError:
            self.closed = True
            return None

    def answer(self, until):
        self.data = b""
        while True:
            for kind, flags, stream, payload in frames.read(self.buffer):
                if stream != self.stream:
                    continue
                if kind == frames.RST_STREAM:
                    return None
                if kind == frames.DATA:
                    self.data += payload
                if kind == frames.HEADERS and flags & frames.END_STREAM:
                    return frames.status(payload)
            self.socket.settimeout(max(0.001, until - time.monotonic()))
            if not (data := self.socket.recv(65_536)):
                raise ConnectionResetError
            self.buffer += data

    def token_id(self, message):
        """That of the token that the call is answered with."""
        status = self.ask(message)
        if found := TOKEN_ID.search(self.data):
            return found[1].decode()
        raise RuntimeError(f"no token: status {status}")

    def go_on(self, message, seconds):
        """Calls on until the connection is closed, or for so long; returns when each call began, and its status."""
        seen, until = [], time.monotonic() + seconds
        while not self.closed and (began := time.monotonic()) < until:
            seen.append((began, self.ask(message)))
            time.sleep(0.02)
        return seen
