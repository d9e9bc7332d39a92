"""How the callers of each language are built and started, with what this machine has.

What is missing is fetched once into a directory beside the tools of `.ci/run`: packages of npm in pinned versions, and Debian's,
which are unpacked there and not installed. Nothing else is asked. A language without its compiler is skipped.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys

from google.rpc import error_details_pb2

from cluster import CALLERS, EXAMPLES, HERE, INSIDE, PROTO

CACHE = pathlib.Path(
    os.environ.get("TOKEN_BROKER_TOOLS")
    or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "token-broker-tools"
)
CONTRACT = "tokenbroker/v1/token_broker.proto"

PROTOC_DEBIAN = ["protobuf-compiler", "libprotobuf-dev", "libprotobuf32", "libprotoc32"]
GO_DEBIAN = [
    *PROTOC_DEBIAN,
    "golang-github-golang-protobuf-1-5-dev",
    "golang-golang-x-net-dev",
    "golang-golang-x-sys-dev",
    "golang-golang-x-text-dev",
    "golang-google-genproto-dev",
    "golang-google-grpc-dev",
    "golang-google-protobuf-dev",
    "protoc-gen-go",
    "protoc-gen-go-grpc",
]
JAVA_DEBIAN = [
    *PROTOC_DEBIAN,
    "libapr1",
    "libcommons-codec-java",
    "libgeronimo-annotation-1.3-spec-java",
    "libgoogle-common-protos-java",
    "libgoogle-gson-java",
    "libgrpc-java",
    "libguava-java",
    "libnetty-java",
    "libnetty-tcnative-java",
    "libnetty-tcnative-jni",
    "libperfmark-java",
    "libprotobuf-java",
    "protobuf-compiler-grpc-java-plugin",
]


class Skipped(Exception):
    """Why a language can't be tried here."""


def need(*programs):
    for program in programs:
        if shutil.which(program) is None:
            raise Skipped(f"no {program} on this machine")


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True).stdout.strip()


