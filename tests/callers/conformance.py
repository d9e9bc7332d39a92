#!/usr/bin/env python3
"""One suite for the clients of all languages: the same situations, real brokers and the sandbox, and a table of what each does.

    python3 tests/callers/conformance.py [--only LANGUAGE]… [--situation NAME]… [--installed]
                                         [--broker FILE] [--sandbox FILE] [--examples DIRECTORY]

Each language's package is built and installed from what was built; a small adapter of its own obeys commands (see adapters.py).
All languages play a situation at once, each with users of its own. Needs the packages of tests/python/requirements.txt, and Linux
namespaces. Ends with 1 if anything went wrong.
"""

import argparse
import os
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "conformance"))

import cluster  # noqa: E402 - found beside this file
import complaining  # noqa: E402
import identities  # noqa: E402
import keeping  # noqa: E402
import losing  # noqa: E402
import packages  # noqa: E402
import proving  # noqa: E402
from adapters import Adapter, Failed  # noqa: E402
from stage import PASSWORD, PROXY, Stage  # noqa: E402

SITUATIONS = (
    keeping.memory,
    keeping.renewal,
    keeping.deadline,
    keeping.refusal,
    keeping.pushback,
    keeping.vault_outage,
    complaining.complaints,
    complaining.insists,
    complaining.second_401,
    losing.outage,
    losing.silence,
    losing.drain,
    losing.hard_kill,
    proving.token_file,
    proving.certificate,
    proving.options,
    proving.proxies,
)
# Each caller's own in each situation.
USERS_EACH = losing.USERS
# The packages, and the adapter of each: a package may have more than one.
ADAPTERS = {
    "rust": (None, "adapter"),
    "python": ("python", "adapter"),
    "python-aio": ("python", "adapter-aio"),
    "node": ("node", "adapter"),
    "go": ("go", "adapter"),
    "java": ("java", "adapter"),
}


def program(name):
    package, adapter = ADAPTERS[name]
    return (pathlib.Path(os.environ[cluster.EXAMPLES]) if package is None else packages.installed(package)) / adapter


class Ground(cluster.Cluster):
    """The cluster, with what situations change of it."""

    def __init__(self, options):
        super().__init__(options.broker, options.sandbox)
        self._pods = 0

    def next_pod(self):
        self._pods += 1
        return self._pods

    def vault_settings(self, **settings):
        cluster.control("settings", settings)

    def replace(self, file, text):
        """As kubelet and cert-manager do it: whoever reads finds one or the other."""
        fresh = file.with_suffix(".fresh")
        fresh.touch(mode=0o600)
        fresh.write_text(text)
        fresh.rename(file)

    def copy(self, name, to):
        file = self.directory / to
        self.replace(file, (self.directory / name).read_text())
        return file


def environment():
    """One in which a proxy is set for everything but the vault, whose API is called by HTTP clients of others.

    Java has system properties for that.
    """
    proxy = "http://{}:{}".format(*PROXY)
    names = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
    set_to = {spelt: proxy for name in names for spelt in (name, name.upper())}
    direct = {spelt: "127.0.0.1,127.0.0.2" for spelt in ("no_proxy", "NO_PROXY")}
    java = {"JAVA_TOOL_OPTIONS": "-Dhttps.proxyHost={} -Dhttps.proxyPort={}".format(*PROXY)}
    return cluster.plain_environment() | set_to | direct | java


def play(here, adapters, situation, turn):
    """One situation; its faults by language, and how long it took."""
    began = time.monotonic()
    stage = Stage(here, situation.__name__, adapters, 1 + turn * USERS_EACH * len(adapters), USERS_EACH)
    try:
        situation(stage)
    finally:
        stage.finish()
    took = time.monotonic() - began
    marks = "  ".join(f"{name} {'FAILED' if faults else 'ok'}" for name, faults in stage.faults.items())
    print(f"{situation.__name__:13} {took:5.1f} s  {marks}", flush=True)
    for name, faults in stage.faults.items():
        for fault in faults:
            print(f"    {name}: {fault}", flush=True)
    return stage.faults


def table(found):
    """For a page: a row a situation."""
    names = list(next(iter(found.values())))
    yield f"| situation | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    for situation, faults in found.items():
        yield f"| {situation.__doc__.splitlines()[0]} | {' | '.join('**no**' if faults[name] else 'yes' for name in names)} |"


def run(options):
    situations = [one for one in SITUATIONS if not options.situation or one.__name__ in options.situation]
    names = options.only or list(ADAPTERS)
    with Ground(options) as here:
        identities.make(here.directory, cluster.SERVICE)
        users = 1 + len(situations) * USERS_EACH * len(names)
        here.vault(users, PASSWORD, "--lock-after", "0", "--lifetime", "5m")
        adapters = []
        for name in names:
            log = here.enter_context((here.directory / f"{name}.log").open("w"))
            adapters.append(Adapter(name, [program(name)], environment(), log))
        found = {situation: play(here, adapters, situation, turn) for turn, situation in enumerate(situations)}
        faults = [f"{name}: {fault}" for by in found.values() for name, all_of in by.items() for fault in all_of]
        for adapter in adapters:
            try:
                adapter.end()
            except Failed as fault:
                faults.append(str(fault))
                print(fault)
            if said := here.log(adapter.name).strip():
                print(f"{adapter.name} said on standard error:\n{said[-2000:]}")
    print("\n".join(table(found)))
    failed = sum(bool(all_of) for by in found.values() for all_of in by.values())
    print(f"{len(found) * len(names) - failed} passed, {failed} failed")
    return 1 if faults else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cluster.add_programs(parser)
    parser.add_argument("--only", action="append", choices=ADAPTERS, help="only this language; may be repeated")
    names = [situation.__name__ for situation in SITUATIONS]
    parser.add_argument("--situation", action="append", choices=names, help="only this situation; may be repeated")
    parser.add_argument("--installed", action="store_true", help="takes the packages that were installed before")
    options = parser.parse_args()
    cluster.find_programs(options)
    if not options.installed and not os.environ.get(cluster.INSIDE):
        for package in dict.fromkeys(ADAPTERS[name][0] for name in options.only or ADAPTERS):
            if package:
                packages.install(package)
    cluster.enter()
    sys.exit(run(options))


if __name__ == "__main__":
    main()
