#!/usr/bin/env bash
# Makes the image without a container engine, a registry or a network: `deploy/image.sh [DIRECTORY [BUILDAH-OPTION…]]`, in any sandbox.
#
# Into DIRECTORY (default: image/ in cargo's target directory) go
#   token-broker.oci.tar   the image, for `skopeo copy oci-archive:…` or `podman load`
#   token-broker.cdx.json  its SBOM in CycloneDX: the crates that were compiled in, with their versions
# What else is given goes to buildah, such as `--label org.opencontainers.image.source=https://…`.
#
# Needs what deploy/build.sh needs, buildah, and syft (SYFT names it, if it is not in PATH). The binary is built on this machine instead
# of in the Dockerfile's first stage; the rest of the Dockerfile is what counts. The same commit and the same compilers give the
# same digest; it has the commit's time, or that of SOURCE_DATE_EPOCH.
set -euo pipefail
cd "$(dirname "$0")/.."
directory=$(realpath -m "${1:-${CARGO_TARGET_DIR:-target}/image}")
shift "$(($# > 0))"
syft=${SYFT:-syft}

for needed in buildah "$syft"; do
  command -v "$needed" >/dev/null || { echo "deploy/image.sh: $needed is missing" >&2 && exit 1; }
done

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
time=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
# What isn't committed isn't that revision.
if [ -n "$(git status --porcelain 2>/dev/null)" ]; then revision+=-dirty; fi

work=$(mktemp -d)
# A layer's directory can't be written to: nothing to root, but anybody else couldn't remove what is in it.
trap 'chmod -R u+w "$work" && rm -r "$work"' EXIT

deploy/build.sh "$work/builder/token-broker"

# Storage of its own, so that no layer of an earlier build is taken for one of this. Nothing is pulled and nothing runs inside, so
# that chroot and vfs, which ask nothing of the machine, cost nothing.
storage=(buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs)
mkdir -p "$directory"
"${storage[@]}" build --quiet --isolation chroot --pull-never --timestamp "$time" --file deploy/Dockerfile \
  --build-context "builder=$work/builder" --build-arg "REVISION=$revision" "$@" --tag localhost/token-broker "$work/builder" >/dev/null
"${storage[@]}" push --quiet --digestfile "$work/digest" localhost/token-broker "oci-archive:$work/token-broker.oci.tar"
SYFT_CHECK_FOR_APP_UPDATE=false "$syft" scan --quiet --source-name token-broker --output "cyclonedx-json=$work/token-broker.cdx.json" \
  "oci-archive:$work/token-broker.oci.tar"
# Only once all is there: an SBOM beside another image would lie.
mv "$work/token-broker.oci.tar" "$work/token-broker.cdx.json" "$directory/"

printf '%s: %d bytes to pull, %d unpacked\n' "$directory/token-broker.oci.tar" \
  "$(stat --format=%s "$directory/token-broker.oci.tar")" "$(stat --format=%s "$work/builder/token-broker")"
cat "$work/digest" && echo
