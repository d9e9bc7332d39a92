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
# Maven says how many were skipped, not why.
for variable in TOKEN_BROKER_SANDBOX_PROGRAM TOKEN_BROKER_PROGRAM; do
  [ -n "${!variable:-}" ] || echo "skipped: TestBrokerTest with the real programs, since $variable is not set"
done
