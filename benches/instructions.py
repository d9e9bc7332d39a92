#!/usr/bin/env python3
"""The instructions of one cached call, in the broker and in the echo, and whether the broker's are those that were committed.

    python3 benches/instructions.py [--hold | --commit] [--profile] [--table [FUNCTIONS]]

Each server runs under callgrind, is driven by h2load, and does so twice, with few and with many calls: the difference in
instructions over the difference in calls is a call, and what start and end cost drops out. Unlike CPU time this hardly depends on
what else runs on the machine; but all threads share one processor, and the kernel's part is not in it.

--hold compares the broker's figures with benches/instructions.json and fails where one is more than 3 % off, to either side;
--commit writes them there. --profile prints how a call's instructions are spread over the parts of the program; --table the
functions with the largest inclusive shares. Needs Debian's valgrind and nghttp2-client.
"""

import argparse
import json
import os
import pathlib
import platform
import sys

import callgrind
from clients import h2load
from figures import Figure
from granter import Granter
from harness import Bench, build, build_all, need

FEW = 2_000
MANY = 8_000
TABLE_FUNCTIONS = 60
# Callgrind writes its counts at the end, which takes longer than the end itself.
END_SECONDS = 120
LIMIT = 48_000
AIM = 42_000
# Connections and streams: as most rows of `cpu`, where calls are read and answered several at a time; and one call at a time,
# which hardly varies.
SHAPES = {"hit": (4, 8), "hit alone": (1, 1)}
COMMITTED = pathlib.Path(__file__).with_name("instructions.json")
TOLERANCE = 0.03
# Whose instructions are committed. Valgrind shows programs a processor of its own (with AVX2, whatever the maker, where the real
# one has it), so that glibc, Rust and aws-lc choose the same code on all of these machines.
PROCESSOR = "x86_64"
# glibc copies and clears more than some KiB by `rep movsb`, where the processor has it, and callgrind counts each byte of that as
# an instruction: without it, a byte more in a buffer doesn't look like thirty-two times its cost.
TUNABLES = "glibc.cpu.hwcaps=-ERMS"


def count(start, shape, calls, by_function):
    """The counts of a server from its start to its end, with so many calls between."""
    with Bench() as bench:
        counts = bench.directory / "callgrind.out"
        under = ["env", f"GLIBC_TUNABLES={TUNABLES}", "valgrind", "--tool=callgrind", f"--callgrind-out-file={counts}"]
        server = start(bench, under)
        # The first call is a miss.
        h2load(bench, server, 1, 1, 1)
        h2load(bench, server, *shape, calls)
        server.process.terminate()
        server.process.wait(END_SECONDS)
        return callgrind.Counts(counts, by_function)


def a_call(start, shape, by_function=False):
    """The instructions of one call, and the counts of both runs."""
    less, more = (count(start, shape, calls, by_function) for calls in (FEW, MANY))
    return (more.total - less.total) / (MANY - FEW), less, more


def broker_starter(programs, vault):
    return lambda bench, under: bench.broker(programs, vault, users=1, under=under)


def measure_all(programs, _):
    """Both servers' figures."""
    figures = []
    with Granter() as vault:
        starters = {"broker": broker_starter(programs, vault), "echo": lambda bench, under: bench.echo(programs, under=under)}
        for name, shape in SHAPES.items():
            costs = {side: a_call(start, shape)[0] for side, start in starters.items()}
            beside = {"echo": f"{costs['echo']:,.0f}", "ratio": f"{costs['broker'] / costs['echo']:.2f}"}
            held = {"limit": LIMIT, "aim": AIM} if name == "hit" else {}
            label = f"{name}, {shape[0]}x{shape[1]}"
            figures.append(Figure(label, [costs["broker"]], "instructions", beside=beside, **held))
            print(f"instructions: {label}: {costs}", flush=True)
    return figures


def compare(found, committed):
    """What is wrong with the figures, in words; nothing, if they are as committed."""
    for name, value in found.items():
        expected = committed["instructions"][name]
        change = value / expected - 1
        if change > TOLERANCE:
            yield f"{name}: {value:,} instructions, {change:.1%} more than the {expected:,} committed"
        elif change < -TOLERANCE:
            yield f"{name}: {value:,} instructions, {-change:.1%} fewer than the {expected:,} committed: commit the better figure"


def broker_figures():
    """The broker's figures, without the echo: it alone is built."""
    programs = build("--bin", "token-broker")
    with Granter() as vault:
        start = broker_starter(programs, vault)
        return {name: round(a_call(start, shape)[0]) for name, shape in SHAPES.items()}


def hold():
    if platform.machine() != PROCESSOR:
        print(f"Nothing to compare: the figures that are committed are of {PROCESSOR}.")
        return
    found = broker_figures()
    print(*(f"{name}: {value:,} instructions" for name, value in found.items()), sep="\n", flush=True)
    faults = list(compare(found, json.loads(COMMITTED.read_text())))
    if faults:
        print(*faults, "`python3 benches/instructions.py --commit` writes the figures; the commit says why.", sep="\n")
        sys.exit(1)


def commit():
    note = "Instructions of a cached call under callgrind, as benches/instructions.py takes them; CI holds them within 3 %."
    COMMITTED.write_text(json.dumps({"note": note, "instructions": broker_figures()}, indent=2) + "\n")
    print(COMMITTED.read_text())


def show(options):
    programs = build_all(with_broker=True)
    with Granter() as vault:
        cost, less, more = a_call(broker_starter(programs, vault), SHAPES["hit"], by_function=True)
        if options.profile:
            print(callgrind.profile(less, more, MANY - FEW))
        if options.table:
            print(more.inclusive_table(options.table))
        echo = a_call(lambda bench, under: bench.echo(programs, under=under), SHAPES["hit"])[0]
    print(f"broker {cost:,.0f} instructions a call, echo {echo:,.0f}, ratio {cost / echo:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hold", action="store_true", help="fail where the figures are not those that are committed")
    parser.add_argument("--commit", action="store_true", help="write the figures")
    parser.add_argument("--profile", action="store_true", help="how a call is spread over the parts of the program")
    parser.add_argument("--table", type=int, nargs="?", const=TABLE_FUNCTIONS, default=0, metavar="FUNCTIONS")
    options = parser.parse_args()
    need("valgrind", "valgrind")
    need("h2load", "nghttp2-client")
    # The same code as is shipped, with its names left in.
    os.environ["CARGO_PROFILE_RELEASE_STRIP"] = "none"
    if options.hold:
        hold()
    elif options.commit:
        commit()
    else:
        show(options)


if __name__ == "__main__":
    main()
