#!/usr/bin/env python3
"""What replicas that share tokens cost and save: sign-ins, hits whatever becomes of the tier, and how soon a complaint is heard.

    python3 benches/shared_tier.py [SECTION…] [--programs DIRECTORY] [--json FILE] [--page FILE] [--users N] [--callers N] …

Sections: fleet, refused, hits, complaints, instructions; all, unless some are named. Real brokers, a real redis-server on a free
port, and the sandbox, which counts. Prints Markdown, and fails where a figure misses its limit. Builds in release mode, or takes
what is in a directory such as target/debug: sign-ins are the same there, times are not. Needs Debian's redis-server, and for
`instructions` valgrind and nghttp2-client.
"""

import argparse
import base64
import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import signal
import sys
import time

import instructions
from figures import Figure, as_json
from granter import Granter
from harness import LOOPBACK, OPEN, Bench, build, free_address, need, raise_descriptors, sign_ins
from performance import print_section, write_page
from wire import Caller

BEGIN, END = "<!-- figures: benches/shared_tier.py --page -->", "<!-- end of figures of shared_tier.py -->"
REPLICAS = 4
# Of the fleet's callers: so many connections to each replica, with so many calls at once. In all less than a replica lets wait.
CONNECTIONS = 20
AT_ONCE = 100
VAULT_DELAY = "50ms"
# Refused users: a fleet of so many that is restarted so often.
REFUSED_REPLICAS = 3
RESTARTS = 20
HITS = 20_000
# Users that nobody asked for before, for the misses beside the hits.
COLD = 2_000
COMPLAINTS = 20
# A token that is complained of within two seconds of its sign-in doubles the floor, which is not what is measured here.
LATER_SECONDS = 2.2
# Others hear of a new token within a second, by the contract.
HEARD_LIMIT_MS = 1_000
# A hit's instructions with the tier, as a part of those without it.
INSTRUCTIONS_LIMIT = 1.01
PATIENCE_SECONDS = 20


def start_redis(bench):
    address = free_address()
    port = address.rsplit(":", 1)[1]
    command = ["redis-server", "--bind", LOOPBACK, "--port", port, "--save", "", "--appendonly", "no", "--dir", bench.directory]
    return bench.start("redis", command, address)


def shared(bench, redis):
    """The table, and the files that it names."""
    for name in ("names", "key"):
        path = bench.directory / name
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(base64.b64encode(os.urandom(32)).decode())
    keys = f'keys = [{{ id = 1, file = "{bench.directory}/key" }}]'
    return f'{OPEN}[shared]\nurl = "redis://{redis.address}"\nname_key_file = "{bench.directory}/names"\n{keys}\n'


class Fleet:
    """Replicas, each in a process of its own, which can be replaced."""

    def __init__(self, bench, programs, vault, redis, replicas, users, vault_keys="", password=None):
        self.bench, self.program, self.starts, self.running = bench, programs["token-broker"], 0, []
        keys = {"tables": shared(bench, redis), "vault_keys": vault_keys}
        self.configured = [bench.configure(vault, users, f"broker-{slot}", **keys) for slot in range(replicas)]
        if password:
            for slot in range(replicas):
                bench.write_users(users, password, f"broker-{slot}-users.toml")
        self.running = [self.start(slot) for slot in range(replicas)]

    def start(self, slot):
        self.starts += 1
        config, address, admin = self.configured[slot]
        command = [self.program, "serve", "--config", config]
        return self.bench.start(f"broker-{slot}-{self.starts}", command, address, admin)

    def restart(self, slot, by):
        process = self.running[slot].process
        process.send_signal(by)
        process.wait(PATIENCE_SECONDS)
        self.running[slot] = self.start(slot)


def ask(broker, requests):
    """All of these over a replica's connections, in order; how many got a token."""
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(Caller(broker.address)) for _ in range(CONNECTIONS)]
        with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as threads:
            parts = [threads.submit(caller.ask_all, requests[at::CONNECTIONS], AT_ONCE) for at, caller in enumerate(callers)]
            return sum(token is not None for part in parts for token, _ in part.result())


def crowd(brokers, users, callers):
    """So many callers for each user at each replica, all replicas at once; an unanswered one is a failure."""
    requests = [(user, ()) for user in range(users) for _ in range(callers)]
    with concurrent.futures.ThreadPoolExecutor(len(brokers)) as threads:
        tokens = sum(threads.map(lambda broker: ask(broker, requests), brokers))
    if tokens != len(brokers) * len(requests):
        raise RuntimeError(f"{tokens:,} of {len(brokers) * len(requests):,} calls were answered with a token")


