"""HTTP/2 frames as an attacker wants them (RFC 9113): each function makes bytes, whatever the peer will think of them.

Fields are HPACK literals (RFC 7541) without Huffman and without the dynamic table, so that the same bytes do on every connection.
"""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, _PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
LARGEST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
CANCEL = 8
HEAD_BYTES = 9

GET_TOKEN = "/tokenbroker.v1.TokenBrokerService/GetToken"  # noqa: S105 - a path
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
# gRPC's frame of a message without a field: the health of the process.
EMPTY_MESSAGE = bytes(5)
# google.rpc.Code.
OK, UNAUTHENTICATED = 0, 16

# HPACK's Huffman codes of all that a `grpc-status` is written with.
CODES = dict(zip("0123456789", "00000 00001 00010 011001 011010 011011 011100 011101 011110 011111".split(), strict=True))
CODES |= dict(zip("grpc-status", "100110 101100 101011 00100 010110 01000 01001 00011 01001 101101 01000".split(), strict=True))


def frame(kind, flags=0, stream=0, payload=b""):
    return len(payload).to_bytes(3, "big") + struct.pack("!BBI", kind, flags, stream) + payload


def settings(values=None):
    return frame(SETTINGS, payload=b"".join(struct.pack("!HI", key, value) for key, value in (values or {}).items()))


def window_update(increment, stream=0):
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def reset(stream):
    return frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))


def hello(values=None):
    """How a connection begins. Without a dynamic table for the answers, so that `status` can read them."""
    return PREFACE + settings({HEADER_TABLE_SIZE: 0} | (values or {})) + window_update(LARGEST_WINDOW - DEFAULT_WINDOW)


def string(text):
    length = len(text)
    if length < 127:
        return bytes([length]) + text.encode()
    head, length = b"\x7f", length - 127
    while length > 127:
        head, length = head + bytes([length & 127 | 128]), length >> 7
    return head + bytes([length]) + text.encode()


def block(path, more=()):
    """The fields of a gRPC call."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "broker")]
    fields += [("content-type", "application/grpc"), ("te", "trailers"), *more]
    return b"".join(b"\0" + string(name) + string(value) for name, value in fields)


def call(stream, fields, message):
    """One gRPC call: `fields` as `block` makes them."""
    return frame(HEADERS, END_HEADERS, stream, fields) + frame(DATA, END_STREAM, stream, message)


def calls(count, fields, message, first=1):
    """So many calls, on the streams from `first` on."""
    return b"".join(call(stream, fields, message) for stream in range(first, first + 2 * count, 2))


def read(buffer):
    """Yields (kind, flags, stream, payload) of each whole frame at the front of a bytearray, and takes them off it."""
    at = 0
    try:
        while len(buffer) - at >= HEAD_BYTES:
            length = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at < HEAD_BYTES + length:
                return
            kind, flags, stream = struct.unpack_from("!BBI", buffer, at + 3)
            begin, at = at + HEAD_BYTES, at + HEAD_BYTES + length
            yield kind, flags, stream & LARGEST_WINDOW, bytes(buffer[begin:at])
    finally:
        del buffer[:at]


def huffman(text):
    bits = "".join(CODES[letter] for letter in text)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def literal(text):
    coded = huffman(text)
    return bytes([0x80 | len(coded)]) + coded


# The broker's library writes every literal so.
STATUSES = {literal("grpc-status") + literal(str(code)): code for code in range(17)}


def status(fields):
    """The `grpc-status` in a block of fields; none where there is none that can be read."""
    found = [code for coded, code in STATUSES.items() if coded in fields]
    return found[0] if len(found) == 1 else None
