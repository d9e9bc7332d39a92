#!/usr/bin/env bash
# Makes the stubs in tokenbrokerv1 from the contract: generate.sh [--check]. With --check nothing is written, and it fails where
# they are not up to date. Must never ask for anything but Debian's packages.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=tools.sh
. "$here/tools.sh"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
contract=tokenbroker/v1/token_broker.proto
module=example.org/token-broker/clients/go
root=$(debian_root generate "${DEBIAN_PROTOC[@]}")
libraries=$(dirname "$(find "$root/usr/lib" -name 'libprotoc.so.32' | head -n 1)")
LD_LIBRARY_PATH=$libraries "$root/usr/bin/protoc" "-I$here/../../proto" "-I$root/usr/include" \
  "--plugin=$root/usr/bin/protoc-gen-go" "--plugin=$root/usr/bin/protoc-gen-go-grpc" \
  "--go_out=$made" "--go_opt=module=$module,M$contract=$module/tokenbrokerv1" \
  "--go-grpc_out=$made" "--go-grpc_opt=module=$module,M$contract=$module/tokenbrokerv1" \
  "$contract"
if [ "${1:-}" = --check ]; then
  if ! diff -r "$made/tokenbrokerv1" "$here/tokenbrokerv1"; then
    echo "the stubs are not the contract's: run clients/go/generate.sh" >&2
    exit 1
  fi
  echo "the stubs are up to date"
else
  rm -rf "$here/tokenbrokerv1"
  cp -r "$made/tokenbrokerv1" "$here/tokenbrokerv1"
fi
