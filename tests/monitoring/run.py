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
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from common import (
    BROKEN_OFF,
    CHECK,
    ROOT,
    RULES,
    SCALE,
    Failed,
    alert,
    wait_until,
)
from programs import Prometheus
from scenarios import HEAVY, SCENARIOS
from stage import Row, Stage


class Run:
    """All scenarios, on one Prometheus."""

    def __init__(self, arguments: argparse.Namespace, directory: Path) -> None:
        self.broker, self.sandbox, self.directory = arguments.broker, arguments.sandbox, directory
        self.open = threading.Event()
        self.faults: list[str] = []
        self.rows: list[Row] = []
        self.pages = ""
        self.rules = arguments.rules.read_text()
        self.prometheus = Prometheus(directory / "prometheus", self.rules)

    def nobody_was_ever_there(self) -> None:
        """While Prometheus has nothing to scrape."""

        def fires() -> bool:
            return any(alert("NotReady").is_one(labels) and "job" not in labels for labels in self.prometheus.firing)

        began = time.monotonic()
        try:
            wait_until("TokenBrokerNotReady without any target", fires)
        finally:
            self.open.set()
        row = Row("nobody_was_ever_there", alert("NotReady"), time.monotonic() - began)
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
            if heavy:
                wait_until("the others", lambda: sum(not each.done() for each in light) <= 6, 300)
            for scenario in heavy:
                self.play(scenario)
            try:
                first.result()
            except Failed as failed:
                self.faults.append(f"nobody_was_ever_there: {failed}")

    def check_page(self, page: str) -> None:
        """Names, types and help are as Prometheus wants them."""
        linted = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
        if linted.returncode:
            self.faults.append(f"promtool check metrics: {(linted.stdout + linted.stderr).strip()}")

    def check_pages(self) -> None:
        """What the rules and the dashboard name is what brokers expose, if one looks at all of them."""
        checked = subprocess.run(
            [sys.executable, CHECK, "--metrics", "-", "--all"], input=self.pages, capture_output=True, text=True, check=False
        )
        self.faults.extend(f"check.py: {line}" for line in checked.stderr.splitlines())

    def check_all_fired(self) -> None:
        names = {rule["alert"] for group in yaml.safe_load(self.rules)["groups"] for rule in group["rules"]}
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
    parser.add_argument("--rules", type=Path, default=RULES)
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
