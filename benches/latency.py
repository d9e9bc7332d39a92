"""How long hits take at a steady rate, a third of what can be had, beside the echo; and while the broker does more.

The calls begin when they are due, whatever became of those before, and their time counts from when they were due. Each
disturbance is compared with the broker undisturbed in the same round.
"""

import contextlib
import os
import signal
import statistics
import threading

from clients import all_answered, fill, load, press, seen
from cpu import in_turn
from figures import Figure, show
from harness import Bench

USERS = 100_000
VAULT_DELAY_MS = 50
SIGN_INS_A_SECOND = 500
RELOAD_EVERY_SECONDS = 2.0
SCRAPE_EVERY_SECONDS = 1.0
QUANTILES = ("50", "99", "99.9")
# Of the undisturbed figures.
LIMIT = 2.0
# The part of the smaller of the two capacities that is asked for.
PART = 3
CAPACITY_CALLS = 100_000


class Disturbed:
    """A broker with many users, and what it can be made to do beside hits."""

    def __init__(self, bench, programs, options):
        self.bench, self.programs, self.options = bench, programs, options
        self.broker = bench.broker(programs, bench.vault(programs, delay_ms=VAULT_DELAY_MS), USERS)
        # The first user is the one of the hits, so its password stays; all others' change with each reload.
        self.files = [bench.write_users(USERS, f"password {turn}", f"prepared-{turn}", keep=1) for turn in range(2)]
        # The first user that nobody asked for yet.
        self.cold = 1

    @contextlib.contextmanager
    def sign_ins(self):
        """Users that nobody asked for before, at a steady rate."""
        count = round(SIGN_INS_A_SECOND * self.options.seconds)
        if self.cold + count > USERS:
            raise RuntimeError(f"more than {USERS:,} users would be asked for: fewer --rounds or --seconds")
        options = {"first": self.cold, "users": count, "rate": SIGN_INS_A_SECOND, "seconds": self.options.seconds}
        self.cold += count
        with load(self.programs, self.broker, **options) as cold:
            yield
            all_answered(seen(cold))

    def reload(self, turn):
        """Puts a prepared file in place in one step, so that writing it is no part of the disturbance."""
        new = self.bench.directory / "again"
        # To rename one of two names of a file to the other does nothing, and leaves it here.
        new.unlink(missing_ok=True)
        os.link(self.files[turn % 2], new)
        new.rename(self.bench.directory / "broker-users.toml")
        self.broker.signal(signal.SIGHUP)

    @contextlib.contextmanager
    def each(self, seconds, act):
        """Acts now, and again after each so many seconds, until the end of the block."""
        ended, failures = threading.Event(), []

        def repeat():
            turn = 0
            try:
                while not ended.is_set():
                    act(turn)
                    turn += 1
                    ended.wait(seconds)
            except Exception as failure:  # told below: a thread's own end is nobody's
                failures.append(failure)

        thread = threading.Thread(target=repeat)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        if failures:
            raise failures[0]

    def kinds(self):
        return {
            f"{SIGN_INS_A_SECOND} sign-ins/s": self.sign_ins,
            f"reloads of {USERS:,} users": lambda: self.each(RELOAD_EVERY_SECONDS, self.reload),
            "a scrape each second": lambda: self.each(SCRAPE_EVERY_SECONDS, lambda _: self.broker.scrape()),
        }


def times(programs, server, rate, options):
    """The quantiles in microseconds; `max` is the longest."""
    result = all_answered(seen(load(programs, server, rate=rate, seconds=options.seconds)))
    return result["quantiles_us"] | {"max": result["worst_ms"] * 1e3}


def quantile_rows(name, ours, others, limit, other):
    """A row for each quantile: ours as a ratio to the others of the same rounds."""
    rows = []
    for quantile in (*QUANTILES, "max"):
        pairs = [(our[quantile], their[quantile]) for our, their in zip(ours, others, strict=True)]
        beside = {"broker": f"{show(statistics.median(pair[0] for pair in pairs))} µs"}
        beside |= {other: f"{show(statistics.median(pair[1] for pair in pairs))} µs"}
        label = "max" if quantile == "max" else f"p{quantile}"
        # The longest of thousands of calls is chance, most of it the machine's.
        held = None if quantile == "max" else limit
        rows.append(Figure(f"{label}, {name}", [our / their for our, their in pairs], limit=held, beside=beside))
    return rows


def measure(programs, options):
    found = {}
    with Bench() as bench:
        disturbed = Disturbed(bench, programs, options)
        servers = {"broker": disturbed.broker, "echo": bench.echo(programs)}
        fill(programs, disturbed.broker, 1)
        rate = options.rate or round(min(press(programs, server, calls=CAPACITY_CALLS) for server in servers.values()) / PART)
        print(f"latency: {rate:,} calls/s", flush=True)
        kinds = disturbed.kinds()
        for round_number in range(1, options.rounds + 1):
            for side in in_turn(round_number, list(servers)):
                found.setdefault(side, []).append(times(programs, servers[side], rate, options))
            for kind, disturb in kinds.items():
                with disturb():
                    found.setdefault(kind, []).append(times(programs, disturbed.broker, rate, options))
            print(f"latency: round {round_number} of {options.rounds}", flush=True)
    rows = quantile_rows(f"{rate:,} calls/s, broker ÷ echo", found["broker"], found["echo"], None, "echo")
    for kind in kinds:
        rows += quantile_rows(f"{kind} ÷ undisturbed", found[kind], found["broker"], LIMIT, "undisturbed")
    return rows
