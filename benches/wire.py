"""Many callers on one HTTP/2 connection, whose answers are looked at one by one: which token, and how long it took.

The programs of echo/src say neither which token was answered, nor can they complain of one. Speaks only what is needed here: it
reads frames, and no headers, so of a failure it knows that it was one.
"""

import collections
import socket
import struct
import time

from clients import FRAME_BYTES, request_body

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# The most that may be sent at first, by the protocol; and as much as can be is let come.
WINDOW = 65_535
WIDE = (1 << 31) - 1
TIMEOUT_SECONDS = 60
# The tag of rejected_token_ids, and the numbers of the fields of a token within an answer, and of the id within that.
REJECTED, TOKEN, TOKEN_ID = 0x22, 1, 5


def text(value):
    """A string of less than 127 bytes as headers have it."""
    return bytes([len(value)]) + value


def headers(address):
    """Of a call: by index where the protocol's own table has them, and never to be remembered."""
    path = b"/tokenbroker.v1.TokenBrokerService/GetToken"
    found = b"\x83\x86\x04" + text(path) + b"\x01" + text(address.encode())
    found += b"\x0f\x10" + text(b"application/grpc") + b"\x00" + text(b"te") + text(b"trailers")
    return found + b"\x00" + text(b"grpc-timeout") + text(f"{TIMEOUT_SECONDS}S".encode())


def number(data, at):
    """A number of variable length, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def field(message, wanted):
    """The bytes of one field of a message; none where it is not there."""
    at = 0
    while at < len(message):
        tag, at = number(message, at)
        value, at = number(message, at)
        if tag & 7 == 2:
            if tag >> 3 == wanted:
                return message[at : at + value]
            at += value
    return None


def token_id(answer):
    """The id of the token that an answer holds; none where it holds none."""
    token = field(answer[FRAME_BYTES:], TOKEN)
    return token and field(token, TOKEN_ID).decode()


class Caller:
    """A connection, and as many calls at once on it as are asked for."""

    def __init__(self, address):
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=2 * TIMEOUT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.headers, self.unread, self.stream, self.window = headers(address), bytearray(), 1, WINDOW
        # The window of each stream, and that of the connection.
        wide = struct.pack("!HI", 4, WIDE)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, wide) + frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", WIDE - WINDOW)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self, user=0, rejected=()):
        """One call; the id of the token, or none."""
        return self.ask_all([(user, rejected)], 1)[0][0]

    def ask_all(self, requests, at_once):
        """Calls for these users, complaining of these ids, so many at once: of each the token's id or none, and the seconds."""
        waiting, asked, found = collections.deque(enumerate(requests)), {}, [None] * len(requests)
        while waiting or asked:
            while waiting and len(asked) < at_once and self.window > 0:
                place, (user, rejected) = waiting.popleft()
                asked[self.send(user, rejected)] = (place, time.monotonic(), bytearray())
            stream, is_over = self.receive(asked)
            if is_over and stream in asked:
                place, began, answer = asked.pop(stream)
                found[place] = (token_id(answer) if answer else None, time.monotonic() - began)
        return found

    def send(self, user, rejected):
        stream, self.stream = self.stream, self.stream + 2
        body = request_body(user, b"".join(bytes([REJECTED]) + text(one.encode()) for one in rejected))
        self.window -= len(body)
        self.socket.sendall(frame(HEADERS, END_HEADERS, stream, self.headers) + frame(DATA, END_STREAM, stream, body))
        return stream

    def receive(self, asked):
        """Reads one frame; whose it is, and whether that was its last."""
        head = self.take(9)
        kind, flags, stream = struct.unpack("!BBI", head[3:])
        payload = self.take(int.from_bytes(head[:3], "big"))
        if kind == DATA and stream in asked:
            asked[stream][2].extend(payload)
        elif kind == PING and not flags & ACK:
            self.socket.sendall(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            self.socket.sendall(frame(SETTINGS, ACK, 0, b""))
        elif kind == WINDOW_UPDATE and stream == 0:
            self.window += struct.unpack("!I", payload)[0]
        elif kind == GOAWAY:
            raise RuntimeError(f"the broker ends the connection: {payload[8:]}")
        return stream, kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM)

    def take(self, length):
        while len(self.unread) < length:
            more = self.socket.recv(1 << 16)
            if not more:
                raise RuntimeError("the broker hung up")
            self.unread += more
        taken = bytes(self.unread[:length])
        del self.unread[:length]
        return taken


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + struct.pack("!BBI", kind, flags, stream) + payload
