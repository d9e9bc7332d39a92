"""The packages of clients/, built and installed as their users install them.

Must never hand on anything but what was built: an installed client that reads the work tree proves nothing.
"""

import shutil
import subprocess
import sys

import cluster

ROOT = cluster.ROOT / "clients"
PACKAGES = ("python", "node", "go", "java")
_OUT = cluster.ROOT / "target" / "clients"


def built(package):
    """Where its package file is."""
    return _OUT / package / "built"


def installed(package):
    """Where it is installed, with its adapters."""
    return _OUT / package / "installed"


def build(package):
    _run(package, "build.sh", _emptied(built(package)))


def install(package):
    """Builds it, and installs what was built into an empty folder."""
    build(package)
    _run(package, "install.sh", built(package), _emptied(installed(package)))


def _emptied(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _run(package, script, *folders):
    command = ["bash", ROOT / package / script, *folders]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
    if done.returncode != 0:
        sys.exit(f"clients/{package}/{script}:\n{done.stdout[-4000:]}")
