"""Callers who are known, or not, and ask for what they shouldn't."""

import time

import frames
from floods import Pressing, addresses
from stage import DRAIN_SECONDS, SPIFFE, USERS, WARM_USERS, number, request_body, sign_ins

# As many as wait in all at most, by the broker's own limit.
COMPLAINTS, STREAMS, SLOW_USERS = 65_536, 2_048, 5
# Until then the vault says nothing of those users; longer than any attack.
VAULT_PATIENCE = "2m"
CALL_TIMEOUT = ("grpc-timeout", "5M")
SOURCES = addresses(20)
DAY_SECONDS, DEMANDED_USERS = 86_400, 10
# The first shows what the vault gives; one more may have begun meanwhile.
MOST_SIGN_INS = 2
FLOOR = "500ms"
# Lines about who may not call, in log and trail together.
LOG_KIB_PER_SECOND = 256
STRANGERS = 8
CALLS_AT_ONCE = 64


def varint(value):
    coded = b""
    while value > 127:
        coded, value = coded + bytes([value & 127 | 128]), value >> 7
    return coded + bytes([value])


def complaints(stage):
    """One caller complains about the tokens of a few users, again and again, while the vault is slow to sign them in anew."""
    stage.begin(vault_keys=f'timeout = "{VAULT_PATIENCE}"\nmin_sign_in_interval = "0s"\n')
    users, peer = range(USERS - SLOW_USERS, USERS), stage.peer("other")
    complaints = []
    for user in users:
        token = peer.token_id(request_body(user)).encode()
        complaints.append(request_body(user, b"\x22" + bytes([len(token)]) + token))
    faults = [{"kind": "truth", "number": number(user), "after": VAULT_PATIENCE, "times": 100} for user in users]
    stage.tell_vault("faults", faults)
    fields = frames.block(frames.GET_TOKEN, [CALL_TIMEOUT])
    flood = Pressing(
        stage.addresses["grpc"],
        COMPLAINTS // STREAMS,
        STREAMS,
        fields,
        lambda turn: complaints[turn % SLOW_USERS],
        sources=SOURCES,
        tls=stage.context("other"),
    )
    with stage.attacked(flood):
        pass


def long_lives(stage, **vault):
    """A caller wants tokens that live for a day, each time, of a vault whose tokens live for an hour."""
    stage.begin(vault_keys=f'min_sign_in_interval = "{FLOOR}"\n{vault.pop("keys", "")}', **vault)
    users = range(USERS - DEMANDED_USERS, USERS)
    seconds = varint(DAY_SECONDS)
    demands = [request_body(user, b"\x1a" + bytes([len(seconds) + 1]) + b"\x08" + seconds) for user in users]
    fields = frames.block(frames.GET_TOKEN)
    demand = lambda turn: demands[turn % DEMANDED_USERS]  # noqa: E731
    tls = stage.context("other")
    with stage.attacked(Pressing(stage.addresses["grpc"], 1, DEMANDED_USERS, fields, demand, tls=tls)):
        pass
    cold = len(stage.result.calm["times_ms"]["cold"]) + len(stage.result.attacked["times_ms"]["cold"])
    each = (sign_ins(stage.vault) - WARM_USERS - cold) / DEMANDED_USERS
    stage.figures["sign-ins for each user"] = round(each, 1)
    stage.expect(each <= MOST_SIGN_INS + 0.5, f"{each:.1f} sign-ins for each user, and {MOST_SIGN_INS} are allowed")


def long_lives_ahead(stage):
    """Where tokens are renewed ahead."""
    long_lives(stage)


def long_lives_at_expiry(stage):
    """Where a new token revokes the old one, which others hold."""
    long_lives(stage, mode="revoke-old", keys='renewal = "at_expiry"\n')


def refused(stage, certificate):
    stage.begin()
    fields, message = frames.block(frames.GET_TOKEN), request_body()
    tls = stage.context(certificate)
    sources = addresses(STRANGERS)
    flood = Pressing(stage.addresses["grpc"], STRANGERS, CALLS_AT_ONCE, fields, lambda _: message, sources=sources, tls=tls)
    before, began = len(stage.log()), time.monotonic()
    with stage.attacked(flood):
        pass
    lines, took = stage.log()[before:].splitlines(keepends=True), time.monotonic() - began
    others = sum(len(line) for line in lines if SPIFFE.encode() not in line) / 1024 / took
    stage.figures["KiB of log a second"] = round(others)
    stage.expect(others <= LOG_KIB_PER_SECOND, f"{others:,.0f} KiB of log a second, and {LOG_KIB_PER_SECOND} are allowed")
    tokens = stage.end_good()
    stage.expect(stage.end_broker(DRAIN_SECONDS + 1), "the broker did not end")
    audited = [line for line in stage.log().splitlines() if SPIFFE.encode() in line and b'"verdict":"allowed"' in line]
    stage.figures["good calls in the trail"] = f"{len(audited):,} of {tokens:,}"
    stage.expect(len(audited) >= tokens, f"of {tokens:,} tokens that good callers got, the trail has {len(audited):,}")


def strangers(stage):
    """Callers without a certificate call as fast as they are refused."""
    refused(stage, None)


def denied(stage):
    """The same with the certificate of somebody whom no entry of the policy names."""
    refused(stage, "stranger")
