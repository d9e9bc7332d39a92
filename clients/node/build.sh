#!/usr/bin/env bash
# Builds the package: build.sh OUT puts token-broker-client-VERSION.tgz into the directory OUT.
set -euo pipefail

project=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools.sh
source "$project/tools.sh"
if [ $# -ne 1 ]; then
  echo "usage: build.sh OUT" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)

"$project/generate.sh" --check
need_node
cd "$project"
npm pack --silent --pack-destination "$out"