def fleet(programs, options):
    with Bench() as bench:
        sandbox, redis = bench.sandbox(programs, options.users, "24h", "--delay", VAULT_DELAY), start_redis(bench)
        brokers = Fleet(bench, programs, sandbox, redis, REPLICAS, options.users)
        began = time.monotonic()
        crowd(brokers.running, options.users, options.callers)
        took, cold = time.monotonic() - began, sign_ins(sandbox)
        calls = f"{REPLICAS * options.users * options.callers:,} calls in {took:.0f} s"
        what = f"cold fleet of {REPLICAS}, {options.users:,} users, {options.callers} callers of each at each"
        for slot in range(REPLICAS):
            brokers.restart(slot, signal.SIGTERM)
            crowd(brokers.running[slot : slot + 1], options.users, 2)
        more = sign_ins(sandbox) - cold
    return [
        Figure(what, [cold], "sign-ins", limit=options.users, beside={"": calls}),
        Figure("rolling restart of it, everybody asked for at each", [more], "sign-ins", limit=0),
    ]


def refused(programs, _):
    with Bench() as bench:
        sandbox, redis = bench.sandbox(programs, 1, "24h"), start_redis(bench)
        brokers = Fleet(bench, programs, sandbox, redis, REFUSED_REPLICAS, 1, password="another")  # noqa: S106 - nobody's
        for turn in range(RESTARTS + 1):
            for broker in brokers.running:
                with Caller(broker.address) as caller:
                    if caller.ask():
                        raise RuntimeError("a wrong password was answered with a token")
            if turn < RESTARTS:
                # Rolled out, and crashed.
                brokers.restart(turn % REFUSED_REPLICAS, (signal.SIGTERM, signal.SIGKILL)[turn % 2])
        total = sign_ins(sandbox)
    return [Figure(f"a wrong password over {RESTARTS} restarts of {REFUSED_REPLICAS} replicas", [total], "sign-ins", limit=1)]


class Misses:
    """Beside the hits somebody asks for users whom nobody asked for before, one at a time, so that the tier is asked throughout.

    In a process of its own, lest it be in the way of who takes the times.
    """

    def __init__(self, broker):
        self.asked, self.failed, self.ended = (
            multiprocessing.Value("i", 0),
            multiprocessing.Value("i", 0),
            multiprocessing.Event(),
        )
        self.process = multiprocessing.Process(target=self.run, args=(broker.address,), daemon=True)

    def run(self, address):
        with Caller(address) as caller:
            # A few a second: each is a sign-in at the sandbox, which is on the same processors.
            while not self.ended.wait(0.02) and self.asked.value + 1 < COLD:
                self.asked.value += 1
                self.failed.value += caller.ask(self.asked.value) is None

    def end(self):
        self.ended.set()
        self.process.join(PATIENCE_SECONDS)
        if self.process.exitcode or self.failed.value or self.asked.value + 1 == COLD:
            raise RuntimeError(f"of {self.asked.value} misses {self.failed.value} were answered without a token")


