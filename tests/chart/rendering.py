"""Renders the chart as its users would, and finds what was rendered."""

import functools
import json
import os
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "charts" / "token-broker"
HELM = os.environ.get("TOKEN_BROKER_HELM", "helm")
NAMESPACE = "broker-ns"

# What most tests begin with; they set what they are about.
BASE = "service-accounts"

# Every variant that all of the general promises are checked on.
VARIANTS = {path.name.removesuffix("-values.yaml"): (path,) for path in sorted(CHART.glob("ci/*-values.yaml"))} | {
    "ha": (CHART / "ci" / f"{BASE}-values.yaml", CHART / "values-ha.yaml"),
    "plain": (CHART / "values-plain.yaml",),
    "trial": (ROOT / "deploy" / "kubernetes" / "trial-values.yaml",),
}


def helm(*arguments, files=(), values=None):
    command = [HELM, *map(str, arguments)]
    for file in files:
        command += ["--values", str(file)]
    if values is not None:
        command += ["--values", "-"]
    return subprocess.run(command, input=json.dumps(values or {}), capture_output=True, text=True, check=False)


@functools.cache
def _rendered(files, values):
    done = helm("template", "tb", CHART, "--namespace", NAMESPACE, files=files, values=json.loads(values))
    assert done.returncode == 0, done.stderr
    documents = [part for part in yaml.load_all(done.stdout, yaml.CSafeLoader) if part]
    for part in documents:
        # An empty mapping that a template left behind would say nothing to anybody.
        assert part.get("kind") and part["metadata"].get("name"), part
    return done.stdout, documents


def render(values=None, variant=BASE):
    """The objects of a variant, with further values."""
    return _rendered(VARIANTS[variant], json.dumps(values or {}))[1]


def text(variant):
    """The same as it is written."""
    return _rendered(VARIANTS[variant], json.dumps({}))[0]


def find(documents, kind, name=None):
    """All objects of a kind, and of a name."""
    return [part for part in documents if part["kind"] == kind and name in (None, part["metadata"]["name"])]


def one(documents, kind, name=None):
    """The only object of a kind, and of a name."""
    found = find(documents, kind, name)
    assert len(found) == 1, [part["metadata"]["name"] for part in found]
    return found[0]


def refusal(values=None, variant=BASE):
    """What rendering says where it fails; with no variant: of these values alone."""
    done = helm(
        "template", "tb", CHART, "--namespace", NAMESPACE, files=VARIANTS[variant] if variant else (), values=values or {}
    )
    assert done.returncode != 0, "it rendered"
    return done.stderr


@functools.cache
def _told(files, values):
    done = helm("install", "tb", CHART, "--namespace", NAMESPACE, "--dry-run=client", files=files, values=json.loads(values))
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


def notes(variant=BASE, values=None):
    """What an installation says in the end."""
    return _told(VARIANTS[variant], json.dumps(values or {}))


def pod(documents):
    return one(documents, "Deployment")["spec"]["template"]["spec"]


def broker(documents):
    return next(part for part in pod(documents)["containers"] if part["name"] == "token-broker")
