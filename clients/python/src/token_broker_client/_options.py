"""What a source is told: its brokers, and how each side knows the other.

Must never read a file: each is read when it is needed, and again as it is replaced; nor let a token or a certificate go with
plaintext.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Union
from urllib.parse import SplitResult, urlsplit

from ._errors import ConfigurationError

Path = Union[str, "os.PathLike[str]"]

# Covers a sign-in, and the wait of a broker that asks for some.
DEFAULT_TIMEOUT = 30.0
# The broker takes no call for longer.
TIMEOUT_MAX = 10 * 60.0
# A source waits this much longer than its calls take, so that it is the call that says what took so long …
AHEAD = 0.1
# … but no greater part of a short time.
AHEAD_PART = 0.1
# Where a URL names no port.
STANDARD_PORTS = {"http": 80, "https": 443}


class Endpoint(NamedTuple):
    """A broker, or a name of several."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """Without a dot at the end of the host: names in certificates have none."""
        return f"{self._bracketed(self.host.rstrip('.'))}:{self.port}"

    @property
    def target(self) -> str:
        """For gRPC, which looks the name up again and again."""
        if ":" in self.host:
            # A URI's path takes no brackets.
            return f"ipv6:%5B{self.host.replace('%', '%25')}%5D:{self.port}"
        return f"dns:///{self.host}:{self.port}"

    @staticmethod
    def _bracketed(host: str) -> str:
        return f"[{host}]" if ":" in host else host


class Options(NamedTuple):
    """All of it, checked."""

    endpoints: tuple[Endpoint, ...]
    is_tls: bool
    ca_file: str | None
    token_file: str | None
    certificate_file: str | None
    key_file: str | None
    timeout: float
    use_proxy: bool

    @property
    def named(self) -> str:
        """The endpoints, for people."""
        return ", ".join(endpoint.authority for endpoint in self.endpoints)

    @property
    def call_time(self) -> float:
        """Of one call, repeats included."""
        return self.timeout - min(AHEAD, self.timeout * AHEAD_PART)

    def wait(self, timeout: float | None) -> float:
        """How long one caller waits."""
        return self.timeout if timeout is None else min(max(timeout, 0.0), TIMEOUT_MAX)


def _unfit(option: str, fault: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"{option}: {fault}: {remedy}")


def _parse(url: str) -> tuple[str, Endpoint]:
    example = "write it as http://127.0.0.1:50051 or https://token-broker.example.org:50051"
    # With a user's password in it, it must not be shown.
    shown = "what is given" if "@" in url else repr(url)
    try:
        split: SplitResult = urlsplit(url)
        host = split.hostname or ""
    except ValueError:
        raise _unfit("endpoints", f"{shown} is not a URL", example) from None
    try:
        port = split.port
        if port == 0:
            raise ValueError
    except ValueError:
        raise _unfit("endpoints", f"{shown} has a port that can't be", "it is a number, 1 to 65535") from None
    if split.scheme not in STANDARD_PORTS:
        raise _unfit("endpoints", f"{shown} begins with neither http:// nor https://", example)
    is_plain = url.isascii() and url.isprintable() and not any(char in host for char in " /\\,") and bool(host.strip("."))
    if not is_plain:
        raise _unfit("endpoints", f"{shown} has no host that can be looked up", example)
    if split.path not in ("", "/") or split.query or split.fragment or "@" in split.netloc or url != url.strip():
        raise _unfit("endpoints", f"{shown} has more than a scheme, a host and a port", example)
    return split.scheme, Endpoint(host, port or STANDARD_PORTS[split.scheme])


def check(
    endpoints: str | Sequence[str],
    *,
    ca_file: Path | None = None,
    token_file: Path | None = None,
    certificate_file: Path | None = None,
    key_file: Path | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    use_proxy: bool = False,
) -> Options:
    """The options, or what is wrong with them."""
    urls = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    if not urls:
        raise _unfit("endpoints", "there is none", "name at least one broker, such as http://127.0.0.1:50051")
    parsed = [_parse(url) for url in urls]
    schemes = {scheme for scheme, _ in parsed}
    if len(schemes) > 1:
        raise _unfit("endpoints", "some are http:// and some https://", "have all of them the one or all the other")
    is_tls = "https" in schemes
    given = {"ca_file": ca_file, "token_file": token_file, "certificate_file": certificate_file, "key_file": key_file}
    files = {name: os.fspath(file) for name, file in given.items() if file is not None}
    for name, file in files.items():
        if not file:
            raise _unfit(name, "is empty", "name a file, or leave the option out")
        if not is_tls:
            raise _unfit(name, "goes with no http:// endpoint, which is plaintext", "use https://, or leave the option out")
    if is_tls and ca_file is None:
        raise _unfit(
            "ca_file", "is missing, and https:// needs it", "name the file with the CA of the brokers' certificates, in PEM"
        )
    if (certificate_file is None) != (key_file is None):
        missing, there = ("key_file", "certificate_file") if key_file is None else ("certificate_file", "key_file")
        raise _unfit(missing, f"is missing beside {there}", "name both; one file with both in it may stand for both")
    if token_file is not None and certificate_file is not None:
        raise _unfit("token_file", "is given together with certificate_file", "leave one of them out: a caller has one identity")
    if not timeout > 0:
        raise _unfit("timeout", f"is {timeout!r}", "give it in seconds, more than 0 and at most 600")
    # The same twice is one.
    unique = tuple(dict.fromkeys(endpoint for _, endpoint in parsed))
    bounded = min(float(timeout), TIMEOUT_MAX)
    return Options(
        endpoints=unique,
        is_tls=is_tls,
        ca_file=files.get("ca_file"),
        token_file=files.get("token_file"),
        certificate_file=files.get("certificate_file"),
        key_file=files.get("key_file"),
        timeout=bounded,
        use_proxy=use_proxy,
    )
