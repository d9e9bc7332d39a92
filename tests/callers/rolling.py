#!/usr/bin/env python3
"""Failed calls of Rust callers while all replicas are replaced, again and again, as Kubernetes does it; or, with `--kill`, as a
machine that fails does it: of a `Client`, for which each ask is a call, and of a `TokenSource`. conformance.py has a rollout for
each language.

    python3 tests/callers/rolling.py [--rounds N] [--broker FILE] [--sandbox FILE] [--examples DIRECTORY]

The replicas behind a headless service are replaced one by one (`maxSurge: 1`, `maxUnavailable: 0`): a new one gets ready and
into DNS; then the old one is told to end (SIGTERM) and, --late seconds after that, as news takes its time, leaves DNS; when its
process has ended, nothing listens at its address any more. Callers ask steadily all the while. In the middle
the users' password changes at the vault, and in the Secret, whose `..data` link is swapped
as kubelet does.

Ends with 1 if a call failed, or if the new password was not in use in time. Needs Linux namespaces.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import cluster
from cluster import ADMIN_PORT, MERCHANT, PORT, VAULT, Cluster, control, end, number

# What is set for each.
CALLERS = {"client": {}, "source": {"TOKEN_BROKER_SOURCE": "yes"}}
PASSWORDS = ("the first, of nobody", "the second, of nobody")
# The files of the configuration are looked at every two seconds, and each user is signed in anew.
ROTATION_SECONDS = 15
# A process gets lame_duck and drain, and some seconds more.
EXIT_SECONDS = 35
# All calls end by themselves after 15 s.
END_SECONDS = 30


class Secret:
    """A mounted Secret, as kubelet writes it: a directory for each version, and links that are swapped."""

    def __init__(self, directory):
        self.path = directory
        self._current = None
        directory.mkdir()
        (directory / "users.toml").symlink_to("..data/users.toml")

    def write(self, text):
        version = self.path / f"..{time.time_ns()}"
        version.mkdir()
        file = version / "users.toml"
        file.touch(mode=0o600)
        file.write_text(text)
        link = self.path / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self.path / "..data")
        if self._current:
            (self._current / "users.toml").unlink()
            self._current.rmdir()
        self._current = version


class Roll:
    """The replicas of one deployment."""

    def __init__(self, here, options):
        self.here, self.options = here, options
        self.secret = Secret(here.directory / "credentials")
        self.started, self.replicas, self.vault = 0, [], None
        self.change_password(PASSWORDS[0])
        for _ in range(options.replicas):
            self.replicas.append(self.start())
        self.publish(self.replicas)

    def start(self):
        self.started += 1
        return self.here.pod(
            self.started,
            f'credentials_files = ["{self.secret.path}/*.toml"]\n'
            f'[grpc]\nlisten = "ADDRESS:{PORT}"\nlame_duck = "{self.options.lame_duck}"\n'
            f'[admin]\nlisten = "ADDRESS:{ADMIN_PORT}"\n'
            f'[vault]\nbase_url = "http://{VAULT}"\n',
        )

    def publish(self, pods):
        self.here.names.addresses = [pod.address for pod in pods]

    def replace_one(self):
        """Surge first: returns when the old one's process has ended, however that took."""
        old, new = self.replicas[0], self.start()
        self.publish([*self.replicas, new])
        # The old one is chosen once the new one is ready; it is told to end at once, and DNS tells later.
        time.sleep(self.options.settle)
        if self.options.kill:
            old.process.kill()
        else:
            old.process.terminate()
        time.sleep(self.options.late)
        self.replicas = [*self.replicas[1:], new]
        self.publish(self.replicas)
        code = old.process.wait(EXIT_SECONDS)
        if code != (-signal.SIGKILL if self.options.kill else 0):
            raise RuntimeError(f"{old} ended with {code}:\n{old.log()[-2000:]}")

    def change_password(self, password):
        """At the vault and in the Secret; the vault is another process then, which knows the new password alone."""
        if self.vault:
            end(self.vault)
        lasting = ["--lifetime", self.options.lifetime, "--delay", self.options.delay, "--lock-after", "0"]
        self.vault = self.here.vault(self.options.users, password, *lasting)
        user = '[[users]]\nmerchant_id = "{}"\nnumber = "{}"\npassword = "{}"\n'
        self.secret.write("".join(user.format(MERCHANT, number(index), password) for index in range(self.options.users)))

    def rotate(self):
        """Seconds until every replica had signed every user in with the new password."""
        # Whoever has no token yet while the vault knows the new password and the Secret doesn't is refused, and rightly so.
        for pod in self.replicas:
            cluster.wait_until(lambda pod=pod: self.signed_in(pod) == self.options.users, pod.process, f"{pod} with all users")
        self.change_password(PASSWORDS[1])
        began, wanted = time.monotonic(), self.options.users * self.options.replicas
        while granted() < wanted:
            if time.monotonic() - began > ROTATION_SECONDS:
                raise RuntimeError(f"{granted()} of {wanted} sign-ins with the new password after {ROTATION_SECONDS} s")
            time.sleep(0.05)
        return time.monotonic() - began

    def signed_in(self, pod):
        return len({line["number"] for line in pod.audited("sign_in") if line["verdict"] == "granted"})


