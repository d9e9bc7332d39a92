#!/usr/bin/env bash
# Generates the Java of the contract's messages and of the two small files in proto/. With --check: only says whether what is
# committed is what would be generated.
#
# Must never be needed by users: its output is committed and is part of the jar.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
contract="$here/../../proto"
committed="$here/src/generated/java"
# shellcheck source-path=SCRIPTDIR source=debian.sh
. "$here/debian.sh"
debian_need "${debian_generate_packages[@]}"

generate() {
  local out=$1
  local java=(protoc --java_out="$out" --grpc-java_out="$out" --plugin=protoc-gen-grpc-java=/usr/bin/grpc_java_plugin)
  "${java[@]}" -I"$contract" "$contract/tokenbroker/v1/token_broker.proto"
  "${java[@]}" -I"$here/proto" "$here/proto/google/rpc/error_details.proto" "$here/proto/grpc/health/v1/health.proto"
  # An annotation that no JDK has had since 11, and that nothing reads.
  find "$out" -name '*Grpc.java' -exec sed -i '/^@javax.annotation.Generated(/,/^    comments/d' {} +
}

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
generate "$fresh"
if [ "${1:-}" = --check ]; then
  if ! diff -rq "$fresh" "$committed"; then
    echo "src/generated/java is not what proto/ gives: run clients/java/generate.sh and commit what it writes" >&2
    exit 1
  fi
else
  rm -rf "$committed"
  mkdir -p "$committed"
  cp -R "$fresh/." "$committed"
fi
