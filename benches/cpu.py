"""The CPU of one cached call, user and system time of the whole process, as a ratio to the echo's in the same round.

Broker and echo of a row are driven by the same client in turn; whoever goes first goes last in the next round. The echo always
speaks plaintext. Brokers are what operators run: metrics are on, and the audit trail goes to a file.
"""

import statistics
import time

from certificates import account_options, accounts, make_certificates, make_token, mutual, mutual_options
from clients import fill, h2load, press
from figures import Figure, show
from harness import OPEN, SETTLE_SECONDS, Bench

SUMMED = '[audit]\nhits = "summed"\n'
# What may be saved by summing the trail's lines.
SUMMED_LESS = 0.10
# Random users beside one: what a cache as large as the processor's doesn't hold costs.
RANDOM_LIMIT = 1.10
WARM_UP_CALLS = 10_000
# A call at a time takes far longer, and none of it is CPU.
ALONE_PART = 4


class Row:
    """What is driven how, with its limit and its aim; `kind` is which broker."""

    def __init__(self, name, kind, shape, limit, aim):
        self.name, self.kind, self.shape, self.limit, self.aim = name, kind, shape, limit, aim


ROWS = [
    Row("plaintext, 4x8", "plain", (4, 8), 0.60, 0.45),
    Row("plaintext, 8x32", "plain", (8, 32), 0.65, 0.50),
    Row("plaintext, 1x1", "plain", (1, 1), 1.00, 0.85),
    Row("TLS, client certificate, 100 callers, 4x8", "mutual", (4, 8), 0.70, 0.55),
    Row("TLS, service account's token, 100 callers, 4x8", "accounts", (4, 8), 0.75, 0.60),
]


def start(bench, programs):
    """The echo, and each kind of broker with the trail in each way."""
    make_certificates(bench.directory)
    make_token(bench.directory)
    vault = bench.vault(programs)
    servers = {"echo": bench.echo(programs)}
    for kind, tables in (("plain", OPEN), ("mutual", mutual()), ("accounts", accounts())):
        servers[kind] = bench.broker(programs, vault, 1, kind, tables=tables)
        servers[f"{kind}, summed"] = bench.broker(programs, vault, 1, f"{kind}-summed", tables=tables + SUMMED)
    return servers


def drive(bench, programs, servers, row, side, calls):
    """CPU microseconds of a call, and the calls a second."""
    server = servers[side]
    connections, streams = row.shape
    before = server.cpu_seconds()
    if row.kind == "plain":
        rate = h2load(bench, server, connections, streams, calls)
    else:
        options = {"mutual": mutual_options, "accounts": account_options}[row.kind](bench.directory) if side != "echo" else {}
        shape = {"connections": connections, "streams": streams}
        rate = press(programs, server, tls=bool(options), calls=calls, **shape, **options)
    time.sleep(SETTLE_SECONDS)
    return (server.cpu_seconds() - before) / calls * 1e6, rate


def in_turn(round_number, sides):
    """Whoever goes first goes last in the next round."""
    return sides[:: 1 if round_number % 2 else -1]


def one_round(bench, programs, servers, found, round_number, calls):
    for row in ROWS:
        here = calls // ALONE_PART if row.shape == (1, 1) else calls
        for side in in_turn(round_number, [row.kind, "echo", f"{row.kind}, summed"]):
            found.setdefault((row.name, side), []).append(drive(bench, programs, servers, row, side, here))


def median_of(pairs, index):
    return statistics.median(pair[index] for pair in pairs)


def figures_of(found, row, side, less):
    echo, broker = found[row.name, "echo"], found[row.name, side]
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(broker, echo, strict=True)]
    name = f"{row.name}, hits summed" if less else row.name
    beside = {"broker": show(median_of(broker, 0), "µs"), "echo": show(median_of(echo, 0), "µs")}
    beside |= {"calls/s": f"{median_of(broker, 1):,.0f} and {median_of(echo, 1):,.0f}"}
    return Figure(name, ratios, limit=round(row.limit - less, 2), aim=round(row.aim - less, 2), beside=beside)


def random_users(programs, options):
    """Many users at random beside one, at the same broker, with the same client."""
    sides = {"one": {"users": 1}, "many": {"users": options.users, "order": "random", "seed": options.seed}}
    costs = {name: [] for name in sides}
    with Bench() as bench:
        broker = bench.broker(programs, bench.vault(programs), options.users)
        fill(programs, broker, options.users)
        for round_number in range(1, options.rounds + 1):
            for name in in_turn(round_number, list(sides)):
                before = broker.cpu_seconds()
                press(programs, broker, calls=options.calls, **sides[name])
                time.sleep(SETTLE_SECONDS)
                costs[name].append((broker.cpu_seconds() - before) / options.calls * 1e6)
    ratios = [many / one for one, many in zip(*costs.values(), strict=True)]
    beside = {name: show(statistics.median(found), "µs") for name, found in costs.items()} | {"seed": options.seed}
    return Figure(f"{options.users:,} users at random ÷ one user, 4x8", ratios, limit=RANDOM_LIMIT, beside=beside)


def measure(programs, options):
    found = {}
    with Bench() as bench:
        servers = start(bench, programs)
        for row in ROWS:
            for side in (row.kind, "echo", f"{row.kind}, summed"):
                drive(bench, programs, servers, row, side, min(WARM_UP_CALLS, options.calls))
        for round_number in range(1, options.rounds + 1):
            one_round(bench, programs, servers, found, round_number, options.calls)
            print(f"cpu: round {round_number} of {options.rounds}", flush=True)
    figures = [figures_of(found, row, row.kind, 0.0) for row in ROWS]
    figures += [figures_of(found, row, f"{row.kind}, summed", SUMMED_LESS) for row in ROWS]
    return [*figures, random_users(programs, options)]
