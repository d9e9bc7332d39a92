"""Where one attack is played: a broker, its vault, the callers and probes of good.py, and what is judged of them.

The broker listens for callers, for health probes and on its admin port. In plaintext nobody has an identity; over TLS there are
certificates: `client` (the good callers' one), `other` (a caller that may ask too), `old` (the same, of a CA of its own) and
`stranger` (who may not).
"""

import contextlib
import json
import math
import multiprocessing
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "benches"))

import frames
from certificates import SPIFFE, make_authority, make_certificate, make_certificates
from clients import request_body
from harness import MERCHANT, OPEN, Bench, build, free_address, need, number, raise_descriptors, sign_ins
from peer import Peer

__all__ = ["SPIFFE", "build", "need", "number", "raise_descriptors", "request_body", "sign_ins"]

# Users in the configuration; the first of them are in use, the others are asked for once at most. The vault knows one more.
USERS, WARM_USERS = 4_000, 50
OTHER, STRANGER = "spiffe://example.org/other", "spiffe://example.org/stranger"

# How fast good callers' calls must be: within this many times their own calm p99, or this much, which is what a processor shared
# with the attackers may cost.
TIMES_CALM, LEAST_BOUND_MS = 10, 20.0
# Probes: Kubernetes' default patience.
PROBE_MS = 1_000
# A good caller that has no answer by then has none.
DEADLINE_SECONDS = 5.0
# What all connections together may take (src/net/memory_budget.rs), and what the broker takes itself, with the few users here.
CONNECTIONS_MIB, OWN_MIB = 384, 32
MEMORY_MAX_MIB = CONNECTIONS_MIB + OWN_MIB


@dataclass(frozen=True)
class Demands:
    """The shares of calls within the bound, of probes within a second, and of cold users who get a token."""

    calls: float
    probes: float
    cold: float


# What must hold on a quiet machine.
STRICT = Demands(calls=0.999, probes=1, cold=1)
# What a machine with other work on it can tell: before the broker was mended, most attacks left some 30 %.
ROUGH = Demands(calls=0.8, probes=0.9, cold=0.9)

# By then an attack stands, or as much of it as the broker lets stand; or in half of its time, if that is longer.
READY_SECONDS = 10
# By then the attackers have ended.
END_SECONDS = 10
NICEST = 19
# After SIGTERM: short, so that each attack's stage is soon free again.
DRAIN_SECONDS = 4
START_SECONDS = 10

KINDS = ("standing", "new")
GET_TOKENS = ("warm", "standing", "new", "cold")
PROBES = ("livez", "readyz", "health")


def make_identities(directory):
    """All certificates, once for all attacks."""
    make_certificates(directory)
    make_authority(directory, "old-ca")
    make_certificate(directory, "other", f"URI:{OTHER}")
    make_certificate(directory, "old", f"URI:{OTHER}", "old-ca")
    make_certificate(directory, "stranger", f"URI:{STRANGER}")


class Attacking:
    """What an attacker's process knows of the stage: when it is over, and where to say that the attack stands."""

    def __init__(self, pipe):
        self.pipe, self.figures, self.is_ready = pipe, {}, False

    def ready(self):
        if not self.is_ready:
            self.is_ready = True
            self.pipe.send(None)

    def over(self):
        return self.pipe.poll()


def attacker(pipe, attack):
    # Behind the broker and the good callers: what is measured is what the broker does, not that attackers take the processors.
    os.nice(NICEST)
    raise_descriptors()
    attacking = Attacking(pipe)
    attack.run(attacking)
    attacking.ready()
    pipe.send(attacking.figures)


