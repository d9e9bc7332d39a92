"""Whether two cores are used: calls a second from two load generators at once, beside the echo's, and the CPU of each thread.

The generators share the processor with the server, so that none of the rates is what a server could do alone.
"""

import statistics
import subprocess
import time

from clients import TURN_SECONDS, h2load_command, h2load_result
from cpu import in_turn
from figures import Figure
from harness import Bench
from idle import connect

CONNECTIONS = (2, 3, 4, 8, 64)
STREAMS = 8
LEAST_RATIO = 1.5
# Of two threads that serve a connection each, the less busy one has at least this part of the busier one's CPU: if both
# connections were on one thread it would have none, and how much a generator gets of the shared processor varies.
LEAST_BALANCE = 0.5
WARM_UP_SECONDS = 1
# A thread with less CPU than this is not worth a word.
TOLD_SECONDS = 0.005


def two_generators(bench, server, connections, seconds):
    """Calls a second of both together."""
    halves = (connections - connections // 2, connections // 2)
    generators = []
    for half in halves:
        command = h2load_command(bench, server, half, STREAMS, ["-D", str(seconds)])
        generators.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    outputs = [generator.communicate(timeout=TURN_SECONDS)[0] for generator in generators]
    return sum(h2load_result(output)[0] for output in outputs) / seconds


def busy_threads(before, after):
    """Name and CPU seconds of each thread between two readings, the busiest first."""
    spent = [(name, seconds - before.get(tid, ("", 0.0))[1]) for tid, (name, seconds) in after.items()]
    return sorted(spent, key=lambda thread: -thread[1])


def serving(threads):
    """The threads that serve connections: named for it, or else the runtime's."""
    named = [thread for thread in threads if thread[0].startswith("calls-")]
    return named or [thread for thread in threads if thread[0].startswith("tokio")]


def balance(bench, broker, seconds):
    """The CPU of each thread with two connections, opened when of three older ones, all silent, two were closed."""
    silent = [connect(broker) for _ in range(3)]
    silent[0].close()
    silent[2].close()
    time.sleep(0.2)
    before = broker.thread_seconds()
    two_generators(bench, broker, 2, seconds)
    threads = busy_threads(before, broker.thread_seconds())
    silent[1].close()
    busier, other = [seconds for _, seconds in serving(threads)[:2]]
    return other / busier, threads


def measure(programs, options):
    rates = {(side, count): [] for side in ("broker", "echo") for count in CONNECTIONS}
    balances, threads = [], []
    with Bench() as bench:
        servers = {"broker": bench.broker(programs, bench.vault(programs), 1), "echo": bench.echo(programs)}
        for server in servers.values():
            two_generators(bench, server, 4, WARM_UP_SECONDS)
        for round_number in range(1, options.rounds + 1):
            for count in CONNECTIONS:
                for side in in_turn(round_number, list(servers)):
                    rates[side, count].append(two_generators(bench, servers[side], count, options.seconds))
            found, threads = balance(bench, servers["broker"], options.seconds)
            balances.append(found)
            print(f"cores: round {round_number} of {options.rounds}", flush=True)
    figures = []
    for count in CONNECTIONS:
        ours, theirs = rates["broker", count], rates["echo", count]
        beside = {"calls/s": f"{statistics.median(ours):,.0f} and {statistics.median(theirs):,.0f}"}
        ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
        figures.append(Figure(f"calls/s, {count} connections", ratios, limit=LEAST_RATIO, at_least=True, beside=beside))
    # Those of the last round, as an example.
    beside = {}
    for thread, spent in threads:
        if spent >= TOLD_SECONDS:
            beside[thread] = f"{beside[thread]} and {spent:.2f} s" if thread in beside else f"{spent:.2f} s"
    name = "CPU of two threads, lesser ÷ greater, 2 connections"
    return [*figures, Figure(name, balances, limit=LEAST_BALANCE, at_least=True, beside=beside)]
