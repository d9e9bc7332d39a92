"""How a client shows who it is, and to whom."""

import time

import identities
from cluster import MERCHANT, PORT
from stage import PROXY, Counter, Proxy, answered, check

TLS = '[grpc.tls]\ncertificate_file = "tls.crt"\nkey_file = "tls.key"\n'
ACCOUNTS = f'[auth.service_accounts]\nissuer = "{identities.ISSUER}"\njwks_file = "jwks"\n'
# The files are looked at once a second at most, when a call is made.
SEEN_SECONDS = 1.3
# They have no such option.
NO_PROXIES = ("rust",)


def callers(*names):
    return "".join(f'[[callers]]\nid = "{name}"\nmerchants = ["{MERCHANT}"]\n' for name in names)


def token_file(stage):
    """A service account's token is read for each call, as it is replaced."""
    here, other = stage.here, "system:serviceaccount:cards:renewed"
    stage.replicas(tables=TLS + ACCOUNTS + callers(identities.SUBJECT, other))
    file = here.copy("token", "rotated-token")
    stage.open("https", ca_file=str(here.directory / "ca.crt"), token_file=str(file))
    stage.each(lambda caller: _is_known_as(stage, caller, 0, identities.SUBJECT))
    here.replace(file, identities.token(here.directory, other))
    stage.each(lambda caller: _is_known_as(stage, caller, 1, other))

    def refused(caller):
        error = caller.no_token(2)
        check((error["code"], error["reason"]) == ("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED"), f"{error}")

    here.replace(file, identities.token(here.directory, other, lasts=-60))
    stage.each(refused)
    # Another user's call, since the refusal is kept for a while.
    here.replace(file, identities.token(here.directory, other))
    stage.each(lambda caller: _is_known_as(stage, caller, 3, other))


def certificate(stage):
    """A certificate is read anew as it is replaced; half of a pair stops nobody."""
    here, other = stage.here, "spiffe://example.org/ns/cards/sa/renewed"
    stage.replicas(tables=f'{TLS}client_ca_file = "ca.crt"\n{callers(identities.SPIFFE, other)}')
    files = {
        name: here.copy(f"client.{end}", f"rotated.{end}") for name, end in (("certificate_file", "crt"), ("key_file", "key"))
    }
    stage.open("https", ca_file=str(here.directory / "ca.crt"), **{name: str(file) for name, file in files.items()})
    stage.each(lambda caller: _is_known_as(stage, caller, 0, identities.SPIFFE))
    identities.make_certificate(here.directory, "renewed", f"URI:{other}")
    here.replace(files["certificate_file"], (here.directory / "renewed.crt").read_text())
    time.sleep(SEEN_SECONDS)
    stage.each(lambda caller: _is_known_as(stage, caller, 1, identities.SPIFFE))
    here.replace(files["key_file"], (here.directory / "renewed.key").read_text())
    time.sleep(SEEN_SECONDS)
    stage.each(lambda caller: _is_known_as(stage, caller, 2, other))
    stage.each(lambda caller: _is_known_as(stage, caller, 3, other))


def _is_known_as(stage, caller, user, name):
    caller.token(user)
    lines = stage.calls(caller, user)
    check([line["caller"] for line in lines] == [name], f"{lines}")


def options(stage):
    """What can't be meant is refused when the source is made, and the error names it."""
    plain, secure = f"http://{stage.service}:{PORT}", f"https://{stage.service}:{PORT}"
    files = {name: str(stage.here.directory / name) for name in ("ca.crt", "token", "client.crt", "client.key")}
    pair = {"certificate_file": files["client.crt"], "key_file": files["client.key"]}
    unfit = {
        "no endpoint": {"endpoints": []},
        "no URL": {"endpoints": ["nonsense"]},
        "no port": {"endpoints": ["http://broker:99999"]},
        "another scheme": {"endpoints": ["ftp://broker:1"]},
        "TLS without a CA": {"endpoints": [secure]},
        "a CA without TLS": {"endpoints": [plain], "ca_file": files["ca.crt"]},
        "a token in plaintext": {"endpoints": [plain], "token_file": files["token"]},
        "a certificate in plaintext": {"endpoints": [plain], **pair},
        "TLS and plaintext": {"endpoints": [plain, secure], "ca_file": files["ca.crt"]},
    }

    def part(caller):
        for what, chosen in unfit.items():
            error = caller.adapter.refused("open", **chosen)
            check(error["kind"] == "configuration" and len(error["text"]) > 20, f"{what}: {error}")

    stage.each(part)


def proxies(stage):
    """The environment's proxies are for others, unless the source is told to use them."""
    stage.replicas()
    proxy = Counter(PROXY, Proxy)
    stage.open()
    stage.each(lambda caller: caller.token())
    stage.each(lambda _: check(not proxy.seen, f"the proxy was asked: {proxy.seen}"))
    stage.open(use_proxy=True)

    def asks(caller):
        if str(caller) in NO_PROXIES:
            return
        before = len(proxy.seen)
        error = answered(caller.begin_token(1, timeout_seconds=3))
        check(error, "a token came by another way")
        check(len(proxy.seen) > before, f"the proxy was not asked: {error}")

    stage.each(asks, at_once=False)
    proxy.close()