def quantiles(broker):
    """The median and the p99 of hits one after another, in microseconds, as this program sees them."""
    with Caller(broker.address) as caller:
        took = sorted(seconds for token, seconds in caller.ask_all([(0, ())] * HITS, 1) if token)
    if len(took) != HITS:
        raise RuntimeError(f"{HITS - len(took)} hits were answered without a token")
    return took[HITS // 2] * 1e6, took[HITS * 99 // 100] * 1e6, took[-1] * 1e6


def hits(programs, options):
    states = {"healthy": None, "stalled (SIGSTOP)": signal.SIGSTOP, "dead (SIGKILL)": signal.SIGKILL}
    found = {}
    with Bench() as bench:
        sandbox, redis = bench.sandbox(programs, COLD, "24h"), start_redis(bench)
        broker = Fleet(bench, programs, sandbox, redis, 1, COLD).running[0]
        misses = Misses(broker)
        quantiles(broker)
        misses.process.start()
        for state, sent in states.items():
            if sent:
                redis.process.send_signal(sent)
            found[state] = [quantiles(broker) for _ in range(options.rounds)]
        misses.end()
    return [
        Figure(
            f"p99 of hits beside misses, the tier {state}",
            [p99 for _, p99, _ in rounds],
            "µs",
            beside={"median": f"{min(rounds)[0]:.0f} µs", "longest": f"{max(most for *_, most in rounds) / 1e3:.0f} ms"},
        )
        for state, rounds in found.items()
    ]


def heard(brokers, token):
    """Milliseconds from now until all of them answer this token."""
    began = time.monotonic()
    for broker in brokers:
        with Caller(broker.address) as caller:
            while caller.ask() != token:
                if time.monotonic() > began + PATIENCE_SECONDS:
                    raise RuntimeError("a replica goes on answering another token")
    return (time.monotonic() - began) * 1e3


def complaints(programs, _):
    with Bench() as bench:
        sandbox, redis = bench.sandbox(programs, 1, "24h", "--mode", "revoke-old"), start_redis(bench)
        keys = 'min_sign_in_interval = "0s"\n'
        brokers = Fleet(bench, programs, sandbox, redis, REFUSED_REPLICAS, 1, keys).running
        with Caller(brokers[0].address) as caller:
            live = caller.ask()
        heard(brokers, live)
        took, whole = [], []
        for turn in range(COMPLAINTS):
            time.sleep(LATER_SECONDS)
            began = time.monotonic()
            with Caller(brokers[turn % REFUSED_REPLICAS].address) as caller:
                live = caller.ask(rejected=[live])
            took.append(heard(brokers, live))
            whole.append((time.monotonic() - began) * 1e3)
        total = sign_ins(sandbox)
    what = f"a complaint on one of {REFUSED_REPLICAS}, where a sign-in revokes"
    middle = sorted(whole)[COMPLAINTS // 2]
    beside = {"from the complaint": f"{middle:.1f} ms, at most {max(whole):.1f}"}
    return [
        Figure(f"{what}: from its answer until all answer the new token", took, "ms", beside=beside),
        Figure(f"{what}: the longest of {COMPLAINTS}", [max(took)], "ms", limit=HEARD_LIMIT_MS),
        Figure(f"{what}: sign-ins of {COMPLAINTS}, and the first", [total], "sign-ins", limit=COMPLAINTS + 1),
    ]


def a_hit(programs, _):
    shape = instructions.SHAPES["hit"]
    with Bench() as outer, Granter() as vault:
        redis = start_redis(outer)

        def with_tier(bench, under):
            return bench.broker(programs, vault, users=1, under=under, tables=shared(bench, redis))

        alone = instructions.a_call(instructions.broker_starter(programs, vault), shape)[0]
        beside = instructions.a_call(with_tier, shape)[0]
    shown = {"with": f"{beside:,.0f}", "without": f"{alone:,.0f}"}
    return [Figure("instructions of a hit with the tier ÷ without", [beside / alone], limit=INSTRUCTIONS_LIMIT, beside=shown)]


SECTIONS = {"fleet": fleet, "refused": refused, "hits": hits, "complaints": complaints, "instructions": a_hit}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--programs", type=pathlib.Path, metavar="DIRECTORY", help="take the programs there, and build none")
    parser.add_argument("--users", type=int, default=1_000, help="users of `fleet` (default 1,000)")
    parser.add_argument("--callers", type=int, default=50, help="callers of each in `fleet` (default 50)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of `hits` in each state (default 5)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results there")
    parser.add_argument("--page", type=pathlib.Path, metavar="FILE", help="put the tables there, between its marks")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    return options


def built(options):
    if options.programs:
        return {name: options.programs / name for name in ("token-broker", "token-broker-sandbox")}
    os.environ["CARGO_PROFILE_RELEASE_STRIP"] = "none"
    return build("--bin", "token-broker") | build("--package", "token-broker-sandbox")


def main():
    options = parse()
    need("redis-server", "redis-server")
    raise_descriptors()
    sections = [name for name in SECTIONS if name in (options.sections or SECTIONS)]
    if "instructions" in sections:
        need("valgrind", "valgrind")
        need("h2load", "nghttp2-client")
    programs, found = built(options), {}
    for name in sections:
        found[name] = SECTIONS[name](programs, options)
        print_section(name, found[name])
        if options.json:
            options.json.write_text(as_json(found))
    if options.page:
        write_page(options.page, found, (BEGIN, END))
    missed = [figure.name for figures in found.values() for figure in figures if figure.verdict == "missed"]
    print(f"limits missed: {len(missed)}", *missed, sep="\n- ")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
