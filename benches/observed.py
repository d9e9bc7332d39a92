#!/usr/bin/env python3
"""What being observed costs: the CPU of a cached call without traces, with some and with all of them; and a scrape.

    python3 benches/observed.py [--rounds N] [--calls N] [--users N] [--compare BINARY]

One broker each, driven in turn over 4 connections of 8 streams; the CPU time is read from /proc around each turn. Metrics can't
be turned off: --compare measures another broker's binary beside them, such as one from before them. The collector answers that
it takes no spans, so that what is measured is the broker's part. Then a broker with that many users, each with a token, is
scraped; and one whose users are spread over more merchants than have labels of their own.
"""

import argparse
import statistics
import time
import urllib.request

from clients import fill, press
from harness import MERCHANT, PASSWORD, SETTLE_SECONDS, Bench, build, build_all, free_address, number

WARM_UP_CALLS = 5_000
SCRAPES = 20
# More than have labels of their own.
MERCHANTS = 250


def start(bench, program, name, tables, users=""):
    """A broker with these tables and users, and where its admin port listens."""
    address, admin = free_address(), free_address()
    config = bench.directory / f"{name}.toml"
    config.touch(mode=0o600)
    config.write_text(
        f'[grpc]\nlisten = "{address}"\nlame_duck = "0s"\n[admin]\nlisten = "{admin}"\n[log]\nlevel = "error"\n'
        f'[audit]\nfile = "/dev/null"\n{tables}[vault]\nbase_url = "http://{bench.upstream.address}"\n'
        f"max_concurrent_sign_ins = 1000\n{users or user(MERCHANT, 0)}"
    )
    return bench.start(name, [program, "serve", "--config", config], address), admin


def user(merchant, index):
    return f'[[users]]\nmerchant_id = "{merchant}"\nnumber = "{number(index)}"\npassword = "{PASSWORD}"\n'


def cost(programs, server, calls):
    """CPU microseconds per call."""
    before = server.cpu_seconds()
    press(programs, server, calls=calls)
    time.sleep(SETTLE_SECONDS)
    return (server.cpu_seconds() - before) / calls * 1e6


def measure_calls(programs, rounds, calls, compare):
    with Bench() as bench:
        bench.upstream, collector = bench.vault(programs), bench.echo(programs, "collector")

        def traces(ratio):
            return f'[traces]\nendpoint = "http://{collector.address}"\nsample_ratio = {ratio}\n'

        broker = programs["token-broker"]
        sides = {
            "no traces": start(bench, broker, "untraced", "")[0],
            "traces of 1 %": start(bench, broker, "some", traces(0.01))[0],
            "traces of all": start(bench, broker, "all", traces(1.0))[0],
        }
        if compare:
            sides["compared"] = start(bench, compare, "compared", "")[0]
        for side in sides.values():
            cost(programs, side, WARM_UP_CALLS)
        costs = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                costs[name].append(cost(programs, side, calls))
    base = statistics.median(costs["no traces"])
    for name, found in costs.items():
        middle = statistics.median(found)
        print(
            f"{name:14} {middle:6.1f} µs of CPU a call ({min(found):.1f} to {max(found):.1f}), {middle - base:+.1f}", flush=True
        )


def scrape(broker, admin, what):
    """The size of a scrape and its time, both ends of them; with pauses, so that each gathers the facts anew."""
    times, size = [], 0
    before = broker.cpu_seconds()
    for _ in range(SCRAPES):
        began = time.monotonic()
        with urllib.request.urlopen(f"http://{admin}/metrics", timeout=30) as answer:
            size = len(answer.read())
        times.append(time.monotonic() - began)
        time.sleep(21 * times[-1])
    cpu = (broker.cpu_seconds() - before) / SCRAPES
    median, longest = statistics.median(times) * 1e3, max(times) * 1e3
    print(f"{what}: {size:,} bytes, {median:.1f} ms (at most {longest:.1f}), {cpu * 1e3:.1f} ms of CPU a scrape", flush=True)


def measure_scrapes(programs, users):
    with Bench() as bench:
        bench.upstream = bench.vault(programs)
        every = "".join(user(MERCHANT, index) for index in range(users))
        broker, admin = start(bench, programs["token-broker"], "one-merchant", "", every)
        fill(programs, broker, users)
        scrape(broker, admin, f"{users:,} users of one merchant, each with a token")
        spread = "".join(user(f"merchant-{index % MERCHANTS}", index) for index in range(users))
        broker, admin = start(bench, programs["token-broker"], "many-merchants", "", spread)
        scrape(broker, admin, f"{users:,} users of {MERCHANTS} merchants, none with a token")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default 7)")
    parser.add_argument("--calls", type=int, default=40_000, help="calls in a turn (default 40,000)")
    parser.add_argument("--users", type=int, default=100_000, help="users of the broker that is scraped (default 100,000)")
    parser.add_argument("--compare", help="another broker's binary")
    arguments = parser.parse_args()
    programs = build_all(with_broker=False) | build("--bin", "token-broker", "--features", "traces")
    measure_calls(programs, arguments.rounds, arguments.calls, arguments.compare)
    measure_scrapes(programs, arguments.users)


if __name__ == "__main__":
    main()
