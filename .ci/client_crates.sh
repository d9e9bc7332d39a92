#!/usr/bin/env bash
# Counts the crates that token-broker-client brings to whoever builds it, itself included; fails where there are more than MAX, or one
# that only the broker has a use for.
set -euo pipefail
cd "$(dirname "$0")/.."

# What tonic with TLS takes is most of it; a caller who has tonic already builds a handful.
max=90

crates=$(cargo tree --locked --package token-broker-client --edges normal --prefix none | cut -d' ' -f1,2 | sort -u)
count=$(wc -l <<<"$crates")
echo "token-broker-client: $count crates, of $max at most"
[ "$count" -le "$max" ]
if grep -E '^(axum|clap|moka|redis|reqwest|serde_json|tracing-subscriber|token-broker) ' <<<"$crates"; then
  echo "These are for the broker alone." >&2
  exit 1
fi
