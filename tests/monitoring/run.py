#!/usr/bin/env python3
"""Shows that each alert of deploy/monitoring/rules.yaml fires and resolves: a real Prometheus scrapes real brokers under faults.

    run.py --broker target/debug/token-broker --sandbox target/debug/token-broker-sandbox

Needs Prometheus and openssl on the PATH, PyYAML, and what tests/python/requirements.txt names. Prints a table, and what went
wrong; the exit code is then 1. `--only NAME` plays one scenario, `--keep` leaves the logs.

Time runs 60 times as fast: every `for`, every range and every offset of the rules is divided by 60, and so are the intervals
between scrapes and evaluations (30 s, as nearly everywhere) and Prometheus' look-back. So each window holds as many samples, and
each `for` as many evaluations, as in production, and the rules can't tell the difference. What is not time between samples stays:
thresholds, shares, counts, and the ends of certificates. What the broker does by its own clock stays too (probes of a vault that
is down come up to 8 s apart, files are read every 2 s), so that some alerts come and go here that stay in production: hence an
alert must fire once, and have ended for good after the remedy.

Each scenario has a `job` of its own, which is how the rules tell installations apart. An alert that fires there without being
expected is an error, so the scenarios are each other's neighbours. Pages that are recorded from a real broker and changed stand
for what no fault from outside brings about: sign-ins and calls that break inside the broker (InternalErrors), another version
(VersionsDiffer), and an agenda that stands still (RenewalsOverdue: a broker so short of CPU isn't scraped in time either).
"""

import argparse
import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from callers import MERCHANT, Callers, Connection, number

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "monitoring" / "rules.yaml"
CHECK = ROOT / "deploy" / "monitoring" / "check.py"
SCALE = 60
# Unscaled, in seconds: what most installations have, and what Prometheus looks back.
INTERVAL, LOOK_BACK = 30, 300
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = r"(\d+)([smhd])"
# Real seconds that anything may take that has no duration of its own: a process to start, a line to come.
PATIENCE = 30.0
# An alert has ended for good when it has not fired for so long: longer than a probe of a vault takes to come round.
FOR_GOOD = 3.0
PASSWORD = "right"  # noqa: S105
# Ends all that is under way.
BROKEN_OFF = threading.Event()
LABELS_OF_ALL = {"alertname", "alertstate", "job", "namespace", "severity"}


def scaled(rules: str) -> str:
    """The rules, with their times divided."""

    def divide(match: re.Match[str]) -> str:
        return f"{int(match[1]) * UNITS[match[2]] * 1000 // SCALE}ms"

    found = yaml.safe_load(rules)
    for group in found["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = re.sub(DURATION, divide, rule["for"])
            within = re.sub(rf"(?<=\[){DURATION}(?=\])", divide, rule["expr"])
            rule["expr"] = re.sub(rf"(?<=offset ){DURATION}", divide, within)
            if left := re.search(r"(\[|offset )(?!\d+ms\b).*", rule["expr"]):
                raise ValueError(f"{rule['alert']}: no telling how to divide {left[0]}")
    return yaml.safe_dump(found)


def fetch(url: str, body: Any = None, method: str | None = None, timeout: float = 10.0) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data=data, method=method, headers={"content-type": "application/json"})  # noqa: S310
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=timeout) as answer:
        return answer.read()


def pause(seconds: float) -> None:
    if BROKEN_OFF.wait(seconds):
        raise Failed("broken off")


def wait_until(what: str, condition: Callable[[], Any], patience: float = PATIENCE, every: float = 0.05) -> Any:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if found := condition():
            return found
        pause(every)
    raise Failed(f"waited {patience:.0f} s for {what}")


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


def written(path: Path, text: str) -> None:
    """At once, so that nobody reads half of it; and for nobody else's eyes, as passwords want it."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(text)
    beside.chmod(0o600)
    beside.rename(path)


class Failed(Exception):
    """A scenario went otherwise than it should."""


@dataclass(frozen=True)
class Alert:
    """An alert, by its name without the prefix, with some of its labels."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()

    def is_one(self, labels: dict[str, str]) -> bool:
        return labels["alertname"] == f"TokenBroker{self.name}" and all(labels.get(key) == value for key, value in self.labels)

    def __str__(self) -> str:
        return self.name + "".join(f" {value}" for _, value in self.labels)


def alert(name: str, **labels: str) -> Alert:
    return Alert(name, tuple(sorted(labels.items())))


