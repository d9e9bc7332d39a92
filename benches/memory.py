#!/usr/bin/env python3
"""The broker's resident memory: idle with one user, with many users configured, and with the tokens of all of them cached.

    python3 benches/memory.py [--users N]

The many users stand in one file of credentials; each is asked for once, so the figure includes what those sign-ins left behind.
"""

import argparse

from harness import Bench, build_all, fill


def mib(kib):
    return f"{kib / 1024:8.1f} MiB"


def report(what, program):
    resident, peak = program.memory()
    print(f"{what:34} {mib(resident)}   (at most {mib(peak).strip()})", flush=True)
    return resident


def run(users):
    programs = build_all(with_broker=True)
    with Bench() as bench:
        idle = report("idle, 1 user", bench.broker(programs, bench.vault(programs), users=1))
    with Bench() as bench:
        broker = bench.broker(programs, bench.vault(programs), users)
        report(f"{users:,} users configured", broker)
        seconds = fill(programs, broker, users)
        cached = report(f"{users:,} users cached", broker)
    # Against the idle one: what was used to read the file is used again for tokens, so the difference to that says nothing.
    print(f"\na busy user takes {(cached - idle) * 1024 / users:.0f} bytes in all; {users / seconds:.0f} sign-ins a second")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000, help="users to configure and cache (default 100,000)")
    run(parser.parse_args().users)


if __name__ == "__main__":
    main()
