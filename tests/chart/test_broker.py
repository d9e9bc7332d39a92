"""The broker's own word on each rendered configuration, with its volumes laid out as the Deployment mounts them."""

import base64
import os
import re
import subprocess

import pytest
import yaml

from rendering import VARIANTS, broker, one, pod, render
from test_every_variant import MANIFESTS

NO_SERVER = 75
BROKER = os.environ.get("TOKEN_BROKER_BINARY")
USER = '[[users]]\nmerchant_id = "bece038f-2e46-49f4-b25e-89cd38d6dc16"\nnumber = "+447871239999"\npassword = "1234Qwerty"\n'

pytestmark = pytest.mark.skipif(not BROKER, reason="TOKEN_BROKER_BINARY names no broker")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A certificate that vouches for itself, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "tls.crt", directory / "tls.key"
    new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30"
    name = "-subj /CN=broker -addext subjectAltName=DNS:broker"
    command = ["openssl", *new.split(), *name.split(), "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return certificate.read_text(), key.read_text()


CAS = {"client-ca", "vault-ca", "shared-ca"}


def random_key(byte):
    return base64.b64encode(bytes([byte]) * 32).decode() + "\n"


def contents(volume, config, pair):
    """The files of a volume, by name."""
    certificate, key = pair
    name = volume["name"]
    if name == "config":
        return {"config.toml": config}
    if name.startswith("credentials-"):
        return {"users.toml": USER.replace("1234Qwerty", name).replace("9999", f"{sum(name.encode()):04}")}
    if name == "tls":
        return {"tls.crt": certificate, "tls.key": key, "ca.crt": certificate, "tls.pem": key + certificate}
    if name.startswith("shared-keys-"):
        files = re.findall(rf'^file = ".*/shared-keys/{name.removeprefix("shared-keys-")}/(.*)"$', config, re.MULTILINE)
        return {file: random_key(number) for number, file in enumerate(files)}
    if name in {"shared-password", "shared-names"}:
        return {item["path"]: random_key(255) for item in volume["secret"]["items"]}
    if name in CAS and "projected" in volume:
        return {volume["projected"]["sources"][0]["clusterTrustBundle"]["path"]: certificate}
    if name in CAS:
        source = volume.get("secret") or volume["configMap"]
        return {item["path"]: certificate for item in source["items"]}
    return {
        "jwks": {"jwks.json": '{"keys": []}'},
        "api-server": {"token": "t", "ca.crt": certificate},
        "audit": {},
        "state": {},
        "operator": {},
        "scratch": {},
    }[name]


def lay_out(documents, root, pair):
    """Everything that the broker's container mounts, below `root`; returns the configuration's path there."""
    deployment = one(documents, "Deployment")["metadata"]["name"]
    config = one(documents, "ConfigMap", deployment)["data"]["config.toml"]
    for directory in ("/etc/token-broker", "/var/log/token-broker", "/var/lib/token-broker"):
        config = config.replace(directory, f"{root}{directory}")
    volumes = {part["name"]: part for part in pod(documents)["volumes"]}
    previous = os.umask(0o077)
    try:
        for mount in broker(documents)["volumeMounts"]:
            directory = root / mount["mountPath"].removeprefix("/")
            directory.mkdir(parents=True)
            for name, text in contents(volumes[mount["name"]], config, pair).items():
                (directory / name).write_text(text)
    finally:
        os.umask(previous)
    given = broker(documents)["args"]
    assert given[:2] == ["serve", "--config"]
    return root / given[2].removeprefix("/")


def check(path, *arguments):
    return subprocess.run([BROKER, "check", "--config", path, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("variant", [*sorted(VARIANTS), "manifests"])
def test_is_in_order(variant, tmp_path, pair):
    documents = list(yaml.safe_load_all(MANIFESTS.read_text())) if variant == "manifests" else render(variant=variant)
    done = check(lay_out(documents, tmp_path, pair))
    told = done.stdout + done.stderr
    if variant == "shared":
        # Said after all the rest: the server isn't there.
        assert done.returncode == NO_SERVER, told
        assert "[shared] is in order, but its server can't be used from here" in told
        assert "warning" not in told
        return
    assert done.returncode == 0, told
    # Nothing to look at, but what the values have spelled out.
    assert (", 1 warning" if variant in {"open", "traces"} else ", 0 warnings") in told


def test_a_migration_between_issuers_is_in_order(tmp_path, pair):
    issuers = {"auth": {"serviceAccounts": {"issuer": ["https://old.example.org", "https://new.example.org"]}}}
    for number, variant in enumerate(["service-accounts", "offline-keys"]):
        done = check(lay_out(render(issuers, variant=variant), tmp_path / str(number), pair))
        assert done.returncode == 0, done.stdout + done.stderr
        assert ", 0 warnings" in done.stdout


def test_the_policy_is_that_of_the_values(tmp_path, pair):
    path = lay_out(render(variant="reviewed"), tmp_path, pair)
    user = ("--merchant-id", "bece038f-2e46-49f4-b25e-89cd38d6dc16", "--number", "+447871239999")
    verdicts = {}
    for caller in ("system:serviceaccount:any:cards", "spiffe://example.org/ns/a/sa/cards", "a.example.org", "b.example.com"):
        done = check(path, "--caller", caller, *user)
        verdicts[caller] = done.stdout
    assert "may not" not in verdicts["system:serviceaccount:any:cards"]
    assert "may not" not in verdicts["spiffe://example.org/ns/a/sa/cards"]
    assert "may not" in verdicts["a.example.org"]
    assert "may not" in verdicts["b.example.com"]


def test_a_fault_would_be_found(tmp_path, pair):
    path = lay_out(render(), tmp_path, pair)
    path.write_text(path.read_text().replace('timeout = "10s"', 'timeout = "3m"'))
    done = check(path)
    assert done.returncode == 78
    assert "vault.timeout" in done.stderr
