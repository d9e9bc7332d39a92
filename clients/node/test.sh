#!/usr/bin/env bash
# The package's own tests: the contract in it, the types, and node's test runner.
set -euo pipefail

project=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools.sh
source "$project/tools.sh"

"$project/generate.sh" --check
need_node
cd "$project"
locked_packages "$project/package-lock.json"
node_modules/.bin/tsc --project test/types
node --test test/
