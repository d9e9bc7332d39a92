#!/usr/bin/env bash
# Writes the contract into the package; with --check says whether the one there is up to date.
#
# Must never change the contract: the package has it byte by byte.
set -euo pipefail

project=$(cd "$(dirname "$0")" && pwd)
contract=tokenbroker/v1/token_broker.proto
from=$project/../../proto/$contract
to=$project/protos/$contract

case ${1:-} in
  --check)
    if ! diff -u "$to" "$from"; then
      echo "clients/node/protos/$contract is not the contract of proto/: run clients/node/generate.sh" >&2
      exit 1
    fi
    ;;
  '') install -D -m 644 "$from" "$to" ;;
  *)
    echo "usage: generate.sh [--check]" >&2
    exit 2
    ;;
esac
