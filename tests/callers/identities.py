"""Certificates of a throw-away CA, and a service account's token as a cluster projects it, made as a test runs."""

import base64
import json
import subprocess
import time

ISSUER = "https://issuer.invalid"
SUBJECT = "system:serviceaccount:cards:cards"
SPIFFE = "spiffe://example.org/ns/cards/sa/cards"


def openssl(*arguments, data=None):
    return subprocess.run(
        ["openssl", *arguments], input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    ).stdout


CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def make(directory, name):
    """A CA (`ca.crt`), a broker's certificate for `name` and those below (`tls.*`), a caller's (`client.*`), `jwks`, `token`."""
    ca = ["-keyout", directory / "ca.key", "-out", directory / "ca.crt", "-subj", "/CN=callers", "-days", "1"]
    openssl("req", "-x509", *CURVE, *ca)
    make_certificate(directory, "tls", f"DNS:{name},DNS:*.{name}")
    make_certificate(directory, "client", f"URI:{SPIFFE}")
    make_keys(directory)
    (directory / "token").write_text(token(directory, SUBJECT))


def make_certificate(directory, whose, names):
    """Another of the CA's, with its key."""
    request = directory / f"{whose}.csr"
    openssl("req", *CURVE, "-keyout", directory / f"{whose}.key", "-out", request, "-subj", f"/CN={whose}")
    extensions = directory / f"{whose}.ext"
    extensions.write_text(f"subjectAltName={names}\n")
    authority = ["-CA", directory / "ca.crt", "-CAkey", directory / "ca.key", "-CAcreateserial", "-days", "1"]
    openssl("x509", "-req", "-in", request, "-out", directory / f"{whose}.crt", *authority, "-extfile", extensions)
    (directory / f"{whose}.key").chmod(0o600)


def text(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def make_keys(directory):
    """The cluster's key (`cluster.key`), and what it publishes of it (`jwks`)."""
    key = directory / "cluster.key"
    openssl("genrsa", "-out", key, "2048")
    modulus = bytes.fromhex(openssl("rsa", "-in", key, "-noout", "-modulus").decode().strip().partition("=")[2])
    published = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "n": text(modulus), "e": text(b"\1\0\1")}
    (directory / "jwks").write_text(json.dumps({"keys": [published]}))


def token(directory, subject, lasts=3600):
    """A service account's token, as a cluster projects it, with so many seconds left."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": ["token-broker"], "sub": subject, "nbf": now - 7200, "iat": now - 7200, "exp": now + lasts}
    signed = ".".join(text(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "one"}, claims))
    signature = openssl("dgst", "-sha256", "-sign", directory / "cluster.key", data=signed.encode())
    return f"{signed}.{text(signature)}\n"
