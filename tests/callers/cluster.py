"""What callers find in a cluster, on one machine: replicas with an address each, and one name for those that are ready.

In a network namespace of its own every replica has an address of loopback and the same port, as pods have, and a name server of
a few lines answers for the headless service. Nobody's files or ports are touched, and nothing is left behind.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]

SERVICE = "token-broker-headless.cards.svc.cluster.local"
# Of this name the name server says nothing at all.
SILENT = "silent.cards.svc.cluster.local"
PORT, ADMIN_PORT = 50051, 9090
VAULT = "127.0.0.2:8081"
NAME_SERVER = "127.0.0.1"
MERCHANT = "bece038f-2e46-49f4-b25e-89cd38d6dc16"

START_SECONDS = 20.0
# Where the namespaces have been made already.
INSIDE = "TOKEN_BROKER_CALLERS_INSIDE"
# Where the Rust examples are.
EXAMPLES = "TOKEN_BROKER_EXAMPLES"
# How long an answer of the name server may be kept: CoreDNS says 5 s for Kubernetes' names.
TTL_SECONDS = 5


def enter():
    """Goes on in network and mount namespaces of our own; ends the program where the machine doesn't allow that."""
    if os.environ.get(INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with tempfile.NamedTemporaryFile("w", prefix="resolv-", suffix=".conf") as file:
            file.write(f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:3\n")
            file.flush()
            # The bind holds the file once its name is gone.
            subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)
        return
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            sys.exit(f"{program} is missing: apt-get install {package}")
    unshare = ["unshare", "--map-root-user", "--net", "--mount"]
    if subprocess.run([*unshare, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        sys.exit("this machine allows no namespaces of one's own: run it as root, or where user namespaces are allowed")
    os.execvpe("unshare", [*unshare, sys.executable, *sys.argv], os.environ | {INSIDE: "yes"})  # noqa: S606


def add_programs(parser):
    """The programs to run; what is not given is built."""
    parser.add_argument("--broker", type=pathlib.Path, help="the broker's binary (otherwise built, in release mode)")
    parser.add_argument("--sandbox", type=pathlib.Path, help="the development vault's binary (otherwise built, in release mode)")
    parser.add_argument("--examples", type=pathlib.Path, help="where the examples `adapter` and `steady` are (otherwise built)")


def find_programs(options):
    """Builds what is missing, before the namespaces shut the network out; takes their paths from here on."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    if not os.environ.get(INSIDE):
        if options.broker is None:
            cargo("--release", "--bin", "token-broker")
        if options.sandbox is None:
            cargo("--release", "--package", "token-broker-sandbox")
        if options.examples is None:
            more = ["--features", "reqwest-middleware", "--example", "adapter", "--example", "steady"]
            cargo("--package", "token-broker-client", *more)
    options.broker = (options.broker or target / "release/token-broker").resolve(strict=True)
    options.sandbox = (options.sandbox or target / "release/token-broker-sandbox").resolve(strict=True)
    os.environ[EXAMPLES] = str((options.examples or target / "debug/examples").resolve(strict=True))


def cargo(*arguments):
    subprocess.run(["cargo", "build", "--quiet", "--locked", *arguments], cwd=ROOT, check=True)


def plain_environment():
    """Ours without what would send a caller through a proxy."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def number(index):
    return f"+44700{index:08}"


class Names(threading.Thread):
    """Answers questions for an A record of the service, or of a name below it, with the addresses that are in service now."""

    def __init__(self):
        super().__init__(daemon=True)
        self.addresses = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((NAME_SERVER, 53))

    def run(self):
        while True:
            question, asker = self._socket.recvfrom(4096)
            with contextlib.suppress(IndexError, struct.error):
                self._socket.sendto(self.answer(question), asker)

    def answer(self, question):
        """RFC 1035, for questions of one name, without compression."""
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        (kind,) = struct.unpack_from("!H", question, at + 1)
        asked = question[12 : at + 5]
        name = ".".join(labels).lower()
        if name == SILENT:
            raise IndexError("left without an answer")
        known = name == SERVICE or name.endswith(f".{SERVICE}")
        found = list(self.addresses) if known and kind == 1 else []
        # An authoritative answer; NXDOMAIN for other names.
        header = struct.pack("!2sHHHHH", question[:2], 0x8580 | (0 if known else 3), 1, len(found), 0, 0)
        records = (struct.pack("!HHHIH4s", 0xC00C, 1, 1, TTL_SECONDS, 4, socket.inet_aton(address)) for address in found)
        return header + asked + b"".join(records)


class Cluster(contextlib.ExitStack):
    """Owns a temporary directory, the name server and every process; leaving it ends them."""

    def __init__(self, broker, sandbox):
        super().__init__()
        self.programs = {"broker": broker, "sandbox": sandbox}

    def __enter__(self):
        super().__enter__()
        self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory(prefix="token-broker-callers-")))
        self.names = Names()
        self.names.start()
        return self

    def spawn(self, name, command, environment=None, **more):
        log = (self.directory / f"{name}.log").open("w")
        self.callback(log.close)
        merged = os.environ | (environment or {})
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=merged, **({"stdout": log} | more))
        self.callback(end, process)
        return process

    def log(self, name):
        return (self.directory / f"{name}.log").read_text()

    def vault(self, users, password, *options):
        """The development vault, at the same address each time."""
        command = [self.programs["sandbox"], "--listen", VAULT, *options]
        for index in range(users):
            command += ["--user", f"{MERCHANT}:{number(index)}:{password}"]
        process = self.spawn("vault", command)
        wait_until(lambda: answers(f"http://{VAULT}/_sandbox/stats"), process, "the vault")
        return process

    def pod(self, index, config):
        """A replica with its own address; `config` goes on after `[grpc]`. Returns when it is ready."""
        return Pod(self, index, config)

    def target(self):
        return f"dns:///{SERVICE}:{PORT}"


class Pod:
    """A replica, by its address."""

    def __init__(self, cluster, index, config):
        self.address = f"127.1.{index // 250}.{index % 250 + 1}"
        self.name = f"pod-{index}"
        file = cluster.directory / f"{self.name}.toml"
        file.touch(mode=0o600)
        file.write_text(config.replace("ADDRESS", self.address))
        self.process = cluster.spawn(self.name, [cluster.programs["broker"], "serve", "--config", file])
        self._cluster = cluster
        wait_until(lambda: answers(f"http://{self.address}:{ADMIN_PORT}/readyz"), self.process, self)

    def log(self):
        return self._cluster.log(self.name)

    def audited(self, event):
        """The audit trail's lines of one event."""
        lines = (json.loads(line) for line in self.log().splitlines() if '"target":"audit"' in line)
        return [line for line in lines if line.get("event") == event]

    def __str__(self):
        return self.name


def control(path, body=None):
    """Tells the development vault, or asks it."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(f"http://{VAULT}/_sandbox/{path}", data), timeout=10) as reply:
        return json.load(reply)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310 - our own
            return reply.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def wait_until(condition, process, what, seconds=START_SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not get ready")
        time.sleep(0.02)


def end(process, seconds=10):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
