"""What the benchmarks share: building, starting and stopping programs, and reading what they cost from /proc.

Everything runs on loopback, in a bounded number of calls, and is stopped at the end, also after a failure.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
MERCHANT = "bece038f-2e46-49f4-b25e-89cd38d6dc16"
PASSWORD = "only for the benchmark"  # noqa: S105 - a password of nobody
LOOPBACK = "127.0.0.1"

# A broker that reads 100,000 users gets this long until it listens.
START_SECONDS = 60.0
STOP_SECONDS = 10.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


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
    """A running program, listening on `address`."""

    def __init__(self, process, address):
        self.process = process
        self.address = address

    def cpu_seconds(self):
        """User and system time of all its threads so far, in steps of 10 ms."""
        # The second field is the name in brackets, which may hold anything: count from behind it.
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def memory(self):
        """Resident memory now, and the most it ever was, in KiB."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return int(values["VmRSS"].split()[0]), int(values["VmHWM"].split()[0])


class Bench(contextlib.ExitStack):
    """Owns a temporary directory and every program that was started; leaving it ends them."""

    def __enter__(self):
        super().__enter__()
        self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory(prefix="token-broker-bench-")))
        return self

    def start(self, name, command, address):
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
        return Program(process, address)

    def echo(self, programs, name="echo", under=()):
        """The server with tonic's defaults; `under` is what runs it, such as valgrind with its arguments."""
        address = free_address()
        return self.start(name, [*under, programs["echo"], address], address)

    def vault(self, programs):
        """The upstream, which grants every sign-in: the sandbox would need to be told of each user."""
        address = free_address()
        return self.start("vault", [programs["vault"], address], address)

    def sandbox(self, programs, users, lifetime):
        """The development vault, which knows that many users, judges and counts."""
        address = free_address()
        command = [programs["token-broker-sandbox"], "--listen", address, "--lifetime", lifetime]
        for index in range(users):
            command += ["--user", f"{MERCHANT}:{number(index)}:{PASSWORD}"]
        return self.start("sandbox", command, address)

    def write_users(self, users, password=PASSWORD):
        """Writes the file of credentials; whoever reads it finds all of it."""
        new = self.directory / "users.new"
        new.touch(mode=0o600)
        with new.open("w") as file:
            for index in range(users):
                user = f'merchant_id = "{MERCHANT}"\nnumber = "{number(index)}"\npassword = "{password}"\n'
                file.write(f"[[users]]\n{user}")
        return new.rename(self.directory / "users.toml")

    def broker(self, programs, vault, users, under=()):
        """The broker, with that many users in a file of credentials, and otherwise its defaults; `under` as above."""
        address = free_address()
        credentials = self.write_users(users)
        config = self.directory / "broker.toml"
        config.write_text(
            f'credentials_files = ["{credentials.name}"]\n'
            f'[grpc]\nlisten = "{address}"\nlame_duck = "0s"\n'
            f'[admin]\nlisten = "{free_address()}"\n'
            f'[vault]\nbase_url = "http://{vault.address}"\n'
            # Callers are anonymous: whoever is measured has no policy to look up.
            "[auth]\nallow_unauthenticated = true\n"
        )
        return self.start("broker", [*under, programs["token-broker"], "serve", "--config", config], address)


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


def fill(programs, server, users):
    """Asks the server once for each of the first `users` users' tokens; returns the seconds that took."""
    began = time.monotonic()
    subprocess.run([programs["fill"], f"http://{server.address}", MERCHANT, str(users)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began
