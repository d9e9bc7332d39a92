#!/usr/bin/env python3
"""Runs the callers of examples/callers, which docs/callers.md is about, against a broker and a development vault.

    python3 tests/callers/run.py [--broker FILE] [--sandbox FILE] [--examples DIRECTORY] [--only LANGUAGE]… [--strict]

Each language whose compiler or interpreter is here asks by the name of a headless service: in plaintext, over TLS with a
service account's token, and with a client certificate; and once more with two and with three replicas, all of whose tokens
have ended. Says which ran and which were skipped, and why; --strict takes a skipped
one as a failure. Needs the packages of tests/python/requirements.txt, and Linux namespaces.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import cluster
import identities
import languages
from cluster import ADMIN_PORT, MERCHANT, PORT, VAULT, Cluster, control, number

PASSWORD = "only for the test"  # noqa: S105 - a password of nobody
CALL_SECONDS = 40
NOBODY = "+12025550123"
# So many have tokens that have all ended.
REPLICAS = (2, 3)
# `get`'s exit code for what may pass, and by when it must have ended that may take a second.
TEMPORARY = 75
SILENCE_SECONDS = 2.5

GRPC = f'[grpc]\nlisten = "ADDRESS:{PORT}"\nlame_duck = "0s"\n'
TLS = '[grpc.tls]\ncertificate_file = "tls.crt"\nkey_file = "tls.key"\n'


def callers(name):
    return f'[[callers]]\nid = "{name}"\nmerchants = ["{MERCHANT}"]\n'


ACCOUNTS = f'[auth.service_accounts]\nissuer = "{identities.ISSUER}"\njwks_file = "jwks"\n'
MODES = {
    "plaintext": ("", {}),
    "TLS, token file": (
        TLS + ACCOUNTS + callers(identities.SUBJECT),
        {"TOKEN_BROKER_CA": "ca.crt", "TOKEN_BROKER_TOKEN_FILE": "token"},
    ),
    "mutual TLS": (
        f'{TLS}client_ca_file = "ca.crt"\n{callers(identities.SPIFFE)}',
        {"TOKEN_BROKER_CA": "ca.crt", "TOKEN_BROKER_CERTIFICATE": "client.crt", "TOKEN_BROKER_KEY": "client.key"},
    ),
}


def ask(language, environment, user, expected, wanted_exit=0):
    """One run of a caller; returns what is wrong with it."""
    done = subprocess.run(
        [*language.command, MERCHANT, user], env=environment, capture_output=True, text=True, timeout=CALL_SECONDS
    )
    said = (done.stdout + done.stderr).strip()
    if done.returncode != wanted_exit or expected not in said:
        return [f"wanted exit {wanted_exit} and {expected!r}, got exit {done.returncode} and:\n{said[:2000]}"]
    return []


def try_language(language, environment, user):
    """What a caller must manage, with a user of its own."""
    faults = ask(language, environment, number(user), "200 with token")
    # A user whose token is called back: 401, and the next token is asked for.
    control("revoke", {"all": True})
    faults += ask(language, environment, number(user), "200 with token")
    # A vault that fails twice: the broker says how long to wait, and the library does.
    left_before = control("stats")["unused_faults"]
    control("faults", [{"kind": "reply", "status": 503, "body": "busy", "number": number(user + 1), "times": 2}])
    faults += ask(language, environment, number(user + 1), "200 with token")
    if left := control("stats")["unused_faults"] - left_before:
        faults.append(f"{left} of the vault's failures were not met")
    # Errors that no repeat helps against say why.
    wrong_exit = 1
    return faults + ask(language, environment, NOBODY, "USER_NOT_CONFIGURED", wrong_exit)


def get(here, where, merchant, user, *more):
    command = [here.programs["broker"], "get", "--endpoint", f"http://{where}:{PORT}", *more]
    command += ["--merchant-id", merchant, "--number", number(user)]
    return subprocess.run(command, env=cluster.plain_environment(), capture_output=True, text=True, timeout=CALL_SECONDS)


def calls_until(here, pods, user, marker):
    """How many calls for this merchant were heard: a call of our own comes after them in each trail."""
    total = 0
    for pod in pods:
        get(here, pod.address, marker, user)
        lines = []

        def marked(pod=pod, lines=lines):
            lines[:] = pod.audited("decision")
            return any(line.get("merchant_id") == marker for line in lines)

        cluster.wait_until(marked, pod.process, f"the trail of {pod}")
        total += sum(line.get("merchant_id") == MERCHANT for line in lines)
    return total


def try_dead_tokens(here, language, environment, pods, user):
    """All replicas' tokens have ended, and one caller asks: a good token after a call more than there are replicas, at most."""
    faults = []
    for pod in pods:
        if get(here, pod.address, MERCHANT, user).returncode != 0:
            faults.append(f"{pod} has no token")
    control("revoke", {"all": True})
    before = calls_until(here, pods, user, f"before-{user}")
    faults += ask(language, environment, number(user), "200 with token")
    asked = calls_until(here, pods, user, f"after-{user}") - before
    if asked > len(pods) + 1:
        faults.append(f"{asked} calls until there was a good token")
    return faults


