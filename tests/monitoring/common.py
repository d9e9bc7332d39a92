"""What the parts of run.py share: the scale of time, waiting, and which alert is meant."""

import json
import re
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

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
# Alerts have ended for good when none has fired for so long.
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
