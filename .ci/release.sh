#!/usr/bin/env bash
# What the release workflow does with image and chart, so that it can be tried without it, after `just image-for-all` and logging in to
# the registry: `bash .ci/release.sh push IMAGE CHARTS`, and once the image is signed `bash .ci/release.sh name IMAGE CHARTS`, such as
# `… ghcr.io/example/token-broker ghcr.io/example/charts`.
#
# `push` pushes the image's archive without a tag, and prints `image=sha256:…` and the digest of each architecture's image, one a line.
# `name` gives it its version, pushes the chart, whose values name that image by digest, and prints `chart=sha256:…`.
#
# A version that a registry has already is never replaced: both end with a fault before they change anything, unless what is there
# is the same, as when a release that failed halfway runs again. A registry on loopback is spoken to in plaintext.
set -euo pipefail
cd "$(dirname "$0")/.."
usage='usage: .ci/release.sh push|name IMAGE CHARTS'
command=${1:?$usage} image=${2:?$usage} charts=${3:?$usage}
case "$command" in push | name) ;; *) echo "$usage" >&2 && exit 2 ;; esac

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

plain_inspect=() plain_copy=() plain_helm=()
case "$image" in
  127.0.0.1:* | localhost:*) plain_inspect=(--tls-verify=false) plain_copy=(--dest-tls-verify=false) plain_helm=(--plain-http) ;;
esac

fail() {
  echo ".ci/release.sh: $*" >&2
  exit 1
}

# found NAME: prints the digest of what the registry has by that name, or nothing. Any other answer than that it has none is a fault.
found() {
  if skopeo inspect "${plain_inspect[@]}" --raw "docker://$1" >"$work/manifest" 2>"$work/said"; then
    printf 'sha256:%s' "$(sha256sum <"$work/manifest" | cut -d ' ' -f 1)"
  else
    grep -qE 'manifest unknown|name unknown' "$work/said" || fail "$(cat "$work/said")"
  fi
}

copy() {
  skopeo copy --quiet --all --preserve-digests "${plain_copy[@]}" "oci-archive:$made/token-broker.oci.tar" "docker://$1"
}

# The image's digest is that of its archive: registries keep the bytes.
python3 - "$made/token-broker.oci.tar" >"$work/digests" <<'PYTHON'
import json, sys, tarfile

with tarfile.open(sys.argv[1]) as archive:
    read = lambda name: json.load(archive.extractfile(name))
    (top,) = read("index.json")["manifests"]
    print(f"image={top['digest']}")
    for part in read("blobs/sha256/" + top["digest"].removeprefix("sha256:")).get("manifests", []):
        print(f"{part['platform']['architecture']}={part['digest']}")
PYTHON
digest=$(sed -n 's/^image=//p' "$work/digests")

# A copy, links resolved, in which the image is the one that is pushed.
cp -rL "$chart" "$work/token-broker"
sed -i -e "s|^  repository: token-broker\$|  repository: $image|" -e "s|^  digest: \"\"\$|  digest: $digest|" "$work/token-broker/values.yaml"
sed -i "s|^      image: token-broker:|      image: $image:|" "$work/token-broker/Chart.yaml"
"$helm" package "$work/token-broker" --destination "$work" >&2
"$helm" template token-broker "$work/token-broker-$version.tgz" --values "$chart/values-plain.yaml" --set "image.repository=$image" |
  grep -q "image: \"$image@$digest\"" || fail "the chart doesn't name the image by its digest"

image_there=$(found "$image:$version")
[ -z "$image_there" ] || [ "$image_there" = "$digest" ] || fail "$image:$version is there already, as $image_there, and stays what it is"
# A package holds the time at which it was made, so that the same chart has another digest each time: what is in it is compared.
chart_there=$(found "$charts/token-broker:$version")
if [ -n "$chart_there" ]; then
  mkdir "$work/there" "$work/ours"
  "$helm" pull "${plain_helm[@]}" "oci://$charts/token-broker" --version "$version" --untar --untardir "$work/there" >&2
  tar -xzf "$work/token-broker-$version.tgz" -C "$work/ours"
  diff -r "$work/there" "$work/ours" >&2 || fail "$charts/token-broker:$version is there already, is another, and stays what it is"
fi

if [ "$command" = push ]; then
  copy "$image@$digest"
  cat "$work/digests"
  exit
fi

copy "$image:$version"
if [ -n "$chart_there" ]; then
  echo "chart=$chart_there"
else
  "$helm" push "${plain_helm[@]}" "$work/token-broker-$version.tgz" "oci://$charts" >"$work/pushed" 2>&1 || fail "$(cat "$work/pushed")"
  sed -n 's/^Digest: /chart=/p' "$work/pushed"
fi
