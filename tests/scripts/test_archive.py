"""`deploy/archive.py` on small made-up images: one or several in an archive, by name, and the same bytes each time."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "archive.py"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def image(path, architecture):
    """As buildah writes one: a configuration, a manifest, and an index that names no platform."""
    blobs = {}

    def blob(value):
        content = json.dumps(value).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        blobs[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = content
        return {"digest": digest, "size": len(content)}

    manifest = blob({"config": blob({"architecture": architecture, "os": "linux"}), "layers": []})
    blobs["index.json"] = json.dumps({"manifests": [manifest | {"mediaType": MANIFEST}]}).encode()
    with tarfile.open(path, "w") as archive:
        for name, content in blobs.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def join(name, out, *archives):
    done = subprocess.run([sys.executable, SCRIPT, name, out, *archives], capture_output=True, text=True, check=True)
    with tarfile.open(out) as archive:
        return done.stdout.strip(), {member.name: archive.extractfile(member).read() for member in archive}


@pytest.fixture
def both(tmp_path):
    return [image(tmp_path / f"{architecture}.tar", architecture) for architecture in ("arm64", "amd64")]


def test_several_are_an_index_of_which_each_client_takes_its_own(both, tmp_path):
    digest, files = join("token-broker:0.1.0", tmp_path / "out", *both)
    (top,) = json.loads(files["index.json"])["manifests"]
    assert (top["digest"], top["mediaType"]) == (digest, INDEX)
    content = files[f"blobs/sha256/{digest.removeprefix('sha256:')}"]
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
    entries = json.loads(content)["manifests"]
    assert [entry["platform"] for entry in entries] == [{"architecture": name, "os": "linux"} for name in ("amd64", "arm64")]
    assert all(f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}" in files for entry in entries)
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_one_alone_is_itself(both, tmp_path):
    digest, files = join("token-broker:0.1.0", tmp_path / "out", both[0])
    (top,) = json.loads(files["index.json"])["manifests"]
    assert (top["digest"], top["mediaType"], top["platform"]["architecture"]) == (digest, MANIFEST, "arm64")


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("token-broker:0.1.0", "docker.io/library/token-broker:0.1.0"),
        ("registry.example.org/a/token-broker:0.1.0", "registry.example.org/a/token-broker:0.1.0"),
    ],
)
def test_it_has_the_name_that_the_ocis_tools_and_containerd_look_for(both, tmp_path, name, whole):
    _, files = join(name, tmp_path / "out", *both)
    (top,) = json.loads(files["index.json"])["manifests"]
    assert top["annotations"] == {"org.opencontainers.image.ref.name": "0.1.0", "io.containerd.image.name": whole}


def test_the_same_images_are_the_same_bytes_in_any_order(both, tmp_path):
    join("a:1", tmp_path / "one", *both)
    join("a:1", tmp_path / "two", *reversed(both))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
