"""The broker's resident memory: idle, of a cached user, of an idle connection, and over many renewals."""

import re
import time

from certificates import make_certificates, mutual
from clients import fill
from figures import Figure, show
from harness import Bench, raise_descriptors
from idle import connections, context

USERS = 100_000
IDLE_LIMIT_MIB = 16
USER_LIMIT_BYTES = 1_024
# ACCESS_TOKEN_LENGTH of echo/src/lib.rs.
TOKEN_BYTES = 212
CONNECTIONS = 1_000
RENEWED_USERS = 5_000
# So brief that each user is renewed every few seconds.
LIFETIME_SECONDS = 5
# What resident memory may be higher after all renewals than after a tenth of them: pages that the allocator has not given back
# come and go by about as much.
FLAT_LIMIT = 1.05
QUIET_SECONDS = 2
# Between two looks at the count of renewals; and how long it may stand still.
LOOK_SECONDS = 1
STALLED_SECONDS = 60


def of_users(programs):
    with Bench() as bench:
        idle_broker = bench.broker(programs, bench.vault(programs), 1)
        time.sleep(QUIET_SECONDS)
        idle, anonymous = idle_broker.memory()[0], idle_broker.anonymous()
    with Bench() as bench:
        broker = bench.broker(programs, bench.vault(programs), USERS)
        time.sleep(QUIET_SECONDS)
        configured = broker.memory()[0]
        fill(programs, broker, USERS)
        time.sleep(QUIET_SECONDS)
        cached, peak = broker.memory()
    each = (cached - idle) * 1024 / USERS - TOKEN_BYTES
    configured_each = (configured - idle) * 1024 / USERS
    resident = {"resident": show(configured / 1024, "MiB")}
    beside = {"resident": show(cached / 1024, "MiB"), "at most": show(peak / 1024, "MiB")}
    return [
        Figure("idle, 1 user", [idle / 1024], "MiB", limit=IDLE_LIMIT_MIB, beside={"anonymous": show(anonymous / 1024, "MiB")}),
        # What reading the file took is used again for tokens, so this and the next don't add up.
        Figure(f"{USERS:,} users configured: each", [configured_each], "bytes", beside=resident),
        Figure(f"{USERS:,} users cached: each, beyond its token", [each], "bytes", limit=USER_LIMIT_BYTES, beside=beside),
    ]


def of_connections(programs):
    raise_descriptors()
    figures = []
    for name, secret in (("plaintext", False), ("TLS with a client certificate", True)):
        with Bench() as bench:
            make_certificates(bench.directory)
            tables = {"tables": mutual()} if secret else {}
            broker = bench.broker(programs, bench.vault(programs), 1, **tables)
            tls = context(bench.directory) if secret else None
            # The first ones bring what all share.
            with connections(broker, 16, tls):
                time.sleep(QUIET_SECONDS)
            before = broker.memory()[0]
            with connections(broker, CONNECTIONS, tls):
                time.sleep(QUIET_SECONDS)
                after = broker.memory()[0]
        figures.append(Figure(f"idle connection, {name}", [(after - before) / CONNECTIONS], "KiB"))
    return figures


def renewed(broker):
    """Sign-ins so far, of all results."""
    lines = re.findall(r"^token_broker_sign_ins_total\{[^}]*\} (\d+)", broker.scrape(), re.MULTILINE)
    return sum(int(count) for count in lines)


def of_renewals(programs, renewals):
    with Bench() as bench:
        vault = bench.vault(programs, lifetime=LIFETIME_SECONDS)
        keys = 'max_concurrent_sign_ins = 1000\nmin_sign_in_interval = "0s"\n'
        broker = bench.broker(programs, vault, RENEWED_USERS, vault_keys=keys)
        fill(programs, broker, RENEWED_USERS)
        samples, moved, last = [], time.monotonic(), 0
        while not samples or samples[-1][0] < renewals:
            time.sleep(LOOK_SECONDS)
            samples.append((renewed(broker) - RENEWED_USERS, broker.memory()[0]))
            if samples[-1][0] > last:
                moved, last = time.monotonic(), samples[-1][0]
            if time.monotonic() > moved + STALLED_SECONDS:
                raise RuntimeError(f"no renewals after {last:,}")
    early = next(resident for count, resident in samples if count >= renewals / 10)
    late = samples[-1][1]
    beside = {"from": show(early / 1024, "MiB"), "to": show(late / 1024, "MiB"), "renewals": f"{samples[-1][0]:,}"}
    return [Figure(f"after {renewals:,} renewals ÷ after a tenth of them", [late / early], limit=FLAT_LIMIT, beside=beside)]


def measure(programs, options):
    return [*of_users(programs), *of_connections(programs), *of_renewals(programs, options.renewals)]
