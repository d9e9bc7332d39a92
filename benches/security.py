#!/usr/bin/env python3
"""The CPU of one cached call in plaintext, over TLS, over mutual TLS with a policy, and with a service account's token.

    python3 benches/security.py [--rounds N] [--calls N] [--compare BINARY]

One broker each, driven in turn over 4 connections of 8 streams; the CPU time is read from /proc around each turn. The audit
trail is on in all of them, since it can't be turned off; --compare measures another broker's binary in plaintext beside them,
such as one from before the trail. Needs openssl for the certificates and the token, which are made for the run.
"""

import argparse
import base64
import json
import os
import statistics
import subprocess
import time

from harness import MERCHANT, PASSWORD, Bench, build_all, free_address, need, number

ISSUER = "https://issuer.invalid"
SUBJECT = "system:serviceaccount:bench:bench"
SPIFFE = "spiffe://example.org/bench"
WARM_UP_CALLS = 5_000
TURN_SECONDS = 120


def openssl(*arguments, data=None):
    return subprocess.run(
        ["openssl", *arguments], input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    ).stdout


def make_certificates(directory):
    """A CA, the broker's certificate for loopback, and a client's with a SPIFFE id."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(
        "req", "-x509", *curve, "-keyout", directory / "ca.key", "-out", directory / "ca.crt", "-subj", "/CN=bench", "-days", "1"
    )
    for name, names in (("tls", "IP:127.0.0.1"), ("client", f"URI:{SPIFFE}")):
        request = directory / f"{name}.csr"
        openssl("req", *curve, "-keyout", directory / f"{name}.key", "-out", request, "-subj", f"/CN={name}")
        extensions = directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n")
        authority = ["-CA", directory / "ca.crt", "-CAkey", directory / "ca.key", "-CAcreateserial", "-days", "1"]
        openssl("x509", "-req", "-in", request, "-out", directory / f"{name}.crt", *authority, "-extfile", extensions)
        (directory / f"{name}.key").chmod(0o600)


def text(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def make_token(directory):
    """A key as a cluster publishes it (RSA, its default), and a token as it projects it."""
    key = directory / "cluster.key"
    openssl("genrsa", "-out", key, "2048")
    modulus = bytes.fromhex(openssl("rsa", "-in", key, "-noout", "-modulus").decode().strip().partition("=")[2])
    published = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "n": text(modulus), "e": text(b"\1\0\1")}
    (directory / "jwks").write_text(json.dumps({"keys": [published]}))
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": ["token-broker"], "sub": SUBJECT, "nbf": now - 60, "iat": now - 60, "exp": now + 3600}
    signed = ".".join(text(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "one"}, claims))
    signature = openssl("dgst", "-sha256", "-sign", key, data=signed.encode())
    (directory / "token").write_text(f"{signed}.{text(signature)}")


def start(bench, program, name, tables):
    """A broker with one user and these tables beside."""
    address = free_address()
    config = bench.directory / f"{name}.toml"
    config.touch(mode=0o600)
    config.write_text(
        f'[grpc]\nlisten = "{address}"\nlame_duck = "0s"\n{tables}[vault]\nbase_url = "http://{bench.upstream.address}"\n'
        f'[[users]]\nmerchant_id = "{MERCHANT}"\nnumber = "{number(0)}"\npassword = "{PASSWORD}"\n'
    )
    return bench.start(name, [program, "serve", "--config", config], address)


def modes(bench, programs, compare):
    """Each mode's broker, and the arguments and the environment of its callers."""
    directory = bench.directory
    tls = '[grpc.tls]\ncertificate_file = "tls.crt"\nkey_file = "tls.key"\n'
    accounts = f'[auth.service_accounts]\nissuer = "{ISSUER}"\njwks_file = "jwks"\n'

    def caller(name):
        return f'[[callers]]\nid = "{name}"\nmerchants = ["{MERCHANT}"]\n'

    ca, client = [directory / "ca.crt"], [directory / "client.crt", directory / "client.key"]
    token = {"TOKEN_FILE": str(directory / "token")}
    broker = programs["token-broker"]
    found = {
        "plaintext": (start(bench, broker, "plaintext", ""), [], {}),
        "TLS": (start(bench, broker, "tls-only", tls), ca, {}),
        "mTLS + policy": (start(bench, broker, "mtls", f'{tls}client_ca_file = "ca.crt"\n{caller(SPIFFE)}'), ca + client, {}),
        "TLS + token + policy": (start(bench, broker, "accounts", f"{tls}{accounts}{caller(SUBJECT)}"), ca, token),
    }
    if compare:
        found["compared, plaintext"] = (start(bench, compare, "compared", ""), [], {})
    return found


def press(programs, server, files, environment, calls):
    """CPU microseconds per call."""
    url = f"{'https' if files else 'http'}://{server.address}"
    before = server.cpu_seconds()
    command = [programs["press"], url, MERCHANT, str(calls), *files]
    subprocess.run(command, env=os.environ | environment, check=True, timeout=TURN_SECONDS)
    return (server.cpu_seconds() - before) / calls * 1e6


def run(rounds, calls, compare):
    programs = build_all(with_broker=True)
    with Bench() as bench:
        make_certificates(bench.directory)
        make_token(bench.directory)
        bench.upstream = bench.vault(programs)
        sides = modes(bench, programs, compare)
        for side in sides.values():
            press(programs, *side, WARM_UP_CALLS)
        costs = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                costs[name].append(press(programs, *side, calls))
    plain = statistics.median(costs["plaintext"])
    for name, found in costs.items():
        cost = statistics.median(found)
        print(f"{name:22} {cost:7.1f} µs of CPU a call ({min(found):.1f} to {max(found):.1f}), {cost - plain:+.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--calls", type=int, default=40_000, help="calls in a turn (default 40,000)")
    parser.add_argument("--compare", help="another broker's binary, measured in plaintext")
    arguments = parser.parse_args()
    need("openssl", "openssl")
    run(arguments.rounds, arguments.calls, arguments.compare)


if __name__ == "__main__":
    main()
