"""What it takes to sign in many users who all ask at once, against a vault that takes its time; and the time of a start."""

import socket
import statistics
import subprocess
import time

from clients import press
from figures import Figure, show
from harness import Bench, stop

USERS = 10_000
VAULT_DELAY_MS = 50
# As many at once at the vault: the default, and more.
AT_ONCE = (64, 256)
CONNECTIONS = 8
# Users over limit, times the vault's delay, is the least that the wall time can be.
WALL_LIMIT = 1.15
CPU_LIMIT_MICROS = 40
MEMORY_LIMIT_MIB = 64
START_LIMIT_MS = 100
START_PATIENCE_SECONDS = 30
# What the broker does after it has started, such as purging what reading the file took, is over by then.
QUIET_SECONDS = 2


def burst(programs, at_once):
    """All users at once: wall seconds, CPU microseconds of a miss, MiB of memory more than before at its most."""
    with Bench() as bench:
        vault = bench.vault(programs, delay_ms=VAULT_DELAY_MS)
        broker = bench.broker(programs, vault, USERS, vault_keys=f"max_concurrent_sign_ins = {at_once}\n")
        time.sleep(QUIET_SECONDS)
        broker.forget_peak()
        before, cpu = broker.memory()[0], broker.cpu_seconds()
        rate = press(programs, broker, calls=USERS, users=USERS, connections=CONNECTIONS, streams=USERS // CONNECTIONS)
        spent = broker.cpu_seconds() - cpu
        after, peak = broker.memory()
        return USERS / rate, spent / USERS * 1e6, (peak - before) / 1024, (after - before) / 1024


def measure(programs, options):
    figures = []
    for at_once in AT_ONCE:
        bursts = [burst(programs, at_once) for _ in range(options.rounds)]
        walls, cpus, peaks, kept = zip(*bursts, strict=True)
        least = USERS / at_once * VAULT_DELAY_MS / 1e3
        name = f"{USERS:,} users at once, {at_once} sign-ins at a time"
        beside = {"wall": show(statistics.median(walls), "s"), "at least": show(least, "s"), "errors": "0"}
        figures += [
            Figure(f"{name}: wall time ÷ the least", [wall / least for wall in walls], limit=WALL_LIMIT, beside=beside),
            Figure(f"{name}: CPU of a miss", list(cpus), "µs", limit=CPU_LIMIT_MICROS),
            Figure(
                f"{name}: memory at its most, more than before",
                list(peaks),
                "MiB",
                limit=MEMORY_LIMIT_MIB,
                beside={"afterwards": show(statistics.median(kept), "MiB more")},
            ),
        ]
        print(f"misses: {at_once} at a time", flush=True)
    return figures


def ready(address):
    """Whether GET /readyz is answered with 200."""
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1) as connection:
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def start_milliseconds(bench, programs, vault, turn):
    """From exec to the first answer that it is ready."""
    config, _, admin = bench.configure(vault, USERS, f"start-{turn}")
    log = (bench.directory / f"start-{turn}.log").open("w")
    began = time.monotonic()
    with log, subprocess.Popen([programs["token-broker"], "serve", "--config", config], stdout=log, stderr=log) as process:
        try:
            while not ready(admin):
                if process.poll() is not None or time.monotonic() > began + START_PATIENCE_SECONDS:
                    raise RuntimeError("the broker did not start")
                time.sleep(0.0005)
            return (time.monotonic() - began) * 1e3
        finally:
            stop(process)


def measure_start(programs, options):
    with Bench() as bench:
        vault = bench.vault(programs)
        taken = [start_milliseconds(bench, programs, vault, turn) for turn in range(options.rounds + 1)]
    # The first one reads the program from disk.
    return [Figure(f"from exec to ready, {USERS:,} users", taken[1:], "ms", limit=START_LIMIT_MS)]