def run(command, what, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{what}:\n{done.stdout[-4000:]}")
    return done.stdout


def cached(name, key, make):
    """The directory `name`, made once for this key."""
    directory = CACHE / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not (directory / "complete").exists():
        if os.environ.get(INSIDE):
            raise Skipped(f"{directory.name} could not be fetched before")
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        make(directory)
        (directory / "complete").touch()
    return directory


def debian(name, packages):
    """Debian's packages, unpacked: nothing is installed, nothing of the system's replaced."""
    need("apt-get", "dpkg-deb")

    def make(directory):
        fetched = directory / "fetched"
        fetched.mkdir()
        download = ["apt-get", "download", "-qq", *packages]
        if subprocess.run(download, cwd=fetched, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
            raise Skipped("not all of Debian's packages are to be had (apt-get update?)")
        for package in fetched.iterdir():
            subprocess.run(["dpkg-deb", "--extract", package, directory], check=True)
        shutil.rmtree(fetched)

    return cached(name, " ".join(packages), make)


def protoc(root, folder, file, *arguments):
    """Debian's, which is 3.21."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(root / "usr/lib/x86_64-linux-gnu")}
    command = [root / "usr/bin/protoc", f"-I{folder}", f"-I{root / 'usr/include'}", *arguments, file]
    run(command, "protoc", env=environment)


class Python:
    @staticmethod
    def versions():
        return f"Python {sys.version.split()[0]}, grpcio {importlib.metadata.version('grpcio')}"

    @staticmethod
    def fetch():
        return None  # the interpreter that runs this has it all

    def __init__(self, work):
        self.environment = {"PYTHONPATH": f"{work}:{CALLERS / 'python'}", "PYTHONDONTWRITEBYTECODE": "1"}
        run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"-I{PROTO}",
                f"--python_out={work}",
                f"--grpc_python_out={work}",
                CONTRACT,
            ],
            "protoc",
        )
        self.command = [sys.executable, CALLERS / "python/caller.py"]
        self.steady = [sys.executable, HERE / "steady.py"]


class Node:
    @staticmethod
    def versions():
        return f"Node {output('node', '--version')[1:]}, @grpc/grpc-js 1.14.7"

    @staticmethod
    def fetch():
        need("node", "npm")
        lock = HERE / "package-lock.json"

        def make(directory):
            for file in (HERE / "package.json", lock):
                shutil.copy(file, directory)
            run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], "npm ci", cwd=directory)

        return cached("callers-node", lock.read_text(), make)

    def __init__(self, _work):
        directory = self.fetch()
        self.environment = {
            "NODE_PATH": str(directory / "node_modules"),
            "TOKEN_BROKER_PROTO": str(PROTO),
            "CALLER": str(CALLERS / "node/caller.js"),
        }
        self.command = ["node", CALLERS / "node/caller.js"]
        self.steady = ["node", HERE / "steady.js"]


class Go:
    @staticmethod
    def versions():
        return f"{output('go', 'version').split()[2]}, google.golang.org/grpc 1.33.3"

    @staticmethod
    def fetch():
        need("go")
        return debian("callers-go", GO_DEBIAN)

    def __init__(self, work):
        root = self.fetch()
        app = work / "go/src/example.org/app"
        (app / "caller").mkdir(parents=True)
        shutil.copy(CALLERS / "go/main.go", app / "caller")
        options = [
            f"--{plugin}_opt={option}"
            for plugin in ("go", "go-grpc")
            for option in ("module=example.org/app", f"M{CONTRACT}=example.org/app/tokenbrokerv1")
        ]
        plugins = [f"--plugin={root / 'usr/bin' / plugin}" for plugin in ("protoc-gen-go", "protoc-gen-go-grpc")]
        protoc(root, PROTO, PROTO / CONTRACT, *plugins, f"--go_out={app}", f"--go-grpc_out={app}", *options)
        program = work / "go/caller"
        environment = os.environ | {
            "GO111MODULE": "off",
            "GOPATH": f"{work / 'go'}:{root / 'usr/share/gocode'}",
            "GOFLAGS": "-p=1",
            "CGO_ENABLED": "0",
        }
        run(["go", "build", "-o", program, "example.org/app/caller"], "go build", env=environment)
        # Before 1.40 retries are off unless this is set.
        self.environment = {"GRPC_GO_RETRY": "on"}
        self.command = [program]


class Java:
    @staticmethod
    def versions():
        return f"Java {output('javac', '--version').split()[1]}, grpc-java 1.41.3"

    @staticmethod
    def fetch():
        need("java", "javac")
        return debian("callers-java", JAVA_DEBIAN)

    def __init__(self, work):
        root = self.fetch()
        jars = sorted(jar for jar in (root / "usr/share/java").glob("*.jar") if jar.exists())
        generated, classes = work / "java/generated", work / "java/classes"
        generated.mkdir(parents=True)
        plugin = f"--plugin=protoc-gen-grpc-java={root / 'usr/bin/grpc_java_plugin'}"
        protoc(root, PROTO, PROTO / CONTRACT, plugin, f"--java_out={generated}", f"--grpc-java_out={generated}")
        # The package of google.rpc's messages is older than ErrorInfo.
        protos = pathlib.Path(error_details_pb2.__file__).parents[2]
        protoc(root, protos, protos / "google/rpc/error_details.proto", f"--java_out={generated}")
        path = ":".join(map(str, jars))
        sources = [*generated.rglob("*.java"), CALLERS / "java/Caller.java"]
        run(["javac", "-nowarn", "-d", classes, "-cp", path, *sources], "javac")
        # Debian's Netty speaks HTTP/2 over TLS with OpenSSL only, by a library that Debian has under another name.
        libraries = root / "usr/lib/x86_64-linux-gnu"
        shutil.copy(libraries / "jni/libnetty-tcnative.so", work / "java/libnetty_tcnative.so")
        self.environment = {"LD_LIBRARY_PATH": f"{libraries}:{work / 'java'}"}
        self.command = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{classes}:{path}", "Caller"]


class Rust:
    @staticmethod
    def versions():
        return f"{' '.join(output('rustc', '--version').split()[:2])}, tonic 0.14"

    @staticmethod
    def fetch():
        return None  # built with the broker

    def __init__(self, _work):
        built = pathlib.Path(os.environ[EXAMPLES])
        self.environment = {}
        self.command = [built / "caller"]
        self.steady = [built / "steady"]


LANGUAGES = {"rust": Rust, "python": Python, "node": Node, "go": Go, "java": Java}


def fetch(names):
    """Gets what the namespaces keep out of reach; what can't be had is told later."""
    for name in names:
        with contextlib.suppress(Skipped):
            LANGUAGES[name].fetch()


def prepare(names, folder):
    """The languages that can be tried, and why the others can't."""
    ready, skipped = {}, []
    for name in names:
        work = folder / name
        work.mkdir()
        try:
            ready[name] = LANGUAGES[name](work)
        except Skipped as why:
            skipped.append(f"{name}: {why}")
    return ready, skipped