@dataclass
class Result:
    """What came of an attack."""

    attack: str
    transport: str
    calm: dict = field(default_factory=dict)
    attacked: dict = field(default_factory=dict)
    peak_mib: float = 0.0
    figures: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)

    def quantile(self, phase, kind, share):
        times = sorted(phase["times_ms"].get(kind, []))
        return times[max(0, math.ceil(len(times) * share) - 1)] if times else math.inf

    def bound_ms(self, kind):
        return max(LEAST_BOUND_MS, TIMES_CALM * self.quantile(self.calm, kind, 0.99))

    def share(self, kind, bound_ms=math.inf):
        """How much of the calls of this kind was answered within the bound, and of how many."""
        times, failures = self.attacked["times_ms"].get(kind, []), self.attacked["failures"].get(kind, {})
        calls = len(times) + sum(failures.values())
        return (sum(took <= bound_ms for took in times) / calls if calls else 0.0), calls

    def judge(self, demands):
        """Everybody alike."""
        for kind in KINDS:
            bound = self.bound_ms(kind)
            share, calls = self.share(kind, bound)
            if share < demands.calls:
                slow = f"p99 {self.quantile(self.attacked, kind, 0.99):.1f} ms"
                self.fault(f"{kind}: {share:.2%} of {calls:,} calls within {bound:.0f} ms, {slow}", kind)
        for kind in PROBES:
            share, calls = self.share(kind, PROBE_MS)
            if share < demands.probes:
                self.fault(f"{kind}: {share:.1%} of {calls:,} probes answered within a second", kind)
        share, calls = self.share("cold")
        if share < demands.cold:
            self.fault(f"cold users: {share:.1%} of {calls:,} got a token", "cold")
        if self.peak_mib > MEMORY_MAX_MIB:
            self.fault(f"memory: {self.peak_mib:.0f} MiB, and {MEMORY_MAX_MIB} are allowed")

    def fault(self, text, kind=None):
        failures = self.attacked["failures"].get(kind) if kind else None
        self.faults.append(f"{text}; {failures}" if failures else text)


