#!/usr/bin/env bash
# One version of Rust, wherever it is named: what `rust-version` promises is what the checks were built with.
#
# Fails where a file names another. Where the compiler at hand is another, it only says so, since a developer may well have a newer one.
# With --install, gets that version by rustup instead, and prints the variable that makes cargo take it.
set -euo pipefail
cd "$(dirname "$0")/.."
promised=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)

if [ "${1:-}" = --install ]; then
  rustup toolchain install "$promised" --profile minimal --component clippy,rustfmt >&2
  echo "RUSTUP_TOOLCHAIN=$promised"
  exit
fi

status=0
# expect FILE PATTERN
expect() {
  if ! grep -q -e "$2" "$1"; then
    printf '%s does not name Rust %s, which Cargo.toml does\n' "$1" "$promised" >&2
    status=1
  fi
}
expect benches/echo/Cargo.toml "^rust-version = \"$promised\"\$"
expect README.md "^Rust $promised or later"
expect CONTRIBUTING.md "Rust $promised (by rustup)"
expect deploy/Dockerfile "^FROM rust:$promised\.[0-9]*-"
expect sandbox/Dockerfile "^FROM rust:$promised\.[0-9]*-"

compiler=$(rustc --version | cut -d' ' -f2)
case "$compiler" in
  "$promised".*) ;;
  *) printf 'Checked with Rust %s, so nothing here shows that %s will do.\n' "$compiler" "$promised" ;;
esac
exit "$status"
