#!/usr/bin/env python3
"""What it costs to read a configuration again, and whether a hit is slower meanwhile.

    python3 benches/reload.py [--users N] [--reloads N] [--rate N]

All users stand in one file of credentials. First the CPU of a reload alone in which every password is another, from SIGHUP to
the line in the log that tells of it. Then steady calls for one cached token, without reloads and with one each second: the same
classes of times should be as full.
"""

import argparse
import json
import signal
import time

from clients import load, seen
from harness import Bench, build_all

# A reload takes a fraction of this.
PATIENCE_SECONDS = 30
CREDENTIALS = "broker-users.toml"
DONE = '"configuration reloaded"'


def cpu_of_reload(bench, broker, users, password):
    """CPU seconds from SIGHUP until the new passwords are in force."""
    log = bench.directory / "broker.log"
    bench.write_users(users, password, CREDENTIALS)
    before, told = broker.cpu_seconds(), log.read_text().count(DONE)
    broker.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while log.read_text().count(DONE) == told:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no reload:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)
    return broker.cpu_seconds() - before


def times(programs, broker, rate, reloads, change):
    """The classes of times of calls for the first user, while `change` is called each second."""
    with load(programs, broker, rate=rate, seconds=reloads) as loading:
        turn = 0
        while loading.poll() is None:
            change(turn)
            turn += 1
            time.sleep(1)
        result = seen(loading)
    return f"{json.dumps(result['times'])} slowest {result['worst_ms']:.1f} ms, {json.dumps(result['ends'])}"


def run(options):
    programs = build_all(with_broker=True)
    with Bench() as bench:
        broker = bench.broker(programs, bench.vault(programs), options.users)
        costs = [cpu_of_reload(bench, broker, options.users, f"changed {turn}") for turn in range(options.reloads)]
        mean, worst = sum(costs) / len(costs) * 1e3, max(costs) * 1e3
        print(f"{options.users:,} users, all passwords changed: {mean:.0f} ms of CPU, {worst:.0f} at most")
        quiet = times(programs, broker, options.rate, options.reloads, lambda _: None)
        print(f"calls within … ms, without reloads: {quiet}")

        def change(turn):
            bench.write_users(options.users, f"while called {turn}", CREDENTIALS)
            broker.process.send_signal(signal.SIGHUP)

        print(f"calls within … ms, while reloading: {times(programs, broker, options.rate, options.reloads, change)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000, help="users in the file (default 100,000)")
    parser.add_argument("--reloads", type=int, default=10, help="how many reloads of each kind (default 10)")
    parser.add_argument("--rate", type=int, default=1_000, help="calls a second (default 1,000)")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
