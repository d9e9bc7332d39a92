"""What the scenarios are played with: a real Prometheus, vaults, brokers, and a page recorded from one."""

import contextlib
import http.server
import json
import re
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from callers import MERCHANT, Connection, number
from common import INTERVAL, LOOK_BACK, PASSWORD, PATIENCE, SCALE, Failed, fetch, free_port, scaled, wait_until, written

if TYPE_CHECKING:
    from stage import Stage


class Prometheus:
    """A real one, which scrapes whatever targets are in its directory."""

    def __init__(self, directory: Path, rules: str) -> None:
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
        (directory / "rules.yaml").write_text(scaled(rules))
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
    # Keys above all tables.
    top: str = ""
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
        lines = [self.top, f'[grpc]\nlisten = "{self.endpoint}"\nlame_duck = "{self.lame_duck}"\n{self.grpc}']
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
