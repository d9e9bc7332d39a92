"""TLS handshakes that are begun, and nothing after."""

import collections
import ssl
import time

from floods import addresses, connect

# The broker waits no longer for any of them.
HELD_SECONDS = 12.0


def client_hello(context):
    """What a client sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1").do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()


class HalfHandshakes:
    """So many a second, each held for as long as the broker could wait for the rest."""

    def __init__(self, address, hello, rate, sources):
        self.address, self.hello, self.rate, self.sources = address, hello, rate, sources

    def run(self, attacking):
        held, began, turn, failed = collections.deque(), time.monotonic(), 0, 0
        attacking.ready()
        while not attacking.over():
            now = time.monotonic()
            while held and held[0][0] < now - HELD_SECONDS:
                held.popleft()[1].close()
            if turn > (now - began) * self.rate:
                time.sleep(1 / self.rate / 2)
                continue
            try:
                made = connect(self.address, self.sources[turn % len(self.sources)])
                held.append((now, made))
                made.sendall(self.hello)
            except OSError:
                failed += 1
            turn += 1
        attacking.figures.update(
            {"half handshakes": turn, "a second": round(turn / (time.monotonic() - began)), "failed": failed}
        )


def half_handshakes(stage, rate, sources):
    stage.begin()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    with stage.attacked(HalfHandshakes(stage.addresses["grpc"], client_hello(context), rate, addresses(sources))):
        pass


def half_handshakes_30_of_one(stage):
    """30 a second from one address."""
    half_handshakes(stage, 30, 1)


def half_handshakes_200_of_one(stage):
    """200 a second from one address."""
    half_handshakes(stage, 200, 1)


def half_handshakes_30_of_many(stage):
    """30 a second from 50 addresses."""
    half_handshakes(stage, 30, 50)


def half_handshakes_200_of_many(stage):
    """200 a second from 50 addresses."""
    half_handshakes(stage, 200, 50)