class Prometheus:
    """A real one, which scrapes whatever targets are in its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.targets = directory / "targets"
        self.targets.mkdir(parents=True)
        interval = f"{INTERVAL * 1000 // SCALE}ms"
        files = {"files": [f"{self.targets}/*.json"], "refresh_interval": "1s"}
        config = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "brokers", "file_sd_configs": [files]}],
        }
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
        (directory / "rules.yaml").write_text(scaled(RULES.read_text()))
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}/api/v1"
        self.began = time.time()
        options = {
            "config.file": directory / "prometheus.yaml",
            "storage.tsdb.path": directory / "data",
            "web.listen-address": address,
            "query.lookback-delta": f"{LOOK_BACK * 1000 // SCALE}ms",
            "log.level": "warn",
        }
        with (directory / "log").open("w") as log:
            command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.firing: list[dict[str, str]] = []
        # When each alert was last seen firing, by its labels.
        self.seen: dict[tuple[tuple[str, str], ...], float] = {}
        self.polled = threading.Condition()
        self.ended = threading.Event()
        self.poller = threading.Thread(target=self._poll, daemon=True)
        self.poller.start()

    def _poll(self) -> None:
        while not self.ended.wait(0.2):
            try:
                alerts = json.loads(fetch(f"{self.url}/alerts"))["data"]["alerts"]
            except OSError:
                continue
            with self.polled:
                self.firing = [each["labels"] for each in alerts if each["state"] == "firing"]
                self.seen.update({tuple(labels.items()): time.monotonic() for labels in self.firing})
                self.polled.notify_all()

    def scrape(self, job: str, addresses: list[str]) -> None:
        written(self.targets / f"{job}.json", json.dumps([{"targets": addresses, "labels": {"job": job, "namespace": "n"}}]))

    def query(self, query: str) -> list[dict[str, Any]]:
        return json.loads(fetch(f"{self.url}/query?query={urllib.parse.quote(query)}"))["data"]["result"]

    def fired(self, job: str) -> list[dict[str, str]]:
        """All that ever fired for a job."""
        now = time.time()
        span = int((now - self.began) * 1000) + 1000
        query = f'count_over_time(ALERTS{{alertstate="firing", job="{job}"}}[{span}ms])'
        return [each["metric"] for each in self.query(query)]

    def stop(self) -> None:
        self.ended.set()
        self.poller.join()
        self.process.terminate()
        self.process.wait()


class Vault:
    """A sandbox vault, and what it is told to do."""

    def __init__(self, stage: "Stage", users: int, lifetime: str, mode: str) -> None:
        known = [f"--user={merchant}:{phone}:{PASSWORD}" for merchant, phone in stage.users(users)]
        command = [stage.run.sandbox, "--listen=127.0.0.1:0", f"--lifetime={lifetime}", f"--mode={mode}", *known]
        log = stage.directory / "vault.log"
        with log.open("w") as output:
            stage.started(subprocess.Popen(command, stdout=output, stderr=output))
        self.url = wait_until("the sandbox's address", lambda: re.search(r"http://[\d.:]+\d", log.read_text()))[0]

    def always(self, fault: dict[str, Any] | None) -> None:
        fetch(f"{self.url}/_sandbox/settings", {"always": fault})

    def next(self, *faults: dict[str, Any]) -> None:
        fetch(f"{self.url}/_sandbox/faults", list(faults))

    def forget(self) -> None:
        fetch(f"{self.url}/_sandbox/faults", method="DELETE")


@dataclass
class Broker:
    """A real broker, and its configuration."""

    stage: "Stage"
    name: str
    users: dict[tuple[str, str], dict[str, Any]]
    vault: str
    tables: str = ""
    grpc: str = ""
    lame_duck: str = "0s"
    tls: bool = False
    endpoint: str = "127.0.0.1:0"
    admin: str = "127.0.0.1:0"
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.directory = self.stage.directory / self.name
        self.directory.mkdir()
        self.config = self.directory / "broker.toml"

    def configure(self, more: str = "") -> None:
        lines = [f'[grpc]\nlisten = "{self.endpoint}"\nlame_duck = "{self.lame_duck}"\n{self.grpc}']
        lines.append(f'[admin]\nlisten = "{self.admin}"\nlabel_callers = true')
        lines.append(f'[vault]\nbase_url = "{self.vault}"\n{more}\n{self.tables}')
        for (merchant, phone), values in self.users.items():
            lines.append(f'[[users]]\nmerchant_id = "{merchant}"\nnumber = "{phone}"')
            lines.extend(f"{key} = {json.dumps(value)}" for key, value in values.items())
        written(self.config, "\n".join(lines) + "\n")

    def start(self) -> "Broker":
        self.configure()
        log = self.directory / f"log-{time.monotonic_ns()}"
        with log.open("w") as output:
            command = [self.stage.run.broker, "serve", "--config", self.config]
            self.process = self.stage.started(subprocess.Popen(command, stdout=output, stderr=output, cwd=self.directory))

        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise Failed(f"the broker ended: {log.read_text()}")
            return '"message":"ready"' in log.read_text()

        wait_until("the broker to be ready", is_ready)
        ports = dict(re.findall(r'"port":"(\w+)","address":"([^"]+)"', log.read_text()))
        self.endpoint, self.admin = ports["grpc"], ports["admin"]
        return self

    def set_users(self, **values: Any) -> None:
        for user in self.users.values():
            user.update(values)

    def ask(self, merchant: str, phone: str, timeout: float = 5.0) -> None:
        """Asks once; any answer will do."""
        connection = Connection(self.endpoint)
        with contextlib.suppress(Exception):
            connection.ask(merchant, phone, timeout).result()
        connection.channel.close()

    def get(self, *options: str) -> dict[str, Any]:
        scheme = "https" if self.tls else "http"
        endpoint = f"{scheme}://localhost:{self.endpoint.rpartition(':')[2]}"
        command = [
            self.stage.run.broker,
            "get",
            "--endpoint",
            endpoint,
            "--merchant-id",
            MERCHANT,
            "--number",
            number(0),
            *options,
        ]
        told = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
        if told.returncode:
            raise Failed(f"get ended with {told.returncode}: {told.stderr.decode()}")
        return json.loads(told.stdout)

    def page(self) -> str:
        return fetch(f"http://{self.admin}/metrics", timeout=2).decode()

    def kill(self, how: int) -> None:
        self.process.send_signal(how)

    def restart(self) -> None:
        self.kill(signal.SIGKILL)
        self.process.wait()
        self.start()


class Recorded:
    """Serves a page as if it were a broker's."""

    def __init__(self, page: str) -> None:
        recorded = self
        self.page = page

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = recorded.page.encode()
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.admin = f"127.0.0.1:{self.server.server_address[1]}"

    def change(self, pattern: str, by: str) -> None:
        self.page, found = re.subn(pattern, by, self.page, flags=re.MULTILINE)
        if not found:
            raise Failed(f"the recorded page has nothing like {pattern}")

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@dataclass
class Row:
    """What the table says of an alert."""

    scenario: str
    alert: Alert
    fired: float
    resolved: float | None = None


