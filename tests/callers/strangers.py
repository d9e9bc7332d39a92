#!/usr/bin/env python3
"""A stranger's start in each language: the commands and the program of `## Start` in clients/LANGUAGE/README.md, as pasted, in an
empty folder with nothing of the repository but the built package.

    python3 tests/callers/strangers.py [--only LANGUAGE]… [--broker FILE] [--sandbox FILE]

Prints how long it took to the first token, how many lines were written, and how much was put into the folder. Ends with 1 if
anybody got no token. Uses the registries of Debian and of the languages, and root where a block does.
"""

import argparse
import contextlib
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import cluster
import packages

USER = "+447871239999"
# As each page has it.
ADDRESS = "127.0.0.1:50051"
START_SECONDS = 600


def blocks(package):
    """What is to be done, in turn: ("sh", commands) to run, or (a file's name, its text) to write."""
    page = (packages.ROOT / package / "README.md").read_text()
    section = re.search(r"^## Start\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    found = re.finditer(r"(?:^`([\w.]+)`\n\n?)?^```(\w+)\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    return [("sh", text) if kind == "sh" else (name, text) for name, kind, text in (match.groups() for match in found)]


@contextlib.contextmanager
def broker(options):
    """A broker that knows the documented user, and its address."""
    with cluster.Cluster(options.broker, options.sandbox) as here:
        vault = here.spawn("vault", [options.sandbox, "--listen", "127.0.0.1:0"])
        url = waited(lambda: re.search(r"http://127\.0\.0\.1:\d+", here.log("vault")), vault)[0]
        config = here.directory / "broker.toml"
        config.touch(mode=0o600)
        config.write_text(
            f'[grpc]\nlisten = "127.0.0.1:0"\nlame_duck = "0s"\n[vault]\nbase_url = "{url}"\n'
            f'[[users]]\nmerchant_id = "{cluster.MERCHANT}"\nnumber = "{USER}"\npassword = "1234Qwerty"\n'
        )
        process = here.spawn("broker", [options.broker, "serve", "--config", config])
        found = waited(lambda: re.search(r"(127\.0\.0\.1:\d+)", "".join(lines(here, "grpc"))), process)
        yield found[1]


def lines(here, word):
    return [line for line in here.log("broker").splitlines() if word in line and "listen" in line]


def waited(condition, process):
    found = []
    cluster.wait_until(lambda: found.append(condition()) or found[-1], process, "a program")
    return found[-1]


def start(package, address, built):
    """Does as the page says; what it took."""
    with tempfile.TemporaryDirectory(prefix="stranger-") as folder:
        folder = pathlib.Path(folder)
        for file in built.iterdir():
            shutil.copy(file, folder)
        package_bytes = size(folder)
        began, written, said = time.monotonic(), 0, ""
        for name, text in blocks(package):
            text = text.replace(ADDRESS, address)
            if name != "sh":
                (folder / name).write_text(text)
                written += sum(bool(line.strip()) for line in text.splitlines())
                continue
            done = subprocess.run(
                ["bash", "-e", "-c", text],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=START_SECONDS,
            )
            said += done.stdout
            if done.returncode != 0:
                sys.exit(f"{package}: exit {done.returncode} of\n{text}\n{done.stdout[-4000:]}")
        took, installed = time.monotonic() - began, size(folder) - package_bytes
        if not re.search(r"^[0-9a-f]{32}$", said, re.MULTILINE):
            sys.exit(f"{package}: no token in\n{said[-2000:]}")
    return took, written, package_bytes, installed


def size(folder):
    """Bytes of all files; those that have several names count once."""
    files = {(found.st_ino): found.st_size for path in folder.rglob("*") if not path.is_symlink() and (found := path.stat())}
    return sum(files.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cluster.add_programs(parser)
    parser.add_argument("--only", action="append", choices=packages.PACKAGES, help="only this language; may be repeated")
    options = parser.parse_args()
    cluster.find_programs(options)
    chosen = options.only or packages.PACKAGES
    for package in chosen:
        packages.build(package)
    print("| language | seconds to the first token | lines written | package | put into the folder |")
    print(f"|{' --- |' * 5}")
    with broker(options) as address:
        for package in chosen:
            took, written, packed, installed = start(package, address, packages.built(package))
            print(f"| {package} | {took:.0f} | {written} | {packed / 1024:.0f} KiB | {installed / 2**20:.1f} MiB |", flush=True)
    print(f"{len(chosen)} passed, 0 failed")


if __name__ == "__main__":
    main()
