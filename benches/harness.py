"""What the benchmarks share: building, starting and stopping programs, and reading what they cost from /proc.

Everything runs on loopback, in a bounded number of calls, and is stopped at the end, also after a failure.
"""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
MERCHANT = "bece038f-2e46-49f4-b25e-89cd38d6dc16"
PASSWORD = "only for the benchmark"  # noqa: S105 - a password of nobody
LOOPBACK = "127.0.0.1"
# Callers are anonymous: whoever is measured has no policy to look up.
OPEN = "[auth]\nallow_unauthenticated = true\n"

# A broker that reads 100,000 users gets this long until it listens.
START_SECONDS = 60.0
STOP_SECONDS = 10.0
# What a server does after its last answer, such as writing the rest of its audit trail, is over by then.
SETTLE_SECONDS = 0.05
# Each idle connection takes a descriptor here too, and the usual soft limit is 1,024.
DESCRIPTORS = 16_384


def number(index):
    """The number of a user; `number` in echo/src/lib.rs makes the same."""
    return f"+44700{index:08}"


def need(program, package):
    if shutil.which(program) is None:
        sys.exit(f"{program} is missing: apt-get install {package}")


def build(*arguments):
    """Builds in release mode; returns the paths of the executables by name."""
    # The echo is a workspace of its own; with one target directory for both, what they share is built once.
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    command = ["cargo", "build", "--release", "--locked", "--message-format=json-render-diagnostics", "--target-dir", target]
    output = subprocess.run([*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    messages = [json.loads(line) for line in output.splitlines()]
    return {m["target"]["name"]: m["executable"] for m in messages if m.get("executable")}


def build_all(with_broker, with_sandbox=False):
    programs = build("--manifest-path", "benches/echo/Cargo.toml")
    if with_broker:
        programs |= build("--bin", "token-broker")
    if with_sandbox:
        programs |= build("--package", "token-broker-sandbox")
    return programs


def free_address():
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return f"{LOOPBACK}:{probe.getsockname()[1]}"


class Program:
    """A running program, listening on `address`; a broker has an `admin` address too."""

    def __init__(self, process, address, admin=None):
        self.process = process
        self.address = address
        self.admin = admin

    def cpu_seconds(self):
        """User and system time of all its threads so far, those that ended included; exact to the nanosecond."""
        # The process's own clock, as clock_getcpuclockid(3) makes its number of the pid: /proc/PID/stat has the same in steps
        # of 10 ms, and the files named schedstat have only the threads that are still there.
        return time.clock_gettime_ns((~self.process.pid << 3) | 2) / 1e9

    def thread_seconds(self):
        """CPU seconds of each thread that is there: by its id, its name and its time."""
        found = {}
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            # A thread may end while this reads.
            with contextlib.suppress(OSError):
                nanoseconds = int((task / "schedstat").read_text().split()[0])
                found[int(task.name)] = ((task / "comm").read_text().strip(), nanoseconds / 1e9)
        return found

    def status(self, key):
        """A line of /proc/PID/status, in KiB."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(dict(line.split(":", 1) for line in lines)[key].split()[0])

    def memory(self):
        """Resident memory now, and the most it ever was, in KiB."""
        return self.status("VmRSS"), self.status("VmHWM")

    def anonymous(self):
        """Resident memory now without the pages of the program's file, in KiB."""
        return self.status("RssAnon")

    def forget_peak(self):
        """From now on `memory` tells the most since now."""
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def scrape(self):
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=30) as answer:
            return answer.read().decode()

    def signal(self, number):
        self.process.send_signal(number)


class Bench(contextlib.ExitStack):
    """Owns a temporary directory and every program that was started; leaving it ends them."""

    def __enter__(self):
        super().__enter__()
        self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory(prefix="token-broker-bench-")))
        return self

    def start(self, name, command, address, admin=None):
        """Starts a program and waits until it listens on `address`; what it prints goes to a file, shown if it dies."""
        log_path = self.directory / f"{name}.log"
        with log_path.open("w") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.callback(stop, process)
        deadline = time.monotonic() + START_SECONDS
        while not listens(address):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} did not start:\n{log_path.read_text()[-2000:]}")
            time.sleep(0.01)
        return Program(process, address, admin)

    def echo(self, programs, name="echo", under=()):
        """The server with tonic's defaults; `under` is what runs it, such as valgrind with its arguments."""
        address = free_address()
        return self.start(name, [*under, programs["echo"], address], address)

    def vault(self, programs, **options):
        """The upstream, which grants every sign-in: the sandbox would need to be told of each user. `options` as in vault.rs."""
        address = free_address()
        return self.start(f"vault-{address}", [programs["vault"], address, *pairs(options)], address)

    def sandbox(self, programs, users, lifetime, *options):
        """The development vault, which knows that many users, judges and counts."""
        address = free_address()
        command = [programs["token-broker-sandbox"], "--listen", address, "--lifetime", lifetime, *options]
        for index in range(users):
            command += ["--user", f"{MERCHANT}:{number(index)}:{PASSWORD}"]
        return self.start("sandbox", command, address)

    def write_users(self, users, password=PASSWORD, name="users.toml", keep=0):
        """Writes the file of credentials; whoever reads it finds all of it. The first `keep` users have their first password."""
        new = self.directory / f"{name}.new"
        new.touch(mode=0o600)
        with new.open("w") as file:
            for index in range(users):
                secret = PASSWORD if index < keep else password
                user = f'merchant_id = "{MERCHANT}"\nnumber = "{number(index)}"\npassword = "{secret}"\n'
                file.write(f"[[users]]\n{user}")
        return new.rename(self.directory / name)

    def configure(self, vault, users, name="broker", tables=OPEN, vault_keys="", grpc_keys=""):
        """A configuration with that many users in a file of credentials, and otherwise its defaults; returns its file, and the
        addresses of its two ports."""
        address, admin = free_address(), free_address()
        credentials = self.write_users(users, name=f"{name}-users.toml")
        config = self.directory / f"{name}.toml"
        config.touch(mode=0o600)
        config.write_text(
            f'credentials_files = ["{credentials.name}"]\n'
            f'[grpc]\nlisten = "{address}"\nlame_duck = "0s"\n{grpc_keys}'
            f'[admin]\nlisten = "{admin}"\n'
            f'[vault]\nbase_url = "http://{vault.address}"\n{vault_keys}{tables}'
        )
        return config, address, admin

    def broker(self, programs, vault, users, name="broker", under=(), **keys):
        """A broker, configured so; `under` as above."""
        config, address, admin = self.configure(vault, users, name, **keys)
        return self.start(name, [*under, programs["token-broker"], "serve", "--config", config], address, admin)


def pairs(options):
    """Options of the programs in echo/src/bin."""
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def sign_ins(sandbox):
    """How many it has counted."""
    with urllib.request.urlopen(f"http://{sandbox.address}/_sandbox/stats", timeout=10) as reply:
        return json.load(reply)["sign_ins"]


def listens(address):
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False


def stop(process):
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def raise_descriptors():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard), hard))
