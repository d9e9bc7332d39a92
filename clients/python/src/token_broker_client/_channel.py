"""The channels that calls go over, made anew as the files behind them are replaced; the same for threads and for asyncio,
which bring their own kind of channel.

Must never give up a channel that works for files that can't be used, close one under a call, or read an answer beyond what a
token needs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Callable, Generic, Literal, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from ._errors import ConfigurationError, Reason, TokenBrokerError, from_status
from ._files import Materials
from ._options import Endpoint, Options
from ._proto import token_broker_pb2 as pb
from ._slot import Call
from ._token import Answer

SERVICE = "tokenbroker.v1.TokenBrokerService"
METHOD = f"/{SERVICE}/GetToken"
# Files are looked at by whichever call comes, but no more often than this: there are few calls, and three small files.
FILES_EVERY = 1.0
# A channel that reached no broker is made anew after so long: for a name that isn't known gRPC backs off to 2 min on its own.
RENEWED_AFTER = 5.0
# An endpoint that was not reached is asked last for so long.
AVOIDED_FOR = 5.0

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # An address gets calls while it says that it is well.
    "healthCheckConfig": {"serviceName": SERVICE},
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            # Asking twice does no harm. How long to wait is what the broker's pushback says; these are for errors without one.
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

Channel = TypeVar("Channel")


def channel_options(options: Options, endpoint: Endpoint) -> list[tuple[str, Any]]:
    """gRPC's own options of the channel to this endpoint."""
    return [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        # Nobody's DNS decides on that.
        ("grpc.service_config_disable_resolution", 1),
        # Environments set proxies for the web, which brokers are not behind.
        ("grpc.enable_http_proxy", int(options.use_proxy)),
        # A connection whose other end is gone without a word is noticed, also between calls; the broker minds no pings.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # When a replica says goodbye, the name is looked up again at once, not half a minute after the last time.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        # A broker that is back is back: gRPC's own back-off goes to 2 min.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # How long an address may take to be connected to, in spite of the name; by default 20 s.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        # Connections and their back-off are this source's alone.
        ("grpc.use_local_subchannel_pool", 1),
        # Without a dot at the end: it is what certificates are held to.
        ("grpc.default_authority", endpoint.authority),
    ]


def credentials(materials: Materials) -> grpc.ChannelCredentials:
    """Of TLS."""
    return grpc.ssl_channel_credentials(materials.ca, materials.key, materials.certificate)


def request(call: Call) -> pb.GetTokenRequest:
    """What a call asks."""
    return pb.GetTokenRequest(
        merchant_id=call.user.merchant_id, number=call.user.number, rejected_token_ids=call.rejected_token_ids
    )


def serialize(message: pb.GetTokenRequest) -> bytes:
    """For gRPC."""
    return message.SerializeToString()


def parse(raw: bytes) -> Answer | TokenBrokerError:
    """For gRPC: all that is read of an answer, so that nothing that prints its secret goes any further."""
    response = pb.GetTokenResponse.FromString(raw)
    if not response.HasField("token"):
        return TokenBrokerError("the broker's answer holds no token: report it", code="INTERNAL")
    token = response.token
    return Answer(
        access_token=token.access_token,
        token_id=token.token_id,
        scope=token.scope,
        expires_in=_seconds(token, "expires_in"),
        renew_in=_seconds(token, "renew_in"),
    )


def _seconds(token: pb.Token, field: Literal["expires_in", "renew_in"]) -> float | None:
    if not token.HasField(field):
        return None
    duration: Duration = getattr(token, field)
    return duration.seconds + duration.nanos / 1e9


def failure(options: Options, status: Any) -> TokenBrokerError:
    """Why a call brought nothing: `status` is gRPC's error, of threads or of asyncio."""
    code, details = status.code().name, status.details() or "no text"
    error = from_status(code, details, status.trailing_metadata() or ())
    if code == "DEADLINE_EXCEEDED" and error.reason is None:
        return TokenBrokerError(f"no answer within {options.call_time:g} s", code=code)
    return error


