"""Mixed load for minutes, and whether memory, descriptors and threads are afterwards what they were after a warm-up minute.

Hits over connections that open and close, sign-ins of users whose tokens ended, complaints about tokens, reloads and scrapes, all
at once. Before each of the two readings the load ends, all its connections are closed, and the broker is left alone for a while.
"""

import contextlib
import os
import pathlib
import re
import signal
import socket
import threading
import time

from clients import fill, load, press, seen
from figures import Figure, show
from harness import Bench

USERS = 2_000
# Hits are for the first ones, complaints for the last, steady calls for those between.
HIT_USERS = 100
COMPLAINT_USERS = 50
# Tokens end within the warm-up and are renewed only when somebody asks, so that there are misses all the time, of users who were
# cached before: the cache doesn't grow.
LIFETIME_SECONDS = 20
VAULT_DELAY_MS = 20
MISS_RATE = 400
COMPLAINT_RATE = 10
RELOAD_EVERY_SECONDS = 10
SCRAPE_EVERY_SECONDS = 5
HIT_CALLS = 5_000
WARM_UP_SECONDS = 60
SAMPLE_SECONDS = 30
# What closing connections and ending sign-ins takes, and the allocator's purge after it.
QUIET_SECONDS = 15
# Pages that the allocator has not given back yet come and go by about as much, and a leak of a byte in a thousand calls is more.
MEMORY_LIMIT = 1.10
STEADY_STEP_SECONDS = 5


def vault_sockets(vault):
    """Inodes of the sockets connected to the vault: the broker keeps a few to use again, so their number is chance."""
    port = int(vault.address.split(":")[1])
    lines = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{fields[9]}]" for fields in lines if int(fields[2].split(":")[1], 16) == port}


def state(broker, vault):
    """Resident KiB; descriptors but those to the vault; threads."""
    pooled, open_files = vault_sockets(vault), 0
    for entry in pathlib.Path(f"/proc/{broker.process.pid}/fd").iterdir():
        # One may be closed while this reads.
        with contextlib.suppress(OSError):
            open_files += os.readlink(entry) not in pooled
    threads = len(list(pathlib.Path(f"/proc/{broker.process.pid}/task").iterdir()))
    return broker.memory()[0], open_files, threads


class Mix:
    """All the load at once, for some seconds; counts what was done."""

    def __init__(self, bench, programs, broker):
        self.bench, self.programs, self.broker = bench, programs, broker
        self.done = {"hits": 0, "reloads": 0, "scrapes": 0}
        self.ends = {"steady calls": {}, "complaints": {}}
        self.files = [bench.write_users(USERS, f"password {turn}", f"prepared-{turn}") for turn in range(2)]

    def hits(self):
        press(self.programs, self.broker, calls=HIT_CALLS, users=HIT_USERS, order="random", connections=16, streams=4)
        self.done["hits"] += HIT_CALLS

    def vanish(self):
        """A connection that is reset while it says something."""
        host, port = self.broker.address.split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0")
        time.sleep(0.1)

    def reload(self):
        new = self.bench.directory / "again"
        os.link(self.files[self.done["reloads"] % 2], new)
        new.rename(self.bench.directory / "broker-users.toml")
        self.broker.signal(signal.SIGHUP)
        self.done["reloads"] += 1
        time.sleep(RELOAD_EVERY_SECONDS)

    def scrape(self):
        self.broker.scrape()
        self.done["scrapes"] += 1
        time.sleep(SCRAPE_EVERY_SECONDS)

    def steady(self, name, **options):
        result = seen(load(self.programs, self.broker, seconds=STEADY_STEP_SECONDS, **options))
        for end, count in result["ends"].items():
            self.ends[name][end] = self.ends[name].get(end, 0) + count
        if result["expired"]:
            raise RuntimeError(f"{result['expired']} tokens were past their end")

    def run(self, seconds, sample):
        """Everything until the time is over; whatever fails ends it."""
        steady = {"first": HIT_USERS, "users": USERS - HIT_USERS - COMPLAINT_USERS, "rate": MISS_RATE}
        complaints = {"first": USERS - COMPLAINT_USERS, "users": COMPLAINT_USERS, "rate": COMPLAINT_RATE, "complain": "true"}
        acts = [self.hits, self.vanish, self.reload, self.scrape]
        acts += [lambda: self.steady("steady calls", **steady), lambda: self.steady("complaints", **complaints)]
        until, failures = time.monotonic() + seconds, []

        def repeat(act):
            try:
                while time.monotonic() < until and not failures:
                    act()
            except Exception as failure:  # told below: a thread's own end is nobody's
                failures.append(failure)

        threads = [threading.Thread(target=repeat, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        while time.monotonic() < until and not failures:
            time.sleep(min(SAMPLE_SECONDS, max(0.0, until - time.monotonic())))
            sample()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]


def measure(programs, options):
    with Bench() as bench:
        vault = bench.vault(programs, lifetime=LIFETIME_SECONDS, delay_ms=VAULT_DELAY_MS)
        broker = bench.broker(programs, vault, USERS, vault_keys='renewal = "at_expiry"\n')
        fill(programs, broker, USERS)
        mix, began = Mix(bench, programs, broker), time.monotonic()

        def sample():
            resident, descriptors, threads = state(broker, vault)
            at = time.monotonic() - began
            done = ", ".join(f"{count:,} {name}" for name, count in mix.done.items())
            ends = ", ".join(f"{name} {found}" for name, found in mix.ends.items())
            size = f"{resident / 1024:7.1f} MiB, {descriptors} descriptors, {threads} threads"
            print(f"soak: {at:6.0f} s {size}; {done}, {ends}", flush=True)

        mix.run(WARM_UP_SECONDS, sample)
        time.sleep(QUIET_SECONDS)
        before = state(broker, vault)
        mix.run(options.minutes * 60, sample)
        time.sleep(QUIET_SECONDS)
        after = state(broker, vault)
        # The broker must have lived through it, not have been started by something again.
        total = len(re.findall("^token_broker_", broker.scrape(), re.MULTILINE))
    if not total:
        raise RuntimeError("no metrics at the end")
    minutes = f"after {options.minutes:g} minutes"
    megabytes = {"from": show(before[0] / 1024, "MiB"), "to": show(after[0] / 1024, "MiB")}
    return [
        Figure(f"memory {minutes} ÷ after the warm-up", [after[0] / before[0]], limit=MEMORY_LIMIT, beside=megabytes),
        Figure(f"descriptors {minutes}, more than then", [after[1] - before[1]], "", limit=0, beside={"of": before[1]}),
        Figure(f"threads {minutes}, more than then", [after[2] - before[2]], "", limit=0, beside={"of": before[2]}),
    ]
