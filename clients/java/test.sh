#!/usr/bin/env bash
# The client's own tests, with Debian's packages alone.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=debian.sh
. "$here/debian.sh"
debian_need "${debian_build_packages[@]}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$here/pom.xml" "$here/src" "$work"
cd "$work"
debian_native target/native
debian_maven test
