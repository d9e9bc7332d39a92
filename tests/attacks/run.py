#!/usr/bin/env python3
"""Attacks a broker, one kind after the other, and judges how its callers and probes fare meanwhile.

    python3 tests/attacks/run.py [--seconds N] [--attack NAME]… [--transport plaintext|tls|both] [--json FILE] [--rough]
                                 [--broker FILE --sandbox FILE] [--keep]

Each attack has a broker and a development vault of its own, in plaintext or over TLS with client certificates: ATTACKS says
which. Callers on standing connections, callers that connect for each call, callers that ask for users nobody asked for, and
probes are seen for a while in calm, and then under the attack. The broker has failed where

- less than 99.9 % of the calls on standing connections, or on new ones, are answered within ten times their own calm p99, or
  20 ms, if that is more;
- a probe (/livez, /readyz, or health) is not answered within a second, or a user nobody asked for gets no token;
- the broker's resident memory was above MEMORY_MAX_MIB (stage.py) at any time, or its process ended;
- something does not hold that the attack itself looks at, which then stands below its line.

Attackers run in one process with the lowest priority, and send what was made before, so that it is the broker that is measured
and not a lack of processors. `just attacks` plays all of them, some seconds each; `just attacks-long` a minute each, over both
transports. `.ci/run` judges roughly (--rough): it knows nothing of what else its machine does. Needs openssl, prlimit
(util-linux) and Linux. Other work on the machine looks like a slow broker.
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import sys
import tempfile
import time
import traceback

import control_frames
import crowds
import demands
import handshakes
import memory
import revocation
from stage import (
    DEADLINE_SECONDS,
    KINDS,
    LEAST_BOUND_MS,
    MEMORY_MAX_MIB,
    PROBE_MS,
    PROBES,
    ROUGH,
    STRICT,
    TIMES_CALM,
    Stage,
    build,
    make_identities,
    need,
)

PLAINTEXT, TLS = "plaintext", "tls"
# The transports that make sense; the first is the default.
ATTACKS = {
    revocation.revoked_ca: (TLS,),
    revocation.too_old: (TLS, PLAINTEXT),
    revocation.drain: (TLS, PLAINTEXT),
    memory.health_watches: (PLAINTEXT,),
    memory.stranger_watches: (TLS,),
    memory.unread_answers: (PLAINTEXT, TLS),
    memory.crumbs_of_answers: (PLAINTEXT, TLS),
    memory.idle_connections: (PLAINTEXT, TLS),
    handshakes.half_handshakes_30_of_one: (TLS,),
    handshakes.half_handshakes_200_of_one: (TLS,),
    handshakes.half_handshakes_30_of_many: (TLS,),
    handshakes.half_handshakes_200_of_many: (TLS,),
    crowds.crowd_of_callers: (PLAINTEXT, TLS),
    crowds.crowd_of_probes: (PLAINTEXT,),
    crowds.half_requests: (PLAINTEXT,),
    crowds.unread_pages: (PLAINTEXT,),
    crowds.few_descriptors: (PLAINTEXT, TLS),
    crowds.fewest_descriptors: (PLAINTEXT, TLS),
    demands.complaints: (TLS,),
    demands.long_lives_ahead: (PLAINTEXT, TLS),
    demands.long_lives_at_expiry: (PLAINTEXT, TLS),
    demands.strangers: (TLS,),
    demands.denied: (TLS,),
    control_frames.window_updates: (PLAINTEXT, TLS),
    control_frames.priorities: (PLAINTEXT, TLS),
    control_frames.pings: (PLAINTEXT, TLS),
    control_frames.settings: (PLAINTEXT, TLS),
    control_frames.empty_data: (PLAINTEXT, TLS),
    control_frames.padded_data: (PLAINTEXT, TLS),
    control_frames.continuations: (PLAINTEXT, TLS),
    control_frames.rapid_resets: (PLAINTEXT, TLS),
}
NAMES = [attack.__name__ for attack in ATTACKS]

# All attacks together in less than four minutes.
SHORT_SECONDS = 4.0
# The calm before lasts a part of the attack, within these.
CALM_PART, LEAST_CALM_SECONDS, MOST_CALM_SECONDS = 0.4, 1.5, 6.0

COLUMNS = "{:29} {:9}  {:>8} {:>15} {:>17}  {:>8} {:>15} {:>17}  {:>16} {:>9} {:>8}  {}"
HEAD = ("attack", "transport", "standing", "p50 calm → then", "p99 calm → then", "new", "p50 calm → then", "p99 calm → then")
HEAD += ("probes, slowest", "cold", "peak MiB", "verdict")


def play(attack, transport, programs, certificates, options):
    calm_seconds = min(MOST_CALM_SECONDS, max(LEAST_CALM_SECONDS, options.seconds * CALM_PART))
    stage = Stage(attack.__name__, programs, certificates, options.seconds, calm_seconds, transport == TLS)
    try:
        with stage:
            attack(stage)
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{attack.__name__}-{transport}.log").write_bytes(stage.log())
    except Exception:
        # The others are played all the same.
        stage.result.faults.append(traceback.format_exc(limit=-3))
    if stage.result.attacked:
        stage.result.judge(ROUGH if options.rough else STRICT)
    return stage.result


def columns(result):
    yield from (result.attack, result.transport)
    for kind in KINDS:
        share, _ = result.share(kind, result.bound_ms(kind))
        yield f"{share:.2%}"
        for quantile in (0.5, 0.99):
            calm, then = (result.quantile(phase, kind, quantile) for phase in (result.calm, result.attacked))
            yield f"{calm:.1f} → {then:.1f}"
    shares = [result.share(kind, PROBE_MS) for kind in PROBES]
    slowest = max(result.quantile(result.attacked, kind, 1) for kind in PROBES)
    yield f"{sum(share * calls for share, calls in shares):.0f}/{sum(calls for _, calls in shares)} {slowest:.0f} ms"
    share, calls = result.share("cold")
    yield f"{share * calls:.0f}/{calls}"
    yield f"{result.peak_mib:.0f}"
    yield "failed" if result.faults else "held"


def tell(result):
    if result.attacked:
        print(COLUMNS.format(*columns(result)))
        bounds = ", ".join(f"{kind} {result.bound_ms(kind):.0f} ms ({bound_is(result, kind)})" for kind in KINDS)
        print(f"    bounds: {bounds}; " + ", ".join(f"{name}: {value}" for name, value in result.figures.items()))
    else:
        print(f"{result.attack} {result.transport}: failed")
    for fault in result.faults:
        print(f"  ! {fault}")
    sys.stdout.flush()


def bound_is(result, kind):
    if result.bound_ms(kind) == LEAST_BOUND_MS:
        return "the least"
    # Which proves little where something else keeps the machine busy.
    is_calm = result.quantile(result.calm, kind, 0.99) < LEAST_BOUND_MS
    return f"{TIMES_CALM} times the calm p99{'' if is_calm else ', which was no calm'}"


def summary(result):
    """The figures for --json; a pair is calm, and then."""
    told = {"attack": result.attack, "transport": result.transport, "faults": result.faults, "figures": result.figures}
    if not result.attacked:
        return told
    told["peak_mib"] = round(result.peak_mib, 1)
    phases = (result.calm, result.attacked)
    for kind, bound in (
        [(kind, result.bound_ms(kind)) for kind in KINDS]
        + [(kind, PROBE_MS) for kind in PROBES]
        + [("cold", 1e3 * DEADLINE_SECONDS)]
    ):
        share, calls = result.share(kind, bound)
        told[kind] = {
            "share": round(share, 5),
            "calls": calls,
            "bound_ms": round(bound, 1),
            "failures": result.attacked["failures"].get(kind, {}),
        }
        for name, quantile in (("p50_ms", 0.5), ("p99_ms", 0.99), ("slowest_ms", 1)):
            found = [result.quantile(phase, kind, quantile) for phase in phases]
            told[kind][name] = [ms if math.isfinite(ms) else None for ms in found]
    return told


def chosen(options):
    for attack, transports in ATTACKS.items():
        if options.attack and attack.__name__ not in options.attack:
            continue
        wanted = {None: transports[:1], "both": transports}.get(options.transport, (options.transport,))
        yield from ((attack, transport) for transport in transports if transport in wanted)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SHORT_SECONDS, help=f"of each attack (default {SHORT_SECONDS:.0f})")
    parser.add_argument("--attack", action="append", choices=NAMES, metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--transport", choices=(PLAINTEXT, TLS, "both"), help="otherwise the first of each attack's")
    parser.add_argument("--rough", action="store_true", help="judge as roughly as a busy machine needs it")
    parser.add_argument("--json", type=pathlib.Path, help="a file for the figures")
    parser.add_argument("--broker", type=pathlib.Path, help="the broker's binary (otherwise built, in release mode)")
    parser.add_argument("--sandbox", type=pathlib.Path, help="the development vault's binary (otherwise built, in release mode)")
    parser.add_argument("--keep", type=pathlib.Path, help="a directory for the brokers' logs")
    return parser.parse_args()


def find_programs(options):
    given = {"token-broker": options.broker, "token-broker-sandbox": options.sandbox}
    if not all(given.values()):
        given |= build("--bin", "token-broker") | build("--package", "token-broker-sandbox")
    return {name: pathlib.Path(path).resolve(strict=True) for name, path in given.items()}


def main():
    options = arguments()
    need("openssl", "openssl")
    need("prlimit", "util-linux")
    programs, began, results = find_programs(options), time.monotonic(), []
    # Whatever else the machine does is taken for the broker's.
    print(f"times in ms; memory may be {MEMORY_MAX_MIB} MiB; load before: {os.getloadavg()[0]:.1f}\n{COLUMNS.format(*HEAD)}")
    with contextlib.ExitStack() as stack:
        certificates = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="token-broker-attacks-")))
        make_identities(certificates)
        for attack, transport in chosen(options):
            results.append(play(attack, transport, programs, certificates, options))
            tell(results[-1])
    if options.json:
        options.json.write_text(json.dumps([summary(result) for result in results], indent=1) + "\n")
    failed = [result for result in results if result.faults]
    # In pytest's words, which .ci/run counts.
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed in {time.monotonic() - began:.2f}s")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