class Stage:
    """What one scenario plays on: a job of its own."""

    def __init__(self, run: "Run", name: str) -> None:
        self.run, self.name = run, name
        self.directory = run.directory / name
        self.directory.mkdir()
        self.closing = contextlib.ExitStack()
        self.brokers: list[Broker] = []
        self.expected: list[Alert] = []
        self.rows: list[Row] = []
        self.pages = ""
        self.marked: float | None = None

    def started(self, process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        def end() -> None:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()

        self.closing.callback(end)
        return process

    @staticmethod
    def users(count: int) -> list[tuple[str, str]]:
        return [(MERCHANT, number(index)) for index in range(count)]

    def vault(self, users: int = 10, lifetime: str = "24h", mode: str = "fresh") -> Vault:
        return Vault(self, users, lifetime, mode)

    def broker(self, vault: Vault | None, users: int = 1, **settings: Any) -> Broker:
        known = {user: {"password": PASSWORD, "attempt": 0} for user in self.users(users)}
        url = vault.url if vault else f"http://127.0.0.1:{free_port()}"
        broker = Broker(self, f"broker-{len(self.brokers)}", known, url, **settings).start()
        self.brokers.append(broker)
        return broker

    def recorded(self, page: str) -> Recorded:
        recorded = Recorded(page)
        self.closing.callback(recorded.stop)
        return recorded

    def scrape(self, *those: Broker | Recorded) -> None:
        """Has them scraped from now on, and waits until all of them were, twice."""
        wait_until("Prometheus", self.run.open.is_set, 2 * PATIENCE)
        self.run.prometheus.scrape(self.name, [each.admin for each in those])
        query = f'count(count_over_time(token_broker_ready{{job="{self.name}"}}[{LOOK_BACK // SCALE}s]) >= 2)'

        def all_are_there() -> bool:
            return any(int(each["value"][1]) >= len(those) for each in self.run.prometheus.query(query))

        wait_until("the first scrapes", all_are_there, every=0.2)

    def callers(self, brokers: list[Broker], users: int, every: float) -> Callers:
        callers = Callers([broker.endpoint for broker in brokers], self.users(users), every)
        self.closing.callback(callers.stop)
        return callers

    def child(self, *arguments: str) -> Callable[[], None]:
        """Runs callers.py until what this returns is called."""
        command = [sys.executable, Path(__file__).with_name("callers.py"), *arguments]
        child = self.started(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

        def end() -> None:
            child.stdin.close()
            child.wait(PATIENCE)

        return end

    def may_fire(self, *alerts: Alert) -> None:
        """Beside those that must."""
        self.expected.extend(alerts)

    def mark(self) -> None:
        """The fault, or its remedy, begins here, if that takes longer than a moment."""
        self.marked = time.monotonic()

    def _since(self) -> float:
        since, self.marked = self.marked, None
        return time.monotonic() if since is None else since

    def _firing(self) -> list[dict[str, str]]:
        pause(0)
        with self.run.prometheus.polled:
            self.run.prometheus.polled.wait(5)
            return [labels for labels in self.run.prometheus.firing if labels.get("job", "") == self.name]

    def fire(self, *alerts: Alert, patience: float = 40.0) -> None:
        """Waits until each has fired once, and notes how long that took."""
        self.expected.extend(alerts)
        began, missing = self._since(), list(alerts)
        while missing:
            firing = self._firing()
            took = time.monotonic() - began
            here = [each for each in missing if any(each.is_one(labels) for labels in firing)]
            self.rows.extend(Row(self.name, each, took) for each in here)
            missing = [each for each in missing if each not in here]
            if took > patience:
                raise Failed(f"not fired within {took:.0f} s: {', '.join(map(str, missing))}")
        # With what there is only now.
        self.keep_pages()

    def resolve(self, patience: float = 40.0) -> None:
        """Waits until nothing fires any more, and goes on like that; notes how long that took."""
        began, last = self._since(), time.monotonic()
        while (now := time.monotonic()) - last < FOR_GOOD:
            if firing := self._firing():
                last = now
            if now - began > patience:
                raise Failed(f"not resolved within {patience:.0f} s: {sorted(each['alertname'] for each in firing)}")
        with self.run.prometheus.polled:
            seen = [(dict(labels), when) for labels, when in self.run.prometheus.seen.items()]
        for row in self.rows:
            whens = [when for labels, when in seen if labels.get("job") == self.name and row.alert.is_one(labels)]
            row.resolved = max(0.0, max(whens) - began)

    def judge(self) -> None:
        """Nothing else may have fired."""
        for labels in self.run.prometheus.fired(self.name):
            if not any(each.is_one(labels) for each in self.expected):
                told = {key: value for key, value in labels.items() if key not in LABELS_OF_ALL and key != "__name__"}
                raise Failed(f"{labels['alertname']} fired, and should not: {told}")

    def keep_pages(self) -> None:
        for broker in self.brokers:
            with contextlib.suppress(OSError):
                self.pages += broker.page()

    def close(self) -> None:
        self.run.prometheus.scrape(self.name, [])
        self.closing.close()


# The scenarios. Each has its faults' remedy, and the alerts that should fire with the fault alone.

BAD_GATEWAY = {"kind": "html", "status": 502}


def nothing_is_wrong(stage: Stage) -> None:
    """A quiet day: hits, callers' mistakes, one replica restarted after the other, a user added, one refusal made good."""
    vault = stage.vault()
    brokers = [stage.broker(vault, users=5) for _ in range(2)]
    stage.scrape(*brokers)
    callers = stage.callers(brokers, 8, 0.5)
    pause(8)
    for broker in brokers:
        broker.kill(signal.SIGTERM)
        broker.process.wait(PATIENCE)
        broker.start()
        pause(3)
    for broker in brokers:
        broker.users[MERCHANT, number(5)] = {"password": PASSWORD}
        broker.configure()
    pause(8)
    vault.next({"kind": "reply", "status": 503, "body": "busy"})
    for broker in brokers:
        broker.ask(MERCHANT, number(5))
    pause(4)
    callers.stop()


def no_replica_is_ready(stage: Stage) -> None:
    """One doesn't answer the scrape, and the other drains."""
    vault = stage.vault()
    brokers = [stage.broker(vault), stage.broker(vault, lame_duck="30s")]
    stage.scrape(*brokers)
    brokers[0].kill(signal.SIGSTOP)
    brokers[1].kill(signal.SIGTERM)
    stage.fire(alert("NotReady"))
    if "\ntoken_broker_ready 0\n" not in brokers[1].page():
        raise Failed("the second does not drain")
    brokers[0].kill(signal.SIGCONT)
    stage.resolve()


def the_vault_fails_and_nobody_has_a_token(stage: Stage) -> None:
    vault = stage.vault()
    broker = stage.broker(vault, users=6)
    stage.scrape(broker)
    vault.always(BAD_GATEWAY)
    stage.callers([broker], 6, 0.1)
    stage.may_fire(alert("SignInsFailing"))
    reason = {"reason": "VAULT_UNAVAILABLE"}
    stage.fire(alert("VaultDown"), alert("CallsFailing", **reason), alert("TokensDry", merchant_id=MERCHANT))
    vault.always(None)
    stage.resolve(60)


def the_vault_is_back_and_nobody_asks(stage: Stage) -> None:
    """Then the broker can't know."""
    vault = stage.vault()
    broker = stage.broker(vault, users=6)
    stage.scrape(broker)
    vault.always(BAD_GATEWAY)
    callers = stage.callers([broker], 6, 0.1)
    stage.may_fire(alert("SignInsFailing"), alert("CallsFailing"), alert("TokensDry"))
    stage.fire(alert("VaultDown"))
    callers.stop()
    vault.always(None)
    stage.resolve()
    if "\ntoken_broker_vault_up 0\n" not in broker.page():
        raise Failed("somebody has asked the vault")


def the_vault_fails_and_callers_have_tokens(stage: Stage) -> None:
    """They notice nothing, so nothing says that they do. New `attempt`s make all tokens due."""
    vault = stage.vault(users=30)
    broker = stage.broker(vault, users=30)
    stage.scrape(broker)
    for user in stage.users(30):
        broker.ask(*user)
    stage.callers([broker], 30, 0.2)
    pause(2)
    vault.always(BAD_GATEWAY)
    broker.set_users(attempt=1)
    broker.configure()
    stage.may_fire(alert("SignInsFailing"))
    stage.fire(alert("RenewalsFailing"), alert("VaultDown"))
    vault.always(None)
    stage.resolve(60)


def a_third_of_the_sign_ins_fails(stage: Stage) -> None:
    """Tokens live so shortly that there are enough sign-ins, and that some don't get the next one in time."""
    vault = stage.vault(users=30, lifetime="10s")
    broker = stage.broker(vault, users=30)
    stage.scrape(broker)
    busy = {"kind": "reply", "status": 503, "body": "busy"}
    vault.next(*([busy, {"kind": "truth", "times": 2}] * 300))
    stage.callers([broker], 30, 0.1)
    stage.may_fire(alert("TokensDry"), alert("CallsFailing"))
    stage.fire(alert("SignInsFailing", merchant_id=MERCHANT))
    vault.forget()
    stage.resolve()


def users_are_refused(stage: Stage) -> None:
    """Most of one merchant's, and one of another's: that is no more than a ticket."""
    vault = stage.vault(users=6)
    broker = stage.broker(vault, users=6)
    broker.users |= {("m2", number(index)): {"password": PASSWORD} for index in range(5)}
    for index in range(4):
        broker.users[MERCHANT, number(index)]["password"] = "wrong"  # noqa: S105
    broker.configure()
    broker.kill(signal.SIGHUP)
    stage.scrape(broker)
    refused = {"kind": "refusal", "error_id": 11, "error": "WRONG_LOGIN_OR_PASSWORD_EXCEPTION", "message": "no"}
    wait_until("the second merchant's users", lambda: "token_broker_configured_users 11\n" in broker.page())
    for index in range(6):
        broker.ask(MERCHANT, number(index))
    vault.next(refused)
    broker.ask("m2", number(0))
    stage.fire(
        alert("MerchantRefused", merchant_id=MERCHANT),
        alert("UsersHeld", merchant_id=MERCHANT, reason="CREDENTIALS_REJECTED"),
        alert("UsersHeld", merchant_id="m2", reason="CREDENTIALS_REJECTED"),
    )
    broker.set_users(password=PASSWORD, attempt=1)
    broker.configure()
    stage.resolve()


def users_are_throttled(stage: Stage) -> None:
    vault = stage.vault()
    broker = stage.broker(vault, users=4)
    stage.scrape(broker)
    broker.ask(MERCHANT, number(3))
    vault.next({"kind": "reply", "status": 429, "body": "slowly", "headers": {"retry-after": "12"}, "number": number(0)})
    broker.ask(MERCHANT, number(0))
    stage.fire(alert("Throttled", merchant_id=MERCHANT))
    stage.resolve()


def a_merchant_is_blocked(stage: Stage) -> None:
    vault = stage.vault()
    broker = stage.broker(vault, users=3)
    stage.scrape(broker)
    blocked = {"kind": "refusal", "error_id": 429, "error": "WAF_LOCK_NOT_IN_LIST", "message": "no"}
    vault.next(blocked | {"headers": {"retry-after": "6"}})
    broker.ask(MERCHANT, number(0))
    stage.fire(alert("MerchantBlocked", merchant_id=MERCHANT))
    stage.resolve()


def complain(broker: Broker, times: int) -> None:
    token = broker.get()
    for _ in range(times):
        token = broker.get("--timeout", "20s", "--rejected-token-id", token["token_id"])


def tokens_are_rejected_again_and_again(stage: Stage) -> None:
    vault = stage.vault()
    broker = stage.broker(vault)
    broker.configure('min_sign_in_interval = "1s"')
    broker.kill(signal.SIGHUP)
    stage.scrape(broker)
    stage.mark()
    complain(broker, 3)
    stage.fire(alert("FloorDoubling"))
    stage.resolve(3600 / SCALE + 20)


def tokens_are_rejected_twice(stage: Stage) -> None:
    """Some user signed out elsewhere."""
    vault = stage.vault()
    broker = stage.broker(vault)
    broker.configure('min_sign_in_interval = "1s"')
    broker.kill(signal.SIGHUP)
    stage.scrape(broker)
    pause(1)
    complain(broker, 2)
    if "\ntoken_broker_floor_doublings_total 2\n" not in broker.page():
        raise Failed("there were other than two doublings")
    # Until the window is full, and increase takes its ends to be worth a part of what is in it.
    pause(3600 / SCALE)


def openssl(directory: Path, *arguments: str) -> None:
    made = subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, check=False)
    if made.returncode:
        raise Failed(made.stderr.decode())


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def authority(directory: Path, days: int, name: str) -> None:
    openssl(
        directory,
        "req",
        "-x509",
        *NEW_KEY,
        "-keyout",
        f"{name}.key",
        "-out",
        f"{name}.new",
        "-days",
        str(days),
        "-subj",
        f"/CN={name}",
    )
    (directory / f"{name}.new").rename(directory / f"{name}.pem")


def certificate(directory: Path, ca: str, days: int, name: str, alternative: str) -> None:
    extensions = ("-addext", f"subjectAltName={alternative}", "-addext", "basicConstraints=critical,CA:FALSE")
    by = ("-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-days", str(days), "-subj", f"/CN={name}")
    out = ("-keyout", f"{name}.key", "-out", f"{name}.new")
    openssl(directory, "req", "-x509", *NEW_KEY, *by, *extensions, *out)
    (directory / f"{name}.new").rename(directory / f"{name}.pem")


TLS = """[grpc.tls]
certificate_file = "../server.pem"
key_file = "../server.key"
client_ca_file = "../client_ca.pem"
"""
CALLER = """[[callers]]
id = "spiffe://example.org/caller"
merchants = ["*"]
"""


def over_tls(stage: Stage, server_days: int, ca_days: int) -> Broker:
    authority(stage.directory, 90, "ca")
    authority(stage.directory, ca_days, "client_ca")
    certificate(stage.directory, "ca", server_days, "server", "DNS:localhost")
    certificate(stage.directory, "client_ca", 1, "client", "URI:spiffe://example.org/caller")
    for key in stage.directory.glob("*.key"):
        key.chmod(0o600)
    broker = stage.broker(stage.vault(), grpc=TLS, tables=CALLER, tls=True)
    names = {"ca-file": "ca.pem", "certificate-file": "client.pem", "key-file": "client.key"}
    broker.get(*(part for option, name in names.items() for part in (f"--{option}", str(stage.directory / name))))
    return broker


def certificates_end_soon(stage: Stage) -> None:
    broker = over_tls(stage, 3, 20)
    stage.scrape(broker)
    stage.fire(alert("CertificateEnding", certificate="server"), alert("CertificateEnding", certificate="client_ca"))
    authority(stage.directory, 90, "client_ca")
    certificate(stage.directory, "ca", 90, "server", "DNS:localhost")
    stage.resolve()


def a_certificate_ends_today(stage: Stage) -> None:
    broker = over_tls(stage, 1, 90)
    stage.scrape(broker)
    stage.fire(alert("CertificateEndsToday", certificate="server"), alert("CertificateEnding", certificate="server"))
    certificate(stage.directory, "ca", 90, "server", "DNS:localhost")
    stage.resolve()


def the_configuration_is_at_fault(stage: Stage) -> None:
    broker = stage.broker(stage.vault())
    stage.scrape(broker)
    broker.configure("nonsense = 1")
    stage.fire(alert("ConfigurationFaulty"))
    broker.configure()
    stage.resolve()


def the_audit_trail_has_no_room(stage: Stage) -> None:
    broker = stage.broker(stage.vault(), tables='[audit]\nfile = "/dev/full"\n')
    stage.scrape(broker)
    broker.ask(MERCHANT, number(0))
    stage.fire(alert("AuditLinesLost"))
    stage.resolve()


def replicas_have_other_users(stage: Stage) -> None:
    vault = stage.vault()
    brokers = [stage.broker(vault, users=2), stage.broker(vault, users=0)]
    stage.scrape(*brokers)
    stage.fire(alert("ReplicasDisagree", what="token_broker_configured_users"))
    brokers[1].users = brokers[0].users
    brokers[1].configure()
    stage.resolve()


def one_replica_is_cut_off_from_the_vault(stage: Stage) -> None:
    """The other hears from it all the time: tokens live shortly. At last nobody asks the one that is cut off."""
    vault = stage.vault(lifetime="4s")
    brokers = [stage.broker(None, users=8), stage.broker(vault, users=8)]
    stage.scrape(*brokers)
    stage.callers(brokers[1:], 8, 0.1)
    callers = stage.callers(brokers[:1], 8, 0.1)
    stage.may_fire(alert("CallsFailing"), alert("TokensDry"), alert("SignInsFailing"))
    stage.fire(alert("ReplicasDisagree", what="token_broker_vault_up"))
    callers.stop()
    stage.resolve()


def two_versions_run(stage: Stage) -> None:
    broker = stage.broker(stage.vault())
    other = stage.recorded(broker.page())
    other.change(r'(?<=build_info\{version=")[^"]+', "9.9.9")
    stage.scrape(broker, other)
    stage.fire(alert("VersionsDiffer"), patience=3600 / SCALE + 20)
    other.stop()
    stage.resolve()


def calls_are_turned_away(stage: Stage) -> None:
    """More wait for one user's sign-in than may."""
    vault = stage.vault()
    vault.always({"kind": "hang"})
    broker = stage.broker(vault)
    broker.configure('timeout = "2m"')
    broker.kill(signal.SIGHUP)
    stage.scrape(broker)
    wait_until("the reload", lambda: "token_broker_configuration_generation 2\n" in broker.page())
    stage.may_fire(alert("CallsFailing", reason="BROKER_OVERLOADED"), alert("TokensDry"))
    stage.mark()
    end = stage.child("crowd", broker.endpoint, "16384")
    stage.fire(alert("Overloaded", what="calls turned away in 2 minutes"), patience=60)
    stage.mark()
    end()
    stage.resolve()


def something_breaks_inside(stage: Stage) -> None:
    broker = stage.broker(stage.vault())
    broken = stage.recorded(broker.page())
    stage.scrape(broken)
    broken.change(r'(?<=outcome="broken"\} )0$', "1")
    stage.fire(alert("InternalErrors"))
    stage.resolve()


def a_sign_in_breaks_inside(stage: Stage) -> None:
    """A series that begins with its first event."""
    broker = stage.broker(stage.vault())
    broken = stage.recorded(broker.page())
    stage.scrape(broken)
    # The alert can tell a first event from a first scrape only where there has been a broker for as long as it looks back.
    pause(900 / SCALE)
    broken.page += '# TYPE token_broker_sign_ins_total counter\ntoken_broker_sign_ins_total{merchant_id="m1",result="broken"} 1\n'
    stage.fire(alert("InternalErrors"))
    stage.resolve()


def renewals_stand_still(stage: Stage) -> None:
    broker = stage.broker(stage.vault())
    stuck = stage.recorded(broker.page())
    stage.scrape(stuck)
    stuck.change(r"(?<=^token_broker_renewals_overdue )0$", "7")
    stage.fire(alert("RenewalsOverdue"))
    stuck.change(r"(?<=^token_broker_renewals_overdue )7$", "0")
    stage.resolve()


def a_replica_crashes_again_and_again(stage: Stage) -> None:
    broker = stage.broker(stage.vault())
    stage.scrape(broker)
    stage.mark()
    for _ in range(4):
        broker.restart()
        pause(1.5)
    stage.fire(alert("Restarting"))
    stage.resolve(1800 / SCALE + 20)


def hits_take_long(stage: Stage) -> None:
    """The broker hardly gets to run, and its pauses fall into calls. Between calls they would not count: see the runbook."""
    broker = stage.broker(stage.vault())
    stage.scrape(broker)
    end = stage.child("slow", broker.endpoint, str(broker.process.pid))
    stage.fire(alert("HitsSlow"))
    stage.mark()
    end()
    stage.resolve()


# Those first that take longest.
SCENARIOS = [
    tokens_are_rejected_again_and_again,
    two_versions_run,
    tokens_are_rejected_twice,
    a_replica_crashes_again_and_again,
    a_sign_in_breaks_inside,
    the_vault_fails_and_callers_have_tokens,
    the_vault_fails_and_nobody_has_a_token,
    the_vault_is_back_and_nobody_asks,
    a_third_of_the_sign_ins_fails,
    nothing_is_wrong,
    no_replica_is_ready,
    users_are_refused,
    users_are_throttled,
    a_merchant_is_blocked,
    certificates_end_soon,
    a_certificate_ends_today,
    the_configuration_is_at_fault,
    the_audit_trail_has_no_room,
    replicas_have_other_users,
    one_replica_is_cut_off_from_the_vault,
    something_breaks_inside,
    renewals_stand_still,
    calls_are_turned_away,
    hits_take_long,
]
# These keep the machine so busy that others' times would suffer: one after the other, when most are done.
HEAVY = {calls_are_turned_away, hits_take_long}


class Run:
    """All scenarios, on one Prometheus."""

    def __init__(self, arguments: argparse.Namespace, directory: Path) -> None:
        self.broker, self.sandbox, self.directory = arguments.broker, arguments.sandbox, directory
        self.open = threading.Event()
        self.faults: list[str] = []
        self.rows: list[Row] = []
        self.pages = ""
        self.prometheus = Prometheus(directory / "prometheus")

    def nobody_was_ever_there(self) -> None:
        """While Prometheus has nothing to scrape."""

        def fires() -> bool:
            return any(alert("NotReady").is_one(labels) and "job" not in labels for labels in self.prometheus.firing)

        began = time.monotonic()
        wait_until("TokenBrokerNotReady without any target", fires)
        row = Row("nobody_was_ever_there", alert("NotReady"), time.monotonic() - began)
        self.open.set()
        began = time.monotonic()
        wait_until("TokenBrokerNotReady to resolve with the first target", lambda: not fires())
        row.resolved = time.monotonic() - began
        self.rows.append(row)

    def play(self, scenario: Callable[[Stage], None]) -> None:
        stage = Stage(self, scenario.__name__)
        try:
            scenario(stage)
            stage.judge()
        except Failed as failed:
            self.faults.append(f"{stage.name}: {failed}")
        except Exception:
            self.faults.append(f"{stage.name}: {traceback.format_exc()}")
        finally:
            stage.close()
            self.rows.extend(stage.rows)
            self.pages += stage.pages

    def all(self, scenarios: list[Callable[[Stage], None]]) -> None:
        heavy = [scenario for scenario in scenarios if scenario in HEAVY]
        with ThreadPoolExecutor(len(SCENARIOS) + 1) as pool, broken_off_by_exceptions():
            first = pool.submit(self.nobody_was_ever_there)
            light = [pool.submit(self.play, scenario) for scenario in scenarios if scenario not in HEAVY]
            try:
                first.result()
            except Failed as failed:
                self.faults.append(f"nobody_was_ever_there: {failed}")
                self.open.set()
            if heavy and len(light) > 6:
                wait_until("the others", lambda: sum(not each.done() for each in light) <= 6, 300)
            for scenario in heavy:
                self.play(scenario)

    def check_pages(self) -> None:
        """What the rules and the dashboard name is what brokers expose, if one looks at all of them."""
        checked = subprocess.run(
            [sys.executable, CHECK, "--metrics", "-", "--all"], input=self.pages, capture_output=True, text=True, check=False
        )
        self.faults.extend(f"check.py: {line}" for line in checked.stderr.splitlines())

    def check_all_fired(self) -> None:
        names = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
        fired = {f"TokenBroker{row.alert.name}" for row in self.rows if row.resolved is not None}
        self.faults.extend(f"{name}: no scenario had it fire and resolve" for name in sorted(names - fired))

    def table(self) -> Iterator[str]:
        yield f"{'alert':46} {'scenario':42} {'fired after':>12} {'resolved after':>15}"
        for row in sorted(self.rows, key=lambda row: (str(row.alert), row.scenario)):
            resolved = "never" if row.resolved is None else f"{row.resolved:.1f} s"
            yield f"{row.alert!s:46} {row.scenario:42} {row.fired:10.1f} s {resolved:>15}"


@contextlib.contextmanager
def broken_off_by_exceptions() -> Iterator[None]:
    """Ctrl-C too: whoever waits for the scenarios else waits until they are over."""
    try:
        yield
    except BaseException:
        BROKEN_OFF.set()
        raise


@contextlib.contextmanager
def workplace(keep: bool) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="monitoring-"))
    try:
        yield directory
    finally:
        if keep:
            print(f"logs are in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", type=Path, default=target / "token-broker")
    parser.add_argument("--sandbox", type=Path, default=target / "token-broker-sandbox")
    parser.add_argument("--only", action="append", choices=[scenario.__name__ for scenario in SCENARIOS], metavar="SCENARIO")
    parser.add_argument("--keep", action="store_true", help="leave the logs and Prometheus' data")
    arguments = parser.parse_args()
    arguments.broker, arguments.sandbox = arguments.broker.resolve(), arguments.sandbox.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if missing := [name for name in ("prometheus", "openssl") if not shutil.which(name)]:
        parser.error(f"not on the PATH: {', '.join(missing)}")
    began = time.monotonic()
    with workplace(arguments.keep) as directory:
        run = Run(arguments, directory)
        try:
            run.all([scenario for scenario in SCENARIOS if not arguments.only or scenario.__name__ in arguments.only])
        finally:
            run.prometheus.stop()
    if not arguments.only:
        run.check_all_fired()
        run.check_pages()
    print("\n".join(run.table()))
    print(f"\n{time.monotonic() - began:.0f} s, at {SCALE} times the speed")
    for fault in run.faults:
        print(fault, file=sys.stderr)
    return 1 if run.faults else 0


if __name__ == "__main__":
    sys.exit(main())
