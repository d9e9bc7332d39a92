#!/usr/bin/env python3
"""Looks into an image that deploy/image.sh made, and runs what is in it: as root, since it makes mounts, and the broker as 65532.

    run.py --image token-broker.oci.tar --sbom token-broker.amd64.cdx.json --sandbox SANDBOX [--not-in-it PATH]...
        [--architecture arm64 --emulator /usr/bin/qemu-aarch64-static]

The image's one file is unpacked into an empty directory, which becomes the root of what runs, read-only, with the configuration
mounted beside it: no shell, no libraries, not even /proc. There it must do its work: print its version, judge configurations,
serve calls (Python's grpcio and its own `get`) with tokens that it fetches over TLS from the sandbox vault, and end when told.

A line for each thing that was shown, on standard output. Exit code 1 at the first that isn't so.
"""

import argparse
import hashlib
import json
import os
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import tomllib
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CALL_BROKER = REPOSITORY / "tests/python/call_broker.py"
SERVICE = "tokenbroker.v1.TokenBrokerService"

# The user of the vendor's documentation.
MERCHANT, NUMBER, PASSWORD = "bece038f-2e46-49f4-b25e-89cd38d6dc16", "+447871239999", "1234Qwerty"
# A name that only the image's /etc/hosts knows.
VAULT_NAME = "vault.test"

USER = 65532
MAX_BYTES = 20_000_000
# Of the crates that must be listed: ours, the runtime, TLS, the wire, the allocator, and what the feature `traces` brings.
CRATES = {"token-broker", "tokio", "rustls", "aws-lc-sys", "webpki-root-certs", "tonic", "mimalloc", "opentelemetry-otlp"}
# And of those that must not be: what tests and the build alone need.
NOT_CRATES = {"token-broker-sandbox", "proptest", "rcgen", "protox"}
LABELS = ("title", "description", "version", "revision", "licenses")

# For anything that takes a moment, on a machine that is busy.
PATIENCE = 60.0

# What a container runtime does, as far as a mount namespace goes: a read-only root, what is mounted into it, and a user without
# rights. $1 is the root, $2 goes to its /etc, and $3 to where the operator's socket is, the only place that can be written to.
ENTER = f"""
set -e
mount --bind "$1" "$1"
mount --bind "$2" "$1/etc"
mount --bind "$3" "$1/run/token-broker"
mount -o remount,bind,ro "$1"
mount -o remount,bind,ro "$1/etc"
root=$1
shift 3
exec setpriv --no-new-privs chroot --userspec={USER}:{USER} --groups={USER} "$root" "$@"
"""


class NotSo(Exception):
    """Something is not as it must be."""


def show(what, so, otherwise=""):
    if not so:
        raise NotSo(f"NOT SO: {what} {otherwise}".rstrip())
    print(f"  {what}", flush=True)


class Image:
    """The image of one architecture in an OCI archive."""

    def __init__(self, path, architecture):
        with tarfile.open(path) as archive:
            self.blobs = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}
        (listed,) = json.loads(self.blobs["index.json"])["manifests"]
        self.names = listed["annotations"]
        if listed["mediaType"].endswith("index.v1+json"):
            # Several architectures, of which whoever pulls takes one.
            listed = next(
                part
                for part in json.loads(self.blob(listed["digest"]))["manifests"]
                if part["platform"] == {"architecture": architecture, "os": "linux"}
            )
        self.digest = listed["digest"]
        manifest = json.loads(self.blob(self.digest))
        self.config = json.loads(self.blob(manifest["config"]["digest"]))
        self.layers = [layer["digest"] for layer in manifest["layers"]]
        self.bytes = listed["size"] + manifest["config"]["size"] + sum(layer["size"] for layer in manifest["layers"])

    def blob(self, digest):
        blob = self.blobs[f"blobs/sha256/{digest.removeprefix('sha256:')}"]
        if f"sha256:{hashlib.sha256(blob).hexdigest()}" != digest:
            raise NotSo(f"NOT SO: the blob {digest} is intact")
        return blob

    def unpack(self, root, scratch):
        """What its layers hold, as (name, mode, owner, group)."""
        held = []
        for digest in self.layers:
            layer = scratch / "layer"
            layer.write_bytes(self.blob(digest))
            with tarfile.open(layer) as archive:
                held += [(member.name, oct(member.mode & 0o7777), member.uid, member.gid) for member in archive]
                archive.extractall(root, filter="tar")
        return held


