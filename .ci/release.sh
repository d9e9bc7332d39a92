#!/usr/bin/env bash
# What the release workflow does with image and chart, so that it can be tried without it: `bash .ci/release.sh IMAGE CHARTS`, such as
# `ghcr.io/example/token-broker ghcr.io/example/charts`, after `just image-for-all` and logging in to the registry.
#
# Pushes the image's archive under its version, then the chart, whose values name that image by digest. Prints `image=sha256:…`,
# `chart=sha256:…` and the digest of each architecture's image, one a line. A registry on loopback is spoken to in plaintext.
set -euo pipefail
cd "$(dirname "$0")/.."
image=$1 charts=$2

# shellcheck source=.ci/tools.sh
source .ci/tools.sh
# shellcheck source=.ci/chart.sh
source .ci/chart.sh
install_helm >&2
have skopeo || apt_install skopeo >&2

made=$(realpath "${MADE:-${CARGO_TARGET_DIR:-target}/image-for-all}")
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

plain_skopeo=() plain_helm=()
case "$image" in
  127.0.0.1:* | localhost:*) plain_skopeo=(--dest-tls-verify=false) plain_helm=(--plain-http) ;;
esac

skopeo copy --quiet --all "${plain_skopeo[@]}" --digestfile "$work/digest" "oci-archive:$made/token-broker.oci.tar" "docker://$image:$version"
digest=$(cat "$work/digest")
echo "image=$digest"
python3 - "$made/token-broker.oci.tar" <<'PYTHON'
import json, sys, tarfile

with tarfile.open(sys.argv[1]) as archive:
    read = lambda name: json.load(archive.extractfile(name))
    (top,) = read("index.json")["manifests"]
    for part in read("blobs/sha256/" + top["digest"].removeprefix("sha256:")).get("manifests", []):
        print(f"{part['platform']['architecture']}={part['digest']}")
PYTHON

# A copy, links resolved, in which the image is the one that was pushed.
cp -rL "$chart" "$work/token-broker"
sed -i -e "s|^  repository: token-broker\$|  repository: $image|" -e "s|^  digest: \"\"\$|  digest: $digest|" "$work/token-broker/values.yaml"
sed -i "s|^      image: token-broker:|      image: $image:|" "$work/token-broker/Chart.yaml"
"$helm" package "$work/token-broker" --destination "$work" >&2
"$helm" template token-broker "$work/token-broker-$version.tgz" --values "$chart/values-plain.yaml" --set "image.repository=$image" |
  grep -q "image: \"$image@$digest\"" || { echo ".ci/release.sh: the chart doesn't name the image by its digest" >&2 && exit 1; }
"$helm" push "${plain_helm[@]}" "$work/token-broker-$version.tgz" "oci://$charts" >"$work/pushed" 2>&1 || { cat "$work/pushed" >&2 && exit 1; }
sed -n 's/^Digest: /chart=/p' "$work/pushed"
