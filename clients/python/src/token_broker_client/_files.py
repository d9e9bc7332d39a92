"""The files of a source: the CA, the certificate and its key, and the service account's token.

Must never show what stands in them, nor pass on what can't be used: half of a pair that is being replaced, or a token that no
header takes, whose error would print it.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from ._errors import ConfigurationError
from ._options import Options


class Materials(NamedTuple):
    """What a channel is made of, as the files had it."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None

    def __repr__(self) -> str:
        return "Materials()"


def _read(option: str, file: str | None) -> bytes | None:
    if file is None:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as fault:
        remedy = "see that it is there, and that this process may read it"
        raise ConfigurationError(f"{option}: {file} can't be read: {fault.strerror}: {remedy}") from None


def _refuse_passphrase() -> str:
    # Without this OpenSSL asks for one at the terminal, and waits.
    raise ConfigurationError("key_file: the key is encrypted: give one that is not")


def _check(options: Options, materials: Materials) -> None:
    """gRPC takes anything, and then fails each handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # In PEM only comments have anything else than ASCII, and Python takes nothing else.
        context.load_verify_locations(cadata=(materials.ca or b"").decode("ascii", "ignore"))
    except (ssl.SSLError, TypeError, ValueError):
        raise ConfigurationError(f"ca_file: {options.ca_file} holds no certificate in PEM: give the brokers' CA") from None
    if options.certificate_file is None or options.key_file is None:
        return
    try:
        context.load_cert_chain(options.certificate_file, options.key_file, _refuse_passphrase)
    except (OSError, ValueError) as fault:
        if isinstance(fault, ConfigurationError):
            raise
        pair = f"{options.certificate_file} and {options.key_file}"
        remedy = "give your certificate and the key that belongs to it, both in PEM"
        raise ConfigurationError(f"certificate_file, key_file: {pair} are no pair: {remedy}") from None


def read(options: Options, known: Materials | None = None) -> Materials:
    """The files as they are now. What is `known` was found to be good before.

    Raises ConfigurationError where they can't be used, or change meanwhile.
    """
    materials = _all(options)
    if options.is_tls and materials != known:
        # By their names, since OpenSSL takes certificates from files only: so they are read once more to know that it saw the
        # same.
        _check(options, materials)
        if _all(options) != materials:
            raise ConfigurationError("certificate_file, key_file: they are being replaced: try again")
    return materials


def _all(options: Options) -> Materials:
    return Materials(
        _read("ca_file", options.ca_file),
        _read("certificate_file", options.certificate_file),
        _read("key_file", options.key_file),
    )


def call_metadata(options: Options) -> tuple[tuple[str, str], ...]:
    """What a call says of its caller: the service account's token, read anew since kubelet replaces it."""
    token = _read("token_file", options.token_file)
    if token is None:
        return ()
    stripped = token.strip()
    if not stripped or not all(0x21 <= byte <= 0x7E for byte in stripped):
        remedy = "it is to hold the token alone, as Kubernetes projects it"
        raise ConfigurationError(f"token_file: {options.token_file} holds no token: {remedy}")
    return (("authorization", f"Bearer {stripped.decode()}"),)
