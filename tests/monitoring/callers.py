"""Callers of a broker, for tests/monitoring/run.py, which imports this; crowds run as a program of their own:

    callers.py slow ENDPOINT PID       some calls at a time for the first user, while process PID hardly gets to run
    callers.py crowd ENDPOINT COUNT    COUNT calls at once for the first user, and then some more each second

Both go on until standard input ends.
"""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable

import grpc

METHOD = "/tokenbroker.v1.TokenBrokerService/GetToken"
MERCHANT = "m1"
# A proxy of the environment has no business between two processes of one machine; and each channel is to have its connection.
OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
# As many as the broker takes at once on a connection.
CALLS_PER_CONNECTION = 500


def number(index: int) -> str:
    return f"+4478712{index:05}"


def request(merchant: str, phone: str) -> bytes:
    """A GetTokenRequest: two strings, each of which is short."""
    first, second = merchant.encode(), phone.encode()
    return bytes([0x0A, len(first)]) + first + bytes([0x12, len(second)]) + second


class Connection:
    """To one broker, over plaintext. The answers' bytes stay what they are: nobody looks at them."""

    def __init__(self, endpoint: str) -> None:
        self.channel = grpc.insecure_channel(endpoint, OPTIONS)
        self.call = self.channel.unary_unary(METHOD)

    def ask(self, merchant: str, phone: str, timeout: float = 5.0) -> grpc.Future:
        return self.call.future(request(merchant, phone), timeout=timeout)


class Callers:
    """Calls for some users in turn, whatever the answers, until they are stopped."""

    def __init__(self, endpoints: list[str], users: list[tuple[str, str]], every: float) -> None:
        self.stopped = threading.Event()
        self.connections = [Connection(endpoint) for endpoint in endpoints]
        self.users, self.every = users, every
        self.thread = threading.Thread(target=self._go_on, daemon=True)
        self.thread.start()

    def _go_on(self) -> None:
        turn = 0
        while not self.stopped.wait(self.every):
            for connection in self.connections:
                connection.ask(*self.users[turn % len(self.users)])
            turn += 1

    def stop(self) -> None:
        self.stopped.set()
        self.thread.join()
        for connection in self.connections:
            connection.channel.close()


def until_told(step: Callable[[], None]) -> None:
    told = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), told.set()), daemon=True).start()
    while not told.is_set():
        step()


def slow(endpoint: str, pid: int) -> None:
    """As a CPU limit does it: a moment to run, and then a pause, while calls come in."""
    connection = Connection(endpoint)
    connection.ask(MERCHANT, number(0)).result()

    def throttled() -> None:
        os.kill(pid, signal.SIGSTOP)
        try:
            calls = [connection.ask(MERCHANT, number(0), 20) for _ in range(8)]
            # Pauses twice as long as a hit should take, wherever in the calls they fall.
            while not all(call.done() for call in calls):
                time.sleep(0.01)
                os.kill(pid, signal.SIGCONT)
                time.sleep(random.uniform(0, 0.0003))  # noqa: S311
                os.kill(pid, signal.SIGSTOP)
        finally:
            os.kill(pid, signal.SIGCONT)
        # For the others who want something of it.
        time.sleep(0.005)

    until_told(throttled)


def crowd(endpoint: str, count: int) -> None:
    connections = [Connection(endpoint) for _ in range(count // CALLS_PER_CONNECTION + 2)]
    calls = [connections[index // CALLS_PER_CONNECTION].ask(MERCHANT, number(0), 120) for index in range(count)]

    def some_more() -> None:
        for _ in range(5):
            connections[-1].ask(MERCHANT, number(0), 5)
        time.sleep(0.25)

    until_told(some_more)
    for call in calls:
        call.cancel()


if __name__ == "__main__":
    {"slow": slow, "crowd": crowd}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
