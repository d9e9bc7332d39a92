"""What a situation is played on: replicas, the vault, and a caller in each language, with users of its own.

Must never let one caller's fault end another's part: what each did wrong is collected.
"""

import contextlib
import dataclasses
import http.server
import json
import threading
import time
import traceback
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import cluster
from adapters import Adapter, Failed, good, whole
from cluster import ADMIN_PORT, MERCHANT, PORT, VAULT, control, end, number

PASSWORD = "only for the test"  # noqa: S105 - a password of nobody
VAULT_API = f"http://{VAULT}/v1/customer"
# So long an audit line may take to be written.
WRITTEN_SECONDS = 0.5
# An end is known to some milliseconds: each answer tells of it anew.
GRACE_SECONDS = 0.3
# Where no proxy is: who asks it gets nothing.
PROXY = ("127.0.0.9", 3128)


@dataclasses.dataclass(eq=False)
class Caller:
    """A language's client, and its users."""

    adapter: Adapter
    users: list

    def __str__(self):
        return self.adapter.name

    def about(self, user=0):
        """A user as commands name it: its place among the caller's own, or a number."""
        return {"merchant_id": MERCHANT, "number": user if isinstance(user, str) else number(self.users[user])}

    def token(self, user=0, **more):
        return self.adapter.done("token", **self.about(user), **more)

    def begin_token(self, user=0, **more):
        return self.adapter.begin("token", **self.about(user), **more)

    def tokens(self, times, user=0):
        """As many at once."""
        return [good(future, "token") for future in [self.begin_token(user) for _ in range(times)]]

    def no_token(self, user=0, **more):
        return self.adapter.refused("token", **self.about(user), **more)

    def cached(self, user=0):
        return self.adapter.done("cached", **self.about(user))["token_id"]

    def rejected(self, token, user=0):
        return self.adapter.done("rejected", **self.about(user), token_id=token["token_id"])["is_news"]

    def use(self, url=VAULT_API, user=0):
        return self.adapter.answer("use", url=url, **self.about(user))


class Stage:
    """One situation's replicas and callers."""

    def __init__(self, here, name, adapters, first_user, users_each):
        # A name of its own: what a resolver keeps of one situation says nothing of the next.
        self.here, self.service, self.pods = here, f"{name.replace('_', '-')}.{cluster.SERVICE}", []
        places = [range(first_user + users_each * at, first_user + users_each * (at + 1)) for at in range(len(adapters))]
        self.callers = [Caller(adapter, list(users)) for adapter, users in zip(adapters, places, strict=True)]
        self._all = range(first_user, first_user + users_each * len(adapters))
        self.faults = {caller.adapter.name: [] for caller in self.callers}

    def replicas(self, count=1, tables="", wrong=(), **keys):
        """Starts so many, which know these users, and has the name stand for them. `keys` are those of `[vault]`."""
        vault = {"min_sign_in_interval": "0s"} | keys
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in vault.items())
        users = "".join(
            f'[[users]]\nmerchant_id = "{MERCHANT}"\nnumber = "{number(user)}"\n'
            f'password = "{"wrong" if user in wrong else PASSWORD}"\n'
            for user in self._all
        )
        self._config = (
            f'[grpc]\nlisten = "ADDRESS:{PORT}"\nlame_duck = "2s"\n{tables}[admin]\nlisten = "ADDRESS:{ADMIN_PORT}"\n'
            f'[vault]\nbase_url = "http://{VAULT}"\n{lines}{users}'
        )
        self.pods = [self.start() for _ in range(count)]
        self.publish(self.pods)

    def start(self):
        """One more of them."""
        return self.here.pod(self.here.next_pod(), self._config)

    def publish(self, pods):
        self.here.names.addresses = [pod.address for pod in pods]

    def open(self, scheme="http", **options):
        """Has each caller make its source."""
        endpoint = f"{scheme}://{self.service}:{PORT}"
        self.each(lambda caller: caller.adapter.done("open", endpoints=[endpoint], **options))

    def each(self, part, at_once=True):
        """Plays a part with each caller that has done nothing wrong so far, all at once or one after the other."""
        playing = [caller for caller in self.callers if not self.faults[str(caller)]]
        with ThreadPoolExecutor(max(len(playing), 1) if at_once else 1) as threads:
            for caller, playing_it in [(caller, threads.submit(part, caller)) for caller in playing]:
                try:
                    playing_it.result()
                except Failed as fault:
                    self.faults[str(caller)].append(str(fault))
                except Exception:
                    self.faults[str(caller)].append(traceback.format_exc())

    def calls(self, caller, user=0):
        """The broker's lines of the calls for this user, once they are written."""
        return self._audited("decision", caller.users[user])

    def sign_ins(self, caller, user=0):
        return self._audited("sign_in", caller.users[user])

    def _audited(self, event, user):
        time.sleep(WRITTEN_SECONDS)
        lines = (line for pod in self.pods for line in pod.audited(event))
        return [line for line in lines if (line.get("number") or "").endswith(number(user)[-4:])]

    def finish(self):
        """Ends the replicas; the vault is as it was."""
        for caller in self.callers:
            with contextlib.suppress(Failed):
                caller.adapter.answer("close")
        for pod in self.pods:
            pod.process.kill()
            end(pod.process)
        control("settings", {"always": None, "mode": "fresh", "delay": "0s", "lifetime": "5m"})
        request = urllib.request.Request(f"http://{VAULT}/_sandbox/faults", method="DELETE")
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310


def check(condition, what):
    if not condition:
        raise Failed(what)


def eventually(seconds, condition, what):
    """Asks again and again; returns the seconds that it took."""
    began = time.monotonic()
    while not condition():
        check(time.monotonic() - began < seconds, f"{what}: not within {seconds} s")
        time.sleep(0.05)
    return time.monotonic() - began


def is_alive(token):
    """Whether the vault's API takes this token."""
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(VAULT_API, headers=headers), timeout=10) as reply:
            return reply.status == 200
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
        return False


def answered(future):
    """Whether a token came, else the error."""
    answer = whole(future)
    return None if "ok" in answer else answer["error"]


class Counter:
    """A server on loopback that takes what comes and counts it."""

    def __init__(self, address, handler):
        self.seen = []
        seen = self.seen

        class Handler(handler):
            def log_message(self, *_):
                pass

            def note(self):
                seen.append(self.headers.get("Authorization") or self.path)

        self._server = http.server.ThreadingHTTPServer(address, Handler)
        self.url = "http://{}:{}/".format(*self._server.server_address)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class AlwaysUnauthorized(http.server.BaseHTTPRequestHandler):
    """An API to which every token is a dead one."""

    def do_GET(self):
        self.note()
        body = b'{"error": "invalid_token"}'
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Bearer error="invalid_token"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Proxy(http.server.BaseHTTPRequestHandler):
    """A proxy that lets nothing through."""

    def do_CONNECT(self):
        self.note()
        self.send_error(403)

    do_GET = do_POST = do_CONNECT
