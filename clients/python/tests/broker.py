"""A broker in this process, over real connections, that does what it is told; and a source of either kind to ask it.

Must never wait for time to pass: a call is held until it is let go.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from concurrent import futures

import grpc

import token_broker_client
from token_broker_client import aio
from token_broker_client._proto import token_broker_pb2 as pb

MERCHANT, NUMBER = "m", "+447871239999"
# No test takes nearly so long.
SECONDS = 15.0


class Broker(grpc.GenericRpcHandler):
    """Answers with `token-0`, `token-1` and so on, unless its script says otherwise."""

    def __init__(self, credentials=None, is_well=True):
        host = "127.0.0.1"
        self.is_well = is_well
        self.script = []
        # Requests and metadata, as they came.
        self.requests = []
        self.metadata = []
        self.peers = []
        self.seconds = 100
        # What makes another answer than a token.
        self.answers = None
        self.came = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self._server = grpc.server(futures.ThreadPoolExecutor(64), handlers=[self], options=[("grpc.so_reuseport", 0)])
        if credentials is None:
            self.port = self._server.add_insecure_port(f"{host}:0")
        else:
            self.port = self._server.add_secure_port(f"{host}:0", credentials)
        self._server.start()
        self.url = f"{'http' if credentials is None else 'https'}://{host}:{self.port}"

    def service(self, details):
        if details.method == "/grpc.health.v1.Health/Watch":
            return grpc.unary_stream_rpc_method_handler(self._watch)
        if details.method != "/tokenbroker.v1.TokenBrokerService/GetToken":
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._get_token, pb.GetTokenRequest.FromString, pb.GetTokenResponse.SerializeToString
        )

    def _watch(self, request, context):
        assert b"tokenbroker.v1.TokenBrokerService" in request, "it is the service that is asked after"
        over = threading.Event()
        context.add_callback(over.set)
        # grpc.health.v1.HealthCheckResponse with SERVING or NOT_SERVING.
        yield b"\x08\x01" if self.is_well else b"\x08\x02"
        over.wait(SECONDS)

    def _get_token(self, request, context):
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.peers.append(context.auth_context().get("x509_common_name", []))
        self.came.release()
        assert self.go.wait(SECONDS)
        if self.script:
            self.script.pop(0)(context)
        if self.answers is not None:
            return self.answers()
        name = f"token-{len(self.requests) - 1}"
        answer = pb.GetTokenResponse(token=pb.Token(access_token=f"secret of {name}", token_id=name, scope="read"))
        answer.token.expires_in.seconds = self.seconds
        return answer

    async def has_come(self):
        """Waits for the next call."""
        assert await asyncio.to_thread(self.came.acquire, timeout=SECONDS), "no call has come"

    def stop(self):
        self.go.set()
        self._server.stop(0).wait(SECONDS)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def aborts(code, text="no", **trailers):
    """For a script: ends a call so."""

    def act(context):
        context.set_trailing_metadata([(name.replace("_", "-"), value) for name, value in trailers.items()])
        context.abort(code, text)

    return act


class Threads:
    """The source for threads, awaited."""

    name = "threads"

    def __init__(self, *endpoints, **options):
        self.source = token_broker_client.TokenSource(list(endpoints), **options)

    async def token(self, *user, **options):
        return await asyncio.to_thread(self.source.token, *(user or (MERCHANT, NUMBER)), **options)

    async def with_token(self, send, **options):
        return await asyncio.to_thread(self.source.with_token, MERCHANT, NUMBER, send, **options)

    async def warm(self, users):
        return await asyncio.to_thread(self.source.warm, users)

    async def close(self):
        await asyncio.to_thread(self.source.close)


class Tasks:
    """The source for asyncio."""

    name = "tasks"

    def __init__(self, *endpoints, **options):
        self.source = aio.TokenSource(list(endpoints), **options)

    async def token(self, *user, **options):
        return await self.source.token(*(user or (MERCHANT, NUMBER)), **options)

    async def with_token(self, send, **options):
        async def awaited(token):
            return send(token)

        return await self.source.with_token(MERCHANT, NUMBER, awaited, **options)

    async def warm(self, users):
        return await self.source.warm(users)

    async def close(self):
        await self.source.close()


def play(scenario, make, *endpoints, **options):
    """Runs a test over a source, which is closed behind it."""

    async def whole():
        source = make(*endpoints, **options)
        try:
            await asyncio.wait_for(scenario(source), SECONDS)
        finally:
            await source.close()

    asyncio.run(whole())


def spawn(*command, **more):
    """Runs a program, and takes what it prints.

    With files left open Python spawns it: before 3.10 it would fork with gRPC's threads, and the child now and then hang.
    """
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=20, close_fds=False, **more)


def openssl(*arguments):
    spawn(shutil.which("openssl"), *arguments).check_returncode()


class Certificates:
    """A CA of a test's own, and what it signed: `NAME.crt` with `NAME.key`."""

    def __init__(self, directory):
        self.directory = directory
        self._curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")
        openssl("req", "-x509", *self._curve, "-keyout", self.at("ca.key"), "-out", self.at("ca.crt"), "-subj", "/CN=ca")

    def at(self, name):
        return self.directory / name

    def make(self, name):
        """A certificate with this name, for 127.0.0.1."""
        authority = ("-CA", self.at("ca.crt"), "-CAkey", self.at("ca.key"), "-addext", "subjectAltName=IP:127.0.0.1")
        files = ("-keyout", self.at(f"{name}.key"), "-out", self.at(f"{name}.crt"), "-subj", f"/CN={name}")
        openssl("req", "-x509", *self._curve, *authority, "-addext", "basicConstraints=critical,CA:FALSE", *files)
        return self.at(f"{name}.crt"), self.at(f"{name}.key")

    def server(self, asks_clients=False):
        certificate, key = self.make("server")
        pair = [(key.read_bytes(), certificate.read_bytes())]
        ca = self.at("ca.crt").read_bytes()
        return grpc.ssl_server_credentials(pair, ca if asks_clients else None, asks_clients)
