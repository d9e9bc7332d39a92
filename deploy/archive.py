#!/usr/bin/env python3
"""Makes one OCI archive of one or more, each with the image of one architecture: `archive.py NAME:TAG OUT IN…`.

With several it holds an index, of which a client takes the architecture it runs on. The image has its name in it, as
the OCI's tools look for it (its tag) and as containerd does (its whole name), so that `ctr images import` yields
something to run. The same images give the same bytes. Prints the digest: of the index, or of the only image.
"""

import hashlib
import io
import json
import sys
import tarfile

INDEX = "application/vnd.oci.image.index.v1+json"


def read(path):
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}


def packed(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def blob_name(digest):
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def with_platform(listed, files):
    """The entry of an image in an index: where it is, and what it is for."""
    manifest = json.loads(files[blob_name(listed["digest"])])
    config = json.loads(files[blob_name(manifest["config"]["digest"])])
    entry = {key: listed[key] for key in ("mediaType", "digest", "size")}
    return entry | {"platform": {"architecture": config["architecture"], "os": config["os"]}}


def join(name, archives):
    """The files of the archive, by name, and the digest."""
    files, entries = {}, []
    for path in archives:
        there = read(path)
        (listed,) = json.loads(there["index.json"])["manifests"]
        files |= {file: content for file, content in there.items() if file.startswith("blobs/")}
        entries.append(with_platform(listed, files))
    if len(entries) == 1:
        (top,) = entries
    else:
        entries.sort(key=lambda entry: entry["platform"]["architecture"])
        index = packed({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
        digest = f"sha256:{hashlib.sha256(index).hexdigest()}"
        files[blob_name(digest)] = index
        top = {"mediaType": INDEX, "digest": digest, "size": len(index)}
    repository, _, tag = name.rpartition(":")
    # What Kubernetes makes of a name without a registry.
    whole = name if "." in repository.partition("/")[0] else f"docker.io/library/{name}"
    names = {"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": whole}
    files["index.json"] = packed({"schemaVersion": 2, "mediaType": INDEX, "manifests": [top | {"annotations": names}]})
    files["oci-layout"] = packed({"imageLayoutVersion": "1.0.0"})
    return files, top["digest"]


def write(path, files):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(files[name]), 0o644
            archive.addfile(member, io.BytesIO(files[name]))


def main():
    if len(sys.argv) < 4:
        sys.exit("archive.py NAME:TAG OUT IN…")
    files, digest = join(sys.argv[1], sys.argv[3:])
    write(sys.argv[2], files)
    print(digest)


if __name__ == "__main__":
    main()