def try_silence(here):
    """A name server that says nothing: `get` ends at its time all the same."""
    began = time.monotonic()
    done = get(here, cluster.SILENT, MERCHANT, 0, "--timeout", "1s")
    took = time.monotonic() - began
    # The resolver itself would give up after three seconds.
    if done.returncode != TEMPORARY or took > SILENCE_SECONDS or "look-up" not in done.stderr:
        return [f"get of a name nobody answers for: exit {done.returncode} after {took:.1f} s and:\n{done.stderr}"]
    return []


def run(options):
    faults, ran = [], []
    with Cluster(options.broker, options.sandbox) as here, tempfile.TemporaryDirectory() as built:
        identities.make(here.directory, cluster.SERVICE)
        ready, skipped = languages.prepare(options.only or languages.LANGUAGES, pathlib.Path(built))
        users = (2 * len(MODES) + len(REPLICAS)) * len(ready)
        here.vault(users, PASSWORD)
        credentials = "".join(
            f'[[users]]\nmerchant_id = "{MERCHANT}"\nnumber = "{number(user)}"\npassword = "{PASSWORD}"\n'
            for user in range(users)
        )
        user = 0
        # So that a complaint is heard soon after the sign-in.
        floor = 'min_sign_in_interval = "0s"\n'
        admin = f'[admin]\nlisten = "ADDRESS:{ADMIN_PORT}"\n[vault]\nbase_url = "http://{VAULT}"\n'
        for index, (mode, (tables, files)) in enumerate(MODES.items()):
            pod = here.pod(index, GRPC + tables + admin + floor + credentials)
            here.names.addresses = [pod.address]
            where = {name: str(here.directory / file) for name, file in files.items()}
            scheme = "https" if files else "http"
            where |= {"TOKEN_BROKER_TARGET": here.target(), "TOKEN_BROKER_URL": f"{scheme}://{cluster.SERVICE}:{PORT}"}
            where["VAULT_URL"] = f"http://{VAULT}"
            for name, language in ready.items():
                environment = cluster.plain_environment() | language.environment | where
                found = try_language(language, environment, user)
                user += 2
                faults += [f"{name}, {mode}: {fault}" for fault in found]
                ran.append(f"{name}, {mode}: {'FAILED' if found else 'ok'}")
        for replicas in REPLICAS:
            # In plaintext, each with tokens of its own.
            pods = [here.pod(10 * replicas + index, GRPC + admin + floor + credentials) for index in range(replicas)]
            here.names.addresses = [pod.address for pod in pods]
            where = {
                "TOKEN_BROKER_TARGET": here.target(),
                "TOKEN_BROKER_URL": f"http://{cluster.SERVICE}:{PORT}",
                "VAULT_URL": f"http://{VAULT}",
            }
            for name, language in ready.items():
                environment = cluster.plain_environment() | language.environment | where
                found = try_dead_tokens(here, language, environment, pods, user)
                user += 1
                what = f"{name}, {replicas} replicas with dead tokens"
                faults += [f"{what}: {fault}" for fault in found]
                ran.append(f"{what}: {'FAILED' if found else 'ok'}")
        silence = try_silence(here)
        faults += silence
        ran.append(f"get, a name nobody answers for: {'FAILED' if silence else 'ok'}")
        for line in ran:
            print(line)
        for language in ready.values():
            print("with", language.versions())
    for why in skipped:
        print("skipped", why)
    if options.strict:
        faults += skipped
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cluster.add_programs(parser)
    parser.add_argument("--only", action="append", choices=languages.LANGUAGES, help="only this language; may be repeated")
    parser.add_argument("--strict", action="store_true", help="a language that can't be tried here is a failure")
    options = parser.parse_args()
    cluster.find_programs(options)
    languages.fetch(options.only or languages.LANGUAGES)
    cluster.enter()
    sys.exit(run(options))


if __name__ == "__main__":
    main()
