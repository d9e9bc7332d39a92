#!/usr/bin/env python3
"""How well callers are served while the vault comes and goes, and how many sign-ins that costs.

    python3 benches/outages.py [--minutes N] [--users N] [--rate N] [--lifetime SECONDS] [--every SECONDS] [--down SECONDS]

The sandbox is stopped (SIGSTOP) for --down seconds of every --every, and brought back: whoever connects meanwhile hears nothing,
as from a machine that hangs. Steady calls, user after user, are timed by their answers. Sign-ins are counted by the sandbox,
against the fewest that could do: each user one, and one more each time a token's whole life has passed.
"""

import argparse
import json
import math
import signal
import time

from clients import load, seen
from harness import Bench, build_all, sign_ins

# The share that is asked for: answers within so many milliseconds.
FAST_MS = 5


def come_and_go(sandbox, loading, every, down):
    """Stops the sandbox at the end of each turn of `every` seconds, for `down` of them; returns the seconds it was away."""
    began, away, turn = time.monotonic(), 0.0, 0
    while loading.poll() is None:
        turn += 1
        if wait(loading, began + turn * every - down):
            break
        stopped = time.monotonic()
        sandbox.process.send_signal(signal.SIGSTOP)
        wait(loading, began + turn * every)
        sandbox.process.send_signal(signal.SIGCONT)
        away += time.monotonic() - stopped
    return away


def wait(loading, until):
    """Sleeps, but no longer than the load runs; returns whether that is over."""
    while time.monotonic() < until:
        if loading.poll() is not None:
            return True
        time.sleep(0.05)
    return False


def run(options):
    seconds = round(options.minutes * 60)
    programs = build_all(with_broker=True, with_sandbox=True)
    with Bench() as bench:
        sandbox = bench.sandbox(programs, options.users, f"{options.lifetime}s")
        broker = bench.broker(programs, sandbox, options.users)
        with load(programs, broker, users=options.users, rate=options.rate, seconds=seconds) as loading:
            away = come_and_go(sandbox, loading, options.every, options.down)
            result = seen(loading)
        total = sign_ins(sandbox)
    calls = sum(result["ends"].values())
    fast = sum(count for limit, count in result["times"].items() if int(limit) <= FAST_MS)
    tokens = result["ends"].get("OK", 0)
    fewest = options.users * math.ceil(seconds / options.lifetime)
    print(f"{calls:,} calls in {seconds} s, the vault away for {away:.0f} s of them, tokens of {options.lifetime} s")
    print(
        f"answered with a token     {tokens / calls:9.4%}   expired ones {result['expired']}, other ends {others(result['ends'])}"
    )
    print(f"answered within {FAST_MS} ms     {fast / calls:9.4%}   the slowest took {result['worst_ms']:.0f} ms")
    print(f"answered within … ms      {json.dumps(result['times'])}")
    print(f"sign-ins at the vault     {total:9,}   {total / fewest:.2f} of the fewest possible, {fewest:,}")


def others(ends):
    return {end: count for end, count in ends.items() if end != "OK"} or "none"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="how long the calls go on (default 10)")
    parser.add_argument("--users", type=int, default=1_000, help="users asked for in turn (default 1,000)")
    parser.add_argument("--rate", type=int, default=500, help="calls a second (default 500)")
    parser.add_argument("--lifetime", type=int, default=120, help="seconds that a token lives (default 120)")
    parser.add_argument("--every", type=float, default=60, help="seconds from one outage's end to the next's (default 60)")
    parser.add_argument("--down", type=float, default=20, help="seconds of an outage (default 20)")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
