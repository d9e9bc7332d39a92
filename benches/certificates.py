"""Certificates and a service account's token, made for the run with openssl, and the tables that ask callers for them."""

import base64
import json
import subprocess
import time

from harness import MERCHANT

ISSUER = "https://issuer.invalid"
SUBJECT = "system:serviceaccount:bench:bench"
SPIFFE = "spiffe://example.org/bench"
# As many as a large organisation's services.
CALLERS = 100
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(*arguments, data=None):
    return subprocess.run(
        ["openssl", *arguments], input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    ).stdout


def make_authority(directory, name="ca"):
    key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
    openssl("req", "-x509", *CURVE, "-keyout", key, "-out", certificate, "-subj", f"/CN={name}", "-days", "1")


def make_certificate(directory, name, names, authority="ca"):
    """A key and a certificate with such alternative names."""
    request, extensions = directory / f"{name}.csr", directory / f"{name}.ext"
    openssl("req", *CURVE, "-keyout", directory / f"{name}.key", "-out", request, "-subj", f"/CN={name}")
    extensions.write_text(f"subjectAltName={names}\n")
    signed = ["-CA", directory / f"{authority}.crt", "-CAkey", directory / f"{authority}.key", "-CAcreateserial", "-days", "1"]
    openssl("x509", "-req", "-in", request, "-out", directory / f"{name}.crt", *signed, "-extfile", extensions)
    (directory / f"{name}.key").chmod(0o600)


def make_certificates(directory):
    """A CA, the broker's certificate for loopback, and a client's with a SPIFFE id."""
    make_authority(directory)
    make_certificate(directory, "tls", "IP:127.0.0.1")
    make_certificate(directory, "client", f"URI:{SPIFFE}")


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
    claims = {"iss": ISSUER, "aud": ["token-broker"], "sub": SUBJECT, "nbf": now - 60, "iat": now - 60, "exp": now + 14_400}
    signed = ".".join(text(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "one"}, claims))
    signature = openssl("dgst", "-sha256", "-sign", key, data=signed.encode())
    (directory / "token").write_text(f"{signed}.{text(signature)}")


TLS = '[grpc.tls]\ncertificate_file = "tls.crt"\nkey_file = "tls.key"\n'


def policy(name):
    """The callers' tables: the last one is ours, with the name in whose form the others are."""
    names = [f"{name}-{index}" for index in range(1, CALLERS)] + [name]
    return "".join(f'[[callers]]\nid = "{each}"\nmerchants = ["{MERCHANT}"]\n' for each in names)


def mutual():
    """Tables that ask callers for a certificate."""
    return f'{TLS}client_ca_file = "ca.crt"\n{policy(SPIFFE)}'


def accounts():
    """Tables that ask callers for a service account's token."""
    return f'{TLS}[auth.service_accounts]\nissuer = "{ISSUER}"\njwks_file = "jwks"\n{policy(SUBJECT)}'


def mutual_options(directory):
    """Options of `press` that give what `mutual` asks for."""
    return {"ca": directory / "ca.crt", "certificate": directory / "client.crt", "key": directory / "client.key"}


def account_options(directory):
    return {"ca": directory / "ca.crt", "token_file": directory / "token"}