def granted():
    return control("stats")["granted"]


def calls_of(here, name, options):
    """Starts a caller; it ends when its standard input does."""
    environment = CALLERS[name] | {"TOKEN_BROKER_URL": f"http://{cluster.SERVICE}:{PORT}"}
    program = pathlib.Path(os.environ[cluster.EXAMPLES]) / "steady"
    log = here.enter_context((here.directory / f"{name}.log").open("w"))
    process = subprocess.Popen(
        [program, str(options.rate), str(options.users), MERCHANT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=cluster.plain_environment() | environment,
    )
    here.callback(end, process)
    return process


def told_by(here, name, process):
    try:
        return json.loads(process.communicate(timeout=END_SECONDS)[0])
    except ValueError:
        raise RuntimeError(f"the caller in {name} broke off:\n{here.log(name)[-2000:]}") from None


def run(options):
    with Cluster(options.broker, options.sandbox) as here:
        roll = Roll(here, options)
        callers = {name: calls_of(here, name, options) for name in options.only or CALLERS}
        began = time.monotonic()
        for turn in range(options.rounds):
            for _ in range(options.replicas):
                roll.replace_one()
            if turn == (options.rounds - 1) // 2:
                rotation = roll.rotate()
            print(f"round {turn + 1} of {options.rounds}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        time.sleep(options.settle)
        seen = {name: told_by(here, name, process) for name, process in callers.items()}
        seconds = time.monotonic() - began
        shares = ", ".join(str(len(pod.audited("decision"))) for pod in roll.replicas)
    replaced = options.rounds * options.replicas
    print(
        f"{replaced} replicas replaced in {options.rounds} rounds, {seconds:.0f} s, {options.rate} calls a second of each caller"
    )
    print(f"calls that the last replicas answered: {shares}")
    for name, told in seen.items():
        failed = sum(told["failed"].values())
        print(f"{name:8} {told['calls']:8,} calls, {failed} failed, the slowest took {told['slowest_ms']:.0f} ms")
        for why, count in told["failed"].items():
            print(f"         {count} times: {why}")
    print(f"a Secret's new password was in use for all users at all replicas after {rotation:.1f} s")
    return 1 if any(told["failed"] for told in seen.values()) else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cluster.add_programs(parser)
    parser.add_argument("--rounds", type=int, default=20, help="how often all replicas are replaced (default 20)")
    parser.add_argument("--replicas", type=int, default=3, help="how many there are (default 3)")
    parser.add_argument("--rate", type=int, default=50, help="calls a second of each caller (default 50)")
    parser.add_argument("--users", type=int, default=40, help="users asked for in turn (default 40)")
    parser.add_argument("--lifetime", default="30s", help="of a token, so that there are renewals (default 30s)")
    parser.add_argument("--delay", default="200ms", help="of a sign-in, so that calls are under way (default 200ms)")
    parser.add_argument("--kill", action="store_true", help="kills the old ones hard (SIGKILL) instead of telling them to end")
    parser.add_argument("--lame-duck", default="5s", help="of the broker (default 5s, as its own)")
    parser.add_argument(
        "--late", type=float, default=1.0, help="seconds until DNS drops a replica that was told to end (default 1)"
    )
    parser.add_argument("--settle", type=float, default=0.5, help="seconds from a new replica's readiness to the old one's end")
    parser.add_argument("--only", action="append", choices=CALLERS, help="only this caller; may be repeated")
    options = parser.parse_args()
    cluster.find_programs(options)
    cluster.enter()
    sys.exit(run(options))


if __name__ == "__main__":
    main()
