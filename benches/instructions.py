#!/usr/bin/env python3
"""The instructions of one cached call, in the broker and in a tonic server with every default that answers as many bytes.

    python3 benches/instructions.py [--few N] [--many N] [--table [FUNCTIONS]]

Each server runs under callgrind, is driven by h2load with 4 connections of 8 streams, and does so twice, with few and with many
calls: the difference in instructions over the difference in calls is a call, and what start and end cost drops out. Unlike CPU
time this hardly depends on the machine and on what else runs there; but all threads share one processor, and the kernel's part is
not in it. --table prints the functions with the largest inclusive shares of the broker's many calls. Needs Debian's valgrind and
nghttp2-client. See calls.py for CPU time.
"""

import argparse
import os
import re
import subprocess

from calls import h2load, request_body
from harness import Bench, build_all, fill, need

FEW = 2_000
MANY = 12_000
TABLE_FUNCTIONS = 60
# Longest name that the table prints: generic code has names of a thousand characters.
NAME_WIDTH = 150
# Callgrind writes its counts at the end, which takes longer than the end itself.
END_SECONDS = 60


def instructions(counts):
    """All instructions of a run: callgrind's `summary` (or `totals`) line."""
    found = re.findall(r"^(?:summary|totals): (\d+)", counts.read_text(), re.MULTILINE)
    if not found:
        raise RuntimeError(f"no counts in {counts}")
    return int(found[-1])


def measure(programs, start, calls, table=0):
    """The instructions of a server from its start to its end, with so many calls between."""
    with Bench() as bench:
        body = bench.directory / "request.bin"
        body.write_bytes(request_body())
        counts = bench.directory / "callgrind.out"
        server = start(bench, ["valgrind", "--tool=callgrind", f"--callgrind-out-file={counts}"])
        fill(programs, server, users=1)
        h2load(server, body, calls)
        server.process.terminate()
        server.process.wait(END_SECONDS)
        if table:
            print_table(counts, table)
        return instructions(counts)


def print_table(counts, functions):
    """The functions with the largest inclusive shares, without the paths that callgrind puts before and after each name."""
    command = ["callgrind_annotate", "--inclusive=yes", "--threshold=100", "--tree=none", counts]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    rows = re.findall(r"^ *[\d,]+ \( ?([\d.]+)%\)  (?:\S*?:)?(.+?)(?: \[[^\]]*\])?$", output, re.MULTILINE)
    print("share of all instructions, with what each function calls:")
    # The first row is the whole program.
    for share, name in rows[1 : functions + 1]:
        print(f"{share:>7} %  {name[:NAME_WIDTH]}")
    print()


def run(few, many, table):
    # The same code as is shipped, with its names left in for the table.
    os.environ["CARGO_PROFILE_RELEASE_STRIP"] = "none"
    programs = build_all(with_broker=True)
    costs = {}
    with Bench() as upstream:
        vault = upstream.vault(programs)
        sides = {
            "echo": lambda bench, under: bench.echo(programs, under=under),
            "broker": lambda bench, under: bench.broker(programs, vault, users=1, under=under),
        }
        for name, start in sides.items():
            shown = table if name == "broker" else 0
            difference = measure(programs, start, many, shown) - measure(programs, start, few)
            costs[name] = difference / (many - few)
            print(f"{name:8} {costs[name]:10,.0f} instructions a call", flush=True)
    print(f"ratio    {costs['broker'] / costs['echo']:10.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=FEW, help=f"calls of the first run (default {FEW:,})")
    parser.add_argument("--many", type=int, default=MANY, help=f"calls of the second run (default {MANY:,})")
    parser.add_argument(
        "--table", type=int, nargs="?", const=TABLE_FUNCTIONS, default=0, metavar="FUNCTIONS", help="print the broker's functions"
    )
    arguments = parser.parse_args()
    if arguments.few >= arguments.many:
        parser.error("--few must be less than --many")
    need("valgrind", "valgrind")
    need("h2load", "nghttp2-client")
    run(arguments.few, arguments.many, arguments.table)


if __name__ == "__main__":
    main()
