#!/usr/bin/env python3
"""Calls a running broker as a Python service would, and prints what came back as one line of JSON.

    call_broker.py ENDPOINT MERCHANT NUMBER

ENDPOINT is host:port in plaintext; MERCHANT and NUMBER name a user that the broker knows. It asks for that user's token twice,
for a user that nobody configured, and with a request that is malformed in two fields; then for its health, and for its services
by both versions of reflection. It judges nothing: whoever runs it compares. Exit code 0 if all that could be asked, 1 if not.

The line holds the access token, so this is for the development vault only.
"""

import argparse
import importlib
import importlib.resources
import json
import pathlib
import sys
import tempfile

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

PROTO_ROOT = pathlib.Path(__file__).resolve().parents[2] / "proto"
PROTO_FILE = "tokenbroker/v1/token_broker.proto"
SERVICE = "tokenbroker.v1.TokenBrokerService"

# Well formed, but nobody's: 555-01xx is set aside for fiction.
UNCONFIGURED_NUMBER = "+12025550123"
# For each call: a sign-in at a loaded development vault included.
CALL_SECONDS = 20.0
# A proxy of the environment has no business between two processes of one machine.
CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0),)
PUSHBACK_TRAILER = "grpc-retry-pushback-ms"


def generate_stubs(directory):
    """Compiles the contract as a user of grpcio does, and imports the result."""
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{PROTO_ROOT}", f"-I{well_known}", f"--python_out={directory}", f"--grpc_python_out={directory}"]
    if protoc.main([*arguments, PROTO_FILE]) != 0:
        raise RuntimeError("protoc failed")
    sys.path.insert(0, directory)
    module = PROTO_FILE.removesuffix(".proto").replace("/", ".")
    return importlib.import_module(f"{module}_pb2"), importlib.import_module(f"{module}_pb2_grpc")


def describe_token(reply):
    token = reply.token
    return {
        "access_token": token.access_token,
        "token_type": token.token_type,
        "expires_at": token.expires_at.ToJsonString(),
        "scope": token.scope,
        "token_id": token.token_id,
        "expires_in_seconds": token.expires_in.ToTimedelta().total_seconds(),
    }


def describe_error(call):
    """What an error says: its code, its google.rpc details, and the trailer that retry policies read."""
    error = {"code": call.code().name, "message": call.details()}
    status = rpc_status.from_call(call)
    for packed in status.details if status else []:
        info, bad_request, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            error |= {"reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)}
        elif packed.Unpack(bad_request):
            violations = bad_request.field_violations
            error["field_violations"] = [{"field": v.field, "description": v.description} for v in violations]
        elif packed.Unpack(retry):
            error["retry_delay_seconds"] = retry.retry_delay.ToTimedelta().total_seconds()
        else:
            error.setdefault("other_details", []).append(packed.type_url)
    trailers = {key: value for key, value in call.trailing_metadata() or () if key == PUSHBACK_TRAILER}
    if trailers:
        error["pushback_ms"] = trailers[PUSHBACK_TRAILER]
    return error


def error_of(get_token, request):
    try:
        get_token(request, timeout=CALL_SECONDS)
    except grpc.RpcError as call:
        return describe_error(call)
    return {"code": "OK"}


def health_of(channel, service):
    reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL_SECONDS)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def services_by_reflection(channel, version):
    """The services that the broker names, or None without that version; v1 and v1alpha differ in their package's name alone."""
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    replies = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=CALL_SECONDS)
    try:
        return sorted(service.name for reply in replies for service in reply.list_services_response.service)
    except grpc.RpcError as call:
        if call.code() == grpc.StatusCode.UNIMPLEMENTED:
            return None
        raise


def observe(endpoint, merchant, number):
    with tempfile.TemporaryDirectory() as directory, grpc.insecure_channel(endpoint, CHANNEL_OPTIONS) as channel:
        messages, services = generate_stubs(directory)
        get_token = services.TokenBrokerServiceStub(channel).GetToken
        request = messages.GetTokenRequest(merchant_id=merchant, number=number)
        unconfigured = messages.GetTokenRequest(merchant_id=merchant, number=UNCONFIGURED_NUMBER)
        malformed = messages.GetTokenRequest(merchant_id="", number="not a number")
        return {
            "token": describe_token(get_token(request, timeout=CALL_SECONDS)),
            "token_again": describe_token(get_token(request, timeout=CALL_SECONDS)),
            "unconfigured": error_of(get_token, unconfigured),
            "malformed": error_of(get_token, malformed),
            "health": {service: health_of(channel, service) for service in ("", SERVICE)},
            "reflection": {version: services_by_reflection(channel, version) for version in ("v1alpha", "v1")},
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("endpoint", help="host:port, plaintext")
    parser.add_argument("merchant")
    parser.add_argument("number")
    arguments = parser.parse_args()
    try:
        seen = observe(arguments.endpoint, arguments.merchant, arguments.number)
    except grpc.RpcError as call:
        print(f"call_broker: {call.code().name}: {call.details()}", file=sys.stderr)
        return 1
    print(json.dumps(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
