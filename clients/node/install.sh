#!/usr/bin/env bash
# Installs the built package: install.sh OUT EMPTY takes it from the directory OUT, with its dependencies in the versions that
# were tried, into the empty directory EMPTY, and leaves EMPTY/adapter there, which starts the adapter of the conformance suite.
set -euo pipefail

project=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools.sh
source "$project/tools.sh"
if [ $# -ne 2 ]; then
  echo "usage: install.sh OUT EMPTY" >&2
  exit 2
fi
out=$(cd "$1" && pwd)
mkdir -p "$2"
empty=$(cd "$2" && pwd)
if [ -n "$(ls -A "$empty")" ]; then
  echo "install.sh: $empty is not empty: name another directory" >&2
  exit 2
fi

need_node
version=$(node -p "require('$project/package.json').version")
cp "$out/token-broker-client-$version.tgz" "$empty/"
cd "$empty"
node "$project/conformance/lock.cjs" "$project/package-lock.json" "token-broker-client-$version.tgz"
locked_packages "$project/package-lock.json"
cp "$project/conformance/adapter.js" adapter.mjs
cat >adapter <<'END'
#!/bin/sh
exec node "$(dirname "$0")/adapter.mjs"
END
chmod +x adapter
