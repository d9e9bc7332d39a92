#!/usr/bin/env bash
# Makes the image without a container engine, a registry or a network: `deploy/image.sh [DIRECTORY [BUILDAH-OPTION…]]`, in any sandbox.
#
# Into DIRECTORY (default: image/ in cargo's target directory) go
#   token-broker.oci.tar         the image with its name and tag, for `skopeo copy --all oci-archive:…`, `podman load` or `ctr images import`
#   token-broker.ARCH.cdx.json   its SBOM in CycloneDX, of each architecture: the crates that were compiled in, with their versions
# What else is given goes to buildah, such as `--label org.opencontainers.image.source=https://…`.
#
# ARCHITECTURES says for which, such as "x86_64 aarch64"; by default for this machine's. With several the archive holds an index.
# PACKAGE=token-broker-sandbox makes the sandbox vault's image instead.
#
# Needs what deploy/build.sh needs, python3, buildah, and syft (SYFT names it, if it is not in PATH). The binary is built on this machine instead
# of in the Dockerfile's first stage; the rest of the Dockerfile is what counts. The same commit and the same compilers give the
# same digest; it has the commit's time, or that of SOURCE_DATE_EPOCH.
set -euo pipefail
cd "$(dirname "$0")/.."
directory=$(realpath -m "${1:-${CARGO_TARGET_DIR:-target}/image}")
shift "$(($# > 0))"
syft=${SYFT:-syft}
package=${PACKAGE:-token-broker}
read -ra architectures <<<"${ARCHITECTURES:-$(uname -m)}"
dockerfile=deploy/Dockerfile
[ "$package" = token-broker ] || dockerfile=sandbox/Dockerfile

for needed in buildah python3 "$syft"; do
  command -v "$needed" >/dev/null || { echo "deploy/image.sh: $needed is missing" >&2 && exit 1; }
done

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
time=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
# What isn't committed isn't that revision.
if [ -n "$(git status --porcelain 2>/dev/null)" ]; then revision+=-dirty; fi

work=$(mktemp -d)
# A layer's directory can't be written to: nothing to root, but anybody else couldn't remove what is in it.
trap 'chmod -R u+w "$work" && rm -r "$work"' EXIT

# Storage of its own, so that no layer of an earlier build is taken for one of this. Nothing is pulled and nothing runs inside, so
# that chroot and vfs, which ask nothing of the machine, cost nothing.
storage=(buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs)
made=()
for architecture in "${architectures[@]}"; do
  # As images name them.
  case "$architecture" in
    x86_64) platform=amd64 ;;
    aarch64) platform=arm64 ;;
    *) echo "deploy/image.sh: no image is made for $architecture" >&2 && exit 1 ;;
  esac
  deploy/build.sh "$work/$platform/$package" "$architecture"
  "${storage[@]}" build --quiet --isolation chroot --pull-never --timestamp "$time" --file "$dockerfile" --platform "linux/$platform" \
    --build-context "builder=$work/$platform" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" "$@" \
    --tag "localhost/$package:$platform" "$work/$platform" >/dev/null
  "${storage[@]}" push --quiet "localhost/$package:$platform" "oci-archive:$work/$platform.tar"
  SYFT_CHECK_FOR_APP_UPDATE=false "$syft" scan --quiet --source-name "$package" --output "cyclonedx-json=$work/$package.$platform.cdx.json" \
    "oci-archive:$work/$platform.tar"
  made+=("$work/$platform.tar")
done
digest=$(python3 deploy/archive.py "$package:$version" "$work/$package.oci.tar" "${made[@]}")
# Only once all is there: an SBOM beside another image would lie.
mkdir -p "$directory"
mv "$work/$package.oci.tar" "$work/$package".*.cdx.json "$directory/"

printf '%s: %d bytes\n' "$directory/$package.oci.tar" "$(stat --format=%s "$directory/$package.oci.tar")"
for architecture in "${architectures[@]}"; do
  platform=${architecture/x86_64/amd64}
  printf '%s: %d bytes unpacked\n' "$architecture" "$(stat --format=%s "$work/${platform/aarch64/arm64}/$package")"
done
echo "$digest"