def is_unreached(error: TokenBrokerError) -> bool:
    """Whether no broker took the call: another may."""
    return error.code == "UNAVAILABLE" and error.reason in (None, Reason.BROKER_SHUTTING_DOWN.value)


def closed() -> TokenBrokerError:
    """What a source says once it is closed."""
    return TokenBrokerError("this source of tokens is closed: make a new one")


def broken(fault: BaseException) -> TokenBrokerError:
    """A fault of ours or of the library's, told by its kind alone: its text may hold what a call held."""
    return TokenBrokerError(f"the call broke off: {type(fault).__name__}", code="INTERNAL")


class Link(Generic[Channel]):
    """The channels that were made of the same files: one to each endpoint."""

    def __init__(self, materials: Materials, channels: Sequence[Channel], made: float) -> None:
        self.materials = materials
        self.channels = list(channels)
        self.made = made
        self.calls = 0
        self.is_retired = False
        # Until when each is asked last.
        self._avoided = [0.0] * len(self.channels)
        self._turn = 0

    def order(self, now: float) -> list[int]:
        """The endpoints in the order in which a call tries them: in turn, those last that were not reached."""
        count = len(self.channels)
        self._turn = (self._turn + 1) % count
        return sorted(range(count), key=lambda index: (self._avoided[index] > now, (index - self._turn) % count))

    def note(self, index: int, error: TokenBrokerError | None, now: float) -> None:
        """Notes what became of a call to this endpoint."""
        self._avoided[index] = now + AVOIDED_FOR if error is not None and is_unreached(error) else 0.0


class Links(Generic[Channel]):
    """The link that is in use, and those before it until their calls are over. Used under the source's lock, or on its loop."""

    def __init__(self, options: Options, make: Callable[[Materials], list[Channel]], close: Callable[[Channel], None]) -> None:
        self._has_files = options.is_tls
        self._make = make
        self._close = close
        self._links: list[Link[Channel]] = []
        # When the files were looked at last, and what was wrong with them then.
        self._looked = -math.inf
        self._unfit: ConfigurationError | None = None
        self._is_stale = False

    def _current(self) -> Link[Channel] | None:
        return self._links[-1] if self._links and not self._links[-1].is_retired else None

    @property
    def materials(self) -> Materials | None:
        """What the channels are made of that calls go over; without any, no call can go out."""
        current = self._current()
        return current.materials if current is not None else None

    def is_due(self, now: float) -> bool:
        """Whether the files are to be looked at, or channels to be made without any."""
        if self._has_files:
            return now >= self._looked + FILES_EVERY
        return self._is_stale or self._current() is None

    def take(self, read: Materials | ConfigurationError, now: float) -> None:
        """What the files hold now: the next calls go over channels of that, where it can be used, or else of what they held."""
        self._looked = now
        current = self._current()
        self._unfit = read if isinstance(read, ConfigurationError) else None
        materials = self.materials if isinstance(read, ConfigurationError) else read
        if materials is None or (current is not None and current.materials == materials and not self._is_stale):
            return
        self._links.append(Link(materials, self._make(materials), now))
        if current is not None:
            current.is_retired = True
        self._is_stale = False
        self._sweep()

    def begin(self) -> Link[Channel]:
        """For a call, which must `end` it.

        Raises ConfigurationError where the files can't be used, and could not before.
        """
        link = self._current()
        if link is None:
            raise self._unfit.again() if self._unfit is not None else closed()
        link.calls += 1
        return link

    def end(self, link: Link[Channel], error: TokenBrokerError | None, now: float) -> None:
        """A call over it has ended so."""
        link.calls -= 1
        if error is not None and is_unreached(error) and link is self._current() and now >= link.made + RENEWED_AFTER:
            self._is_stale = True
        self._sweep()

    def close(self) -> None:
        """All of them, and the calls with them."""
        for link in self._links:
            link.is_retired = True
            link.calls = 0
        self._sweep()

    def _sweep(self) -> None:
        over = [link for link in self._links if link.is_retired and link.calls == 0]
        self._links = [link for link in self._links if link not in over]
        for link in over:
            for channel in link.channels:
                self._close(channel)
