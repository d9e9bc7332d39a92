"""Certificates that end when a scenario wants them to: of a CA that lives as long as the run."""

import subprocess
from pathlib import Path

from common import Failed


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
