#!/usr/bin/env python3
"""The CPU that one cached call costs the broker, against a tonic server with every default that answers as many bytes.

    python3 benches/calls.py [--rounds N] [--calls N] [--control]

Both answer the same service; h2load (Debian's nghttp2-client) drives them in turn with 4 connections of 8 streams, and the CPU
time is read from /proc around each turn. The ratio is what counts: microseconds differ from machine to machine. With --control
the echo is measured against a second echo, which shows how far from 1 a ratio strays by chance.
"""

import argparse
import re
import statistics
import subprocess

from harness import MERCHANT, Bench, build_all, fill, need, number

CONNECTIONS = 4
STREAMS = 8
# Calls to each side before anything is counted: connections, allocator and caches are warm after far fewer.
WARM_UP_CALLS = 20_000
# A turn of h2load that takes longer than this has stalled.
TURN_SECONDS = 120
# gRPC's frame before each message: a byte of flags and four of length.
FRAME_BYTES = 5
# No reply with a token is shorter: some fields take a byte or two less at times. The mean of a turn is above this, unless two
# calls in a hundred were answered with an error, which is status 200 without data, and a success to h2load.
SMALLEST_REPLY_BYTES = 290


def request_body():
    """One framed GetTokenRequest for the first user: both fields are short strings, so each length is one byte."""
    message = b""
    for tag, value in ((0x0A, MERCHANT), (0x12, number(0))):
        message += bytes((tag, len(value))) + value.encode()
    return b"\0" + len(message).to_bytes(4, "big") + message


def h2load(server, body, calls):
    """Makes the calls; returns calls per second and the mean bytes of a reply. An answer without a token is a failure."""
    command = ["h2load", "-n", str(calls), "-c", str(CONNECTIONS), "-m", str(STREAMS), "-t", "1", "-d", body]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    command.append(f"http://{server.address}/tokenbroker.v1.TokenBrokerService/GetToken")
    output = subprocess.run(command, capture_output=True, check=True, text=True, timeout=TURN_SECONDS).stdout
    succeeded = int(re.search(r"(\d+) succeeded", output)[1])
    rate = float(re.search(r"([\d.]+) req/s", output)[1])
    data = int(re.search(r"headers \(space savings [^)]*\), \S+ \((\d+)\) data", output)[1])
    size = data / calls - FRAME_BYTES
    if succeeded != calls or size < SMALLEST_REPLY_BYTES:
        raise RuntimeError(f"not every call was answered with a token:\n{output}")
    return rate, size


def measure(server, body, calls):
    """CPU microseconds per call, calls per second, bytes of a reply."""
    before = server.cpu_seconds()
    rate, size = h2load(server, body, calls)
    return (server.cpu_seconds() - before) / calls * 1e6, rate, size


def run(rounds, calls, control):
    programs = build_all(with_broker=not control)
    with Bench() as bench:
        body = bench.directory / "request.bin"
        body.write_bytes(request_body())
        sides = {"echo": bench.echo(programs)}
        if control:
            sides["control"] = bench.echo(programs, "control")
        else:
            sides["broker"] = bench.broker(programs, bench.vault(programs), users=1)
        for server in sides.values():
            fill(programs, server, users=1)
            h2load(server, body, WARM_UP_CALLS)

        costs = {name: [] for name in sides}
        rates = {name: [] for name in sides}
        sizes = {}
        for round_number in range(1, rounds + 1):
            # Whoever goes first goes second in the next round.
            for name in list(sides)[:: 1 if round_number % 2 else -1]:
                cost, rate, sizes[name] = measure(sides[name], body, calls)
                costs[name].append(cost)
                rates[name].append(rate)
            print(f"round {round_number}: " + ", ".join(f"{name} {costs[name][-1]:.2f} µs" for name in sides), flush=True)

    print(f"\n{'':8} {'CPU µs/call':>12} {'lowest':>8} {'highest':>8} {'calls/s':>10} {'reply bytes':>12}")
    for name in sides:
        cost, rate = statistics.median(costs[name]), statistics.median(rates[name])
        print(f"{name:8} {cost:12.2f} {min(costs[name]):8.2f} {max(costs[name]):8.2f} {rate:10.0f} {sizes[name]:12.1f}")
    echo, other = costs.values()
    ratios = [b / a for a, b in zip(echo, other, strict=True)]
    print(f"\nratio {statistics.median(ratios):.3f} (median of {rounds} rounds, {min(ratios):.3f} to {max(ratios):.3f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (default 7)")
    parser.add_argument("--calls", type=int, default=100_000, help="calls in a turn (default 100,000)")
    parser.add_argument("--control", action="store_true", help="measure the echo against itself")
    arguments = parser.parse_args()
    need("h2load", "nghttp2-client")
    run(arguments.rounds, arguments.calls, arguments.control)


if __name__ == "__main__":
    main()