class Vault:
    """The sandbox vault over TLS, with a certificate of a CA that nobody else knows."""

    def __init__(self, sandbox, scratch):
        self.ca_file = scratch / "ca.crt"
        key, certificate, ca_key = scratch / "tls.key", scratch / "tls.crt", scratch / "ca.key"
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        quietly = {"check": True, "stderr": subprocess.DEVNULL}
        subprocess.run([*new, "-subj", "/CN=a CA", "-keyout", ca_key, "-out", self.ca_file], **quietly)
        names = ["-addext", f"subjectAltName=DNS:{VAULT_NAME}", "-addext", "basicConstraints=critical,CA:FALSE"]
        by_ca = ["-CA", self.ca_file, "-CAkey", ca_key]
        subprocess.run([*new, *by_ca, "-subj", "/CN=a vault", *names, "-keyout", key, "-out", certificate], **quietly)

        shown = ["--certificate-file", certificate, "--key-file", key]
        self.process = subprocess.Popen([sandbox, "--listen", "127.0.0.1:0", *shown], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().split("https://127.0.0.1:", 1)[1].split()[0])
        self.url = f"https://{VAULT_NAME}:{self.port}"

    def stats(self):
        tls = ssl.create_default_context(cafile=self.ca_file).wrap_socket(
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE), server_hostname=VAULT_NAME
        )
        with tls:
            tls.sendall(b"GET /_sandbox/stats HTTP/1.1\r\nHost: vault\r\nConnection: close\r\n\r\n")
            reply = b"".join(iter(lambda: tls.recv(65_536), b""))
        return json.loads(reply.partition(b"\r\n\r\n")[2])

    def stop(self):
        self.process.kill()
        self.process.wait()


class Container:
    """An empty root with the image's file in it, and a configuration."""

    def __init__(self, image, root, etc, emulator):
        self.command, self.root, self.etc = image.config["config"], root, etc
        self.emulator = []
        if emulator:
            # Where the image's own file system has no place: it is static as well.
            shutil.copy(emulator, etc / "emulator")
            self.emulator = ["/etc/emulator"]
        # Runtimes make the places that they mount on.
        (root / "etc").mkdir()
        (root / "run/token-broker").mkdir(parents=True)
        self.sockets = root.parent / "sockets"
        self.sockets.mkdir()
        os.chown(self.sockets, 0, USER)
        self.sockets.chmod(0o2770)

    def configure(self, text, name="config.toml"):
        """As in a mounted Secret with `defaultMode: 0440` and `fsGroup`: the user may read it through its group alone."""
        path = self.etc / "token-broker/config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.chown(path, 0, USER)
        path.chmod(0o440)

    def arguments(self, *arguments):
        inside = [*self.emulator, *self.command["Entrypoint"], *(arguments or self.command["Cmd"])]
        mounted = [self.root, self.etc, self.sockets]
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh", *mounted, *inside]

    def run(self, *arguments, **environment):
        environment = self.environment() | environment
        return subprocess.run(self.arguments(*arguments), capture_output=True, text=True, timeout=PATIENCE, env=environment)

    def environment(self):
        return dict(entry.split("=", 1) for entry in self.command.get("Env", []))