class Stage(Bench):
    """One attack's. Leaving it ends all that was started."""

    def __init__(self, name, programs, certificates, seconds, calm_seconds, tls):
        super().__init__()
        self.programs, self.certificates, self.seconds, self.calm_seconds, self.tls = (
            programs,
            certificates,
            seconds,
            calm_seconds,
            tls,
        )
        self.result = Result(name, "tls" if tls else "plaintext")
        self.figures = self.result.figures
        self.tokens = 0

    def begin(self, under=(), grpc_keys="", vault_keys="", tables="", lifetime="1h", mode="fresh"):
        """Starts vault, broker and good callers, and sees how these fare in calm."""
        health = free_address()
        self.vault = self.sandbox(self.programs, USERS + 1, lifetime, "--mode", mode)
        keys = f'health_listen = "{health}"\ndrain = "{DRAIN_SECONDS}s"\n{grpc_keys}'
        tables = (self.asks_who_calls() if self.tls else OPEN) + tables
        self.broker_program = self.broker(
            self.programs, self.vault, USERS, under=under, tables=tables, vault_keys=vault_keys, grpc_keys=keys
        )
        self.addresses = {"grpc": self.broker_program.address, "admin": self.broker_program.admin, "health": health}
        self.call_well()

    def asks_who_calls(self):
        """The broker's tables for TLS; who is trusted stands in a file of the stage's own."""
        self.trust("ca", "old-ca")
        files = {"certificate_file": self.certificates / "tls.crt", "key_file": self.certificates / "tls.key"}
        files["client_ca_file"] = self.directory / "clients.crt"
        tls = "".join(f'{key} = "{path}"\n' for key, path in files.items())
        return f"[grpc.tls]\n{tls}" + "".join(
            f'[[callers]]\nid = "{name}"\nmerchants = ["{MERCHANT}"]\n' for name in (SPIFFE, OTHER)
        )

    def trust(self, *authorities):
        """These CAs may say who calls, from the next reload on."""
        new = self.directory / "clients.new"
        new.write_text("".join((self.certificates / f"{name}.crt").read_text() for name in authorities))
        new.rename(self.directory / "clients.crt")

    def context(self, certificate=None):
        """A client's TLS, with one of the certificates or without any; none in plaintext."""
        if not self.tls:
            return None
        found = ssl.create_default_context(cafile=self.certificates / "ca.crt")
        if certificate:
            found.load_cert_chain(self.certificates / f"{certificate}.crt", self.certificates / f"{certificate}.key")
        found.set_alpn_protocols(["h2"])
        return found

    def call_well(self):
        options = self.addresses | {"users": USERS, "warm": WARM_USERS}
        options["certificates"] = str(self.certificates) if self.tls else None
        command = [sys.executable, pathlib.Path(__file__).with_name("good.py"), json.dumps(options)]
        self.good = self.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        self.callback(self.good.kill)
        self.filled = self.next_phase()
        time.sleep(self.calm_seconds)

    def next_phase(self):
        """What the good callers saw since this was called last."""
        self.good.stdin.write("\n")
        self.good.stdin.flush()
        return self.seen()

    def seen(self):
        line = self.good.stdout.readline()
        if not line:
            raise RuntimeError("the good callers ended")
        seen = json.loads(line)
        self.tokens += sum(len(times) for kind, times in seen["times_ms"].items() if kind in GET_TOKENS)
        return seen

    def end_good(self):
        """Ends them; returns how many tokens they got in all."""
        self.good.stdin.close()
        self.seen()
        self.good.wait()
        return self.tokens

    def end_broker(self, seconds):
        """Ends it; whether it has ended in time."""
        self.broker_program.signal(signal.SIGTERM)
        return self.wait_until(lambda: self.broker_program.process.poll() is not None, seconds)

    @contextlib.contextmanager
    def attacked(self, attack=None):
        """In this block the broker is under attack, by `attack.run` in a process of its own, if there is one. It begins once the
        attack stands, and lasts `seconds` from the attack's first byte on, all of which good callers are judged by."""
        self.result.calm = self.next_phase()
        self.broker_program.forget_peak()
        until = time.monotonic() + self.seconds
        with self.attackers(attack) if attack else contextlib.nullcontext():
            yield
            time.sleep(max(0.0, until - time.monotonic()))
            self.result.attacked = self.next_phase()
            self.expect(self.broker_program.process.poll() is None, "the broker ended")
            if self.broker_program.process.poll() is None:
                self.result.peak_mib = self.broker_program.memory()[1] / 1024

    @contextlib.contextmanager
    def attackers(self, attack):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=attacker, args=(theirs, attack), daemon=True)
        process.start()
        theirs.close()
        try:
            ready_seconds = max(READY_SECONDS, self.seconds / 2)
            self.expect(ours.poll(ready_seconds), f"the attack did not stand within {ready_seconds:.0f} s")
            yield
            ours.send("over")
            figures = {}
            while not figures and ours.poll(END_SECONDS):
                figures = ours.recv() or {}
            self.figures.update(figures)
        except EOFError:
            self.expect(False, "the attackers broke down")
        finally:
            process.kill()
            process.join()

    def expect(self, condition, otherwise):
        if not condition:
            self.result.faults.append(otherwise)

    def wait_until(self, condition, seconds):
        """Whether it came true in time."""
        deadline = time.monotonic() + seconds
        while not (found := condition()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return bool(found)

    def reload(self):
        self.broker_program.signal(signal.SIGHUP)

    def tell_vault(self, path, body):
        url = f"http://{self.vault.address}/_sandbox/{path}"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=START_SECONDS):
            pass

    def peer(self, certificate, **how):
        return self.enter_context(Peer(self.addresses["grpc"], self.context(certificate), **how))

    def gets_token(self, user, certificate="client"):
        with contextlib.suppress(OSError), Peer(self.addresses["grpc"], self.context(certificate)) as peer:
            return peer.ask(request_body(user)) == frames.OK
        return False

    def log(self):
        """What the broker has written so far: its log and its trail."""
        return (self.directory / "broker.log").read_bytes()
