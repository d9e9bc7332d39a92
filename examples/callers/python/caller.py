"""Asks the broker for a user's token, and uses it: python caller.py MERCHANT NUMBER

The environment says where the broker is (TOKEN_BROKER_TARGET), how it is known (TOKEN_BROKER_CA), who we are
(TOKEN_BROKER_TOKEN_FILE, or TOKEN_BROKER_CERTIFICATE and TOKEN_BROKER_KEY), and where the vault's API is (VAULT_URL).
"""

import json
import os
import pathlib
import sys
import threading
import time
import urllib.error
import urllib.request

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tokenbroker.v1 import token_broker_pb2, token_broker_pb2_grpc

# A call's whole time, repeats included: a sign-in takes up to ten seconds.
CALL_SECONDS = 15
# Most ids that one call can name: more than there are replicas.
REJECTED_MAX = 16

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "tokenbroker.v1.TokenBrokerService"}],
            # Asking twice does no harm. How long to wait between is what the broker's pushback says; these are for errors
            # without one: a broker that goes away, or none there.
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ],
}
OPTIONS = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    # A connection whose other end is gone without a word is noticed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # When a replica says goodbye, the name is looked up again at once, not half a minute after the last time.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
]


class TokenFile(grpc.AuthMetadataPlugin):
    """The projected service-account token, read for each call: kubelet replaces it."""

    def __init__(self, path):
        self._path = pathlib.Path(path)

    def __call__(self, context, callback):
        try:
            callback((("authorization", f"Bearer {self._path.read_text().strip()}"),), None)
        except OSError as error:
            callback((), error)


def connect(environment=os.environ):
    """One channel for the whole process, which threads may share."""
    target, ca = environment["TOKEN_BROKER_TARGET"], environment.get("TOKEN_BROKER_CA")
    if not ca:
        return grpc.insecure_channel(target, OPTIONS)
    key = certificate = None
    if "TOKEN_BROKER_CERTIFICATE" in environment:
        certificate = pathlib.Path(environment["TOKEN_BROKER_CERTIFICATE"]).read_bytes()
        key = pathlib.Path(environment["TOKEN_BROKER_KEY"]).read_bytes()
    credentials = grpc.ssl_channel_credentials(pathlib.Path(ca).read_bytes(), key, certificate)
    if "TOKEN_BROKER_TOKEN_FILE" in environment:
        token_file = TokenFile(environment["TOKEN_BROKER_TOKEN_FILE"])
        credentials = grpc.composite_channel_credentials(credentials, grpc.metadata_call_credentials(token_file))
    return grpc.secure_channel(target, credentials, OPTIONS)


class Rejected:
    """The tokens that the vault's API answered with 401, by user, while they would have lived. One for the whole process."""

    def __init__(self):
        self._lock = threading.Lock()
        self._ends = {}  # user → token_id → when it would have ended; the newest last

    def add(self, user, token):
        with self._lock:
            now = time.monotonic()
            alive = {user: {id_: end for id_, end in ids.items() if end > now} for user, ids in self._ends.items()}
            self._ends = {user: ids for user, ids in alive.items() if ids}
            ids = self._ends.setdefault(user, {})
            ids[token.token_id] = now + token.expires_in.ToTimedelta().total_seconds()
            if len(ids) > REJECTED_MAX:
                del ids[next(iter(ids))]

    def forget(self, user, token_id):
        with self._lock:
            self._ends.get(user, {}).pop(token_id, None)

    def ids(self, user):
        with self._lock:
            now = time.monotonic()
            return [id_ for id_, end in self._ends.get(user, {}).items() if end > now]


REJECTED = Rejected()


def get_token(channel, merchant, number):
    # Named with each call: replicas hold tokens of their own, and any of them may answer.
    rejected = REJECTED.ids((merchant, number))
    request = token_broker_pb2.GetTokenRequest(merchant_id=merchant, number=number, rejected_token_ids=rejected)
    stub = token_broker_pb2_grpc.TokenBrokerServiceStub(channel)
    token = stub.GetToken(request, timeout=CALL_SECONDS).token
    if token.token_id in rejected:
        # The vault insists on it: named again, it would only cost a sign-in with each call.
        REJECTED.forget((merchant, number), token.token_id)
    return token


def reason_and_wait(error):
    """The broker's reason and the seconds to wait, where it says so; (None, None) if no broker answered."""
    reason = wait = None
    status = rpc_status.from_call(error)
    for packed in status.details if status else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            reason = info.reason
        elif packed.Unpack(retry):
            wait = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, wait


def call_vault(token):
    """The status of a call of the vault's API."""
    headers = {"Authorization": f"Bearer {token.access_token}"}
    request = urllib.request.Request(os.environ["VAULT_URL"] + "/v1/customer", headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310 - the URL is our own configuration
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def main():
    merchant, number = sys.argv[1:]
    with connect() as channel:
        try:
            token = get_token(channel, merchant, number)
            status = call_vault(token)
            complained = set()
            # The vault knows this token no more, and maybe none of those that other replicas hold. One that comes back all the
            # same is its last word.
            while status == 401 and token.token_id not in complained and len(complained) < REJECTED_MAX:
                complained.add(token.token_id)
                REJECTED.add((merchant, number), token)
                token = get_token(channel, merchant, number)
                status = call_vault(token)
        except grpc.RpcError as error:
            reason, wait = reason_and_wait(error)
            later = f" (try again in: {wait} s)" if wait else ""
            sys.exit(f"{error.code().name} {reason or 'no answer of a broker'}: {error.details()}{later}")
    print(f"{status} with token {token.token_id}")


if __name__ == "__main__":
    main()
