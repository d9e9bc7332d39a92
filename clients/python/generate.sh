#!/usr/bin/env bash
# Writes the stubs of the contract, which are committed so that callers need no protoc: `generate.sh`; `generate.sh --check` fails
# where the committed ones are not what it would write.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=environment.sh
source environment.sh
need_python
environment generate requirements/generate.txt

package=src/token_broker_client/_proto
contract=tokenbroker/v1/token_broker.proto
written=$(mktemp -d)
trap 'rm -rf "$written"' EXIT
"$environment/bin/python" -m grpc_tools.protoc -I../../proto --python_out="$written" --pyi_out="$written" "$contract"

fault=
for stub in token_broker_pb2.py token_broker_pb2.pyi; do
  if [ "${1:-}" != --check ]; then
    cp "$written/tokenbroker/v1/$stub" "$package/$stub"
  elif ! diff -u "$package/$stub" "$written/tokenbroker/v1/$stub"; then
    echo "$package/$stub is not what proto/$contract says: run clients/python/generate.sh" >&2
    fault=yes
  fi
done
[ -z "$fault" ]