class Broker:
    """The image's own command, running."""

    def __init__(self, container):
        self.process = subprocess.Popen(
            container.arguments(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=container.environment()
        )
        self.lines, self.seen = queue.Queue(), []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def addresses(self, wanted):
        """Where its ports listen, once all of them do."""
        found, until = {}, time.monotonic() + PATIENCE
        while not wanted <= found.keys():
            try:
                line = self.lines.get(timeout=max(0, until - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise NotSo(f"NOT SO: it listens; it said {''.join(self.seen)!r}")
            self.seen.append(line)
            fields = json.loads(line) if line.startswith("{") else {}
            fields |= fields.get("fields", {})
            if fields.get("message") == "listening":
                found[fields["port"]] = fields["address"]
        return found

    def kernel_says(self):
        """Its identity and rights, and the mounts that it sees, by place."""
        proc = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        mounts = {mount[1]: mount[3] for mount in map(str.split, (proc / "mounts").read_text().splitlines())}
        return {name: value.split() for name, value in status.items()}, mounts


def check_config(image, architecture):
    config = image.config["config"]
    show(f"is for linux/{architecture}", (image.config["os"], image.config["architecture"]) == ("linux", architecture))
    version = config["Labels"]["org.opencontainers.image.version"]
    tag, whole = (image.names.get(f"{name}.name") for name in ("org.opencontainers.image.ref", "io.containerd.image"))
    named = (tag, whole) == (version, f"docker.io/library/token-broker:{version}")
    show(f"the archive names it, {whole}: by its tag, and as containerd does", named, image.names)
    show(f"runs as {USER}", config.get("User") == f"{USER}:{USER}", config.get("User"))
    show("has an entry point and a command", config["Entrypoint"] == ["/token-broker"] and config["Cmd"][0] == "serve")
    labels = config["Labels"]
    missing = [name for name in LABELS if not labels.get(f"org.opencontainers.image.{name}")]
    show("has its labels", not missing, f"but {missing}")
    show("tells its ports", set(config["ExposedPorts"]) == {"50051/tcp", "50052/tcp", "9090/tcp"})


def check_sbom(path):
    components = json.loads(path.read_text())["components"]
    crates = {(part["name"], part["version"]) for part in components if part.get("purl", "").startswith("pkg:cargo/")}
    locked = {(part["name"], part["version"]) for part in tomllib.loads((REPOSITORY / "Cargo.lock").read_text())["package"]}
    names = {name for name, _ in crates}
    show(f"the SBOM lists {len(crates)} crates, each as Cargo.lock has it", crates <= locked, sorted(crates - locked))
    show("those that must be there are", names >= CRATES, sorted(CRATES - names))
    show("those of tests and of the build are not", not names & NOT_CRATES, sorted(NOT_CRATES & names))


def check_binary(binary, not_in_it):
    held = binary.read_bytes()
    found = [path for path in not_in_it if path.encode() in held]
    show("the binary names no path of the machine that built it", not found, found)
    headers = subprocess.run(["readelf", "--program-headers", "--wide", binary], capture_output=True, text=True, check=True)
    show("it is static: it asks for no loader", "INTERP" not in headers.stdout)


def check_commands(container, image):
    version = container.run("--version")
    labelled = image.config["config"]["Labels"]["org.opencontainers.image.version"]
    show(f"--version says what the label says, {labelled}", version.stdout.split()[-1:] == [labelled], version)
    told = container.run("--version", MIMALLOC_VERBOSE="1")
    show("its allocator is mimalloc", "mimalloc" in told.stderr, told)
    judged = container.run("check", "--config", "/etc/token-broker/config/config.toml")
    show("check finds the configuration in order", judged.returncode == 0, judged)
    container.configure("[vault]\nbase_url = 1\n", "wrong.toml")
    judged = container.run("check", "--config", "/etc/token-broker/config/wrong.toml")
    show("check finds a fault in another", judged.returncode == 78 and "wrong.toml" in judged.stderr, judged)


def check_calls(container, broker, addresses, vault):
    status, mounts = broker.kernel_says()
    ids = {kind: set(status[kind]) for kind in ("Uid", "Gid", "Groups")}
    show(f"the process is {USER}, in that group alone", all(seen == {str(USER)} for seen in ids.values()), ids)
    capabilities = {kind: int(status[kind][0], 16) for kind in ("CapPrm", "CapEff", "CapAmb")}
    show("it has no capabilities", not any(capabilities.values()), capabilities)
    writable = {place for place, options in mounts.items() if "ro" not in options.split(",")}
    little = mounts.keys() == {"/", "/etc", "/run/token-broker"} and writable == {"/run/token-broker"}
    show("it sees little, and writes to its socket's place alone", little, mounts)

    called = subprocess.run([sys.executable, CALL_BROKER, addresses["grpc"], MERCHANT, NUMBER], capture_output=True, text=True)
    seen = json.loads(called.stdout) if called.returncode == 0 else {}
    first, again = seen.get("token", {}), seen.get("token_again", {})
    token_id = first.get("token_id")
    show("Python's grpcio gets a token, twice the same", token_id and token_id == again.get("token_id"), called.stderr)
    show("an unknown user is not found", seen["unconfigured"]["reason"] == "USER_NOT_CONFIGURED", seen["unconfigured"])
    show("health says that it serves", seen["health"] == {"": "SERVING", SERVICE: "SERVING"}, seen["health"])
    of_user = ["--merchant-id", MERCHANT, "--number", NUMBER]
    got = container.run("get", "--endpoint", f"http://{addresses['grpc']}", *of_user)
    same = got.returncode == 0 and json.loads(got.stdout)["token_id"] == token_id
    show("the image's own `get` gets the same", same, got.stderr)
    stats = vault.stats()
    show("that was one sign-in, over TLS", stats["sign_ins"] == stats["granted"] == 1, stats)

    asked = container.run("user", *of_user, "--json")
    known = asked.returncode == 0 and json.loads(asked.stdout)["token"]["token_id"] == token_id
    show("its operator's socket shows the user, and no number", known and NUMBER not in asked.stdout, asked)
    lifted = container.run("lift-hold", *of_user)
    show("lift-hold finds nothing to lift", lifted.returncode == 0 and "nothing stopped" in lifted.stdout, lifted)

    with urllib.request.urlopen(f"http://{addresses['admin']}/status", timeout=PATIENCE) as reply:
        told = json.load(reply)
    show("/status says that tokens flow", told["verdict"] == "flowing" and told["ready"], told)
    with urllib.request.urlopen(f"http://{addresses['admin']}/metrics", timeout=PATIENCE) as reply:
        show("/metrics has figures", b"token_broker_calls_total" in reply.read())


def check_end(broker):
    broker.process.send_signal(signal.SIGTERM)
    status = broker.process.wait(PATIENCE)
    show("SIGTERM ends it with 0", status == 0, f"but {status}")


def run(arguments, scratch):
    image = Image(arguments.image, arguments.architecture)
    print(f"{image.digest}: {image.bytes:,} bytes")
    check_config(image, arguments.architecture)
    root, etc = scratch / "root", scratch / "etc"
    root.mkdir()
    etc.mkdir()
    held = image.unpack(root, scratch)
    show("it holds one file", held == [("token-broker", "0o555", 0, 0)], held)
    binary = root / "token-broker"
    size = binary.stat().st_size
    show(f"which takes {size:,} bytes, {MAX_BYTES:,} at most", size <= MAX_BYTES)
    check_binary(binary, arguments.not_in_it)
    check_sbom(arguments.sbom)

    vault = Vault(arguments.sandbox, scratch)
    broker = None
    try:
        container = Container(image, root, etc, arguments.emulator)
        (etc / "hosts").write_text(f"127.0.0.1 {VAULT_NAME}\n")
        shutil.copy(vault.ca_file, etc / "vault-ca.crt")
        container.configure(f"""
grpc = {{ listen = "127.0.0.1:0", health_listen = "127.0.0.1:0", lame_duck = "0s" }}
admin.listen = "127.0.0.1:0"
operator.socket = "/run/token-broker/operator.sock"
vault = {{ base_url = "{vault.url}", ca_file = "/etc/vault-ca.crt" }}
# Nobody listens there. Without the feature this is a fault, with it nobody's trouble.
traces.endpoint = "http://127.0.0.1:1"
[[users]]
merchant_id = "{MERCHANT}"
number = "{NUMBER}"
password = "{PASSWORD}"
""")
        check_commands(container, image)
        broker = Broker(container)
        check_calls(container, broker, broker.addresses({"grpc", "health", "admin"}), vault)
        check_end(broker)
    finally:
        if broker:
            broker.process.kill()
            broker.process.wait()
        vault.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, required=True, help="an OCI archive")
    parser.add_argument("--sbom", type=Path, required=True, help="in CycloneDX's JSON")
    parser.add_argument("--sandbox", type=Path, required=True, help="the sandbox vault's program")
    parser.add_argument("--architecture", default="amd64", choices=["amd64", "arm64"], help="which of the archive's")
    parser.add_argument("--emulator", type=Path, help="a static program that runs the file of another architecture")
    parser.add_argument("--not-in-it", action="append", default=[], metavar="PATH", help="what the binary must not name")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("run.py makes mounts: run it as root")
    with tempfile.TemporaryDirectory() as scratch:
        # Whoever the broker is must get to its root.
        Path(scratch).chmod(0o755)
        try:
            run(arguments, Path(scratch))
        except NotSo as why:
            sys.exit(str(why))


if __name__ == "__main__":
    main()
