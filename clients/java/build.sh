#!/usr/bin/env bash
# Builds token-broker-client-VERSION.jar and its pom into the directory OUT, with Debian's packages alone: build.sh OUT
#
# Must never leave anything in OUT but what a user gets.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=debian.sh
. "$here/debian.sh"
mkdir -p "$1"
out=$(cd "$1" && pwd)

debian_need "${debian_build_packages[@]}"
# In a place of its own: two builds at once must not meet.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$here/pom.xml" "$here/src" "$work"
cd "$work"
debian_maven -q -DskipTests package
jar=(target/token-broker-client-*.jar)
cp "${jar[0]}" "$out"
cp pom.xml "$out/$(basename "${jar[0]}" .jar).pom"
