"""Where one scenario is played: its programs, its callers, and which alerts fire there."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callers import MERCHANT, Callers, number
from common import FOR_GOOD, LABELS_OF_ALL, LOOK_BACK, PASSWORD, PATIENCE, SCALE, Alert, Failed, free_port, pause, wait_until
from programs import Broker, Recorded, Vault

if TYPE_CHECKING:
    from run import Run


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
                self.run.check_page(page := broker.page())
                self.pages += page

    def close(self) -> None:
        self.run.prometheus.scrape(self.name, [])
        self.closing.close()


# The scenarios. Each has its faults' remedy, and the alerts that should fire with the fault alone.
