#!/usr/bin/env bash
# Builds the broker as it goes into the image: `deploy/build.sh FILE` writes the binary there. deploy/Dockerfile and deploy/image.sh
# both call it, so that one and the same thing is shipped and checked.
#
# Static, with musl, for the architecture this runs on; with traces, which then are a matter of configuration; with the list of its
# crates inside, for SBOMs and scanners. The same source, compilers and C headers give the same bytes, wherever the source,
# the target directory and cargo's home are. Needs Rust's target <arch>-unknown-linux-musl, Debian's musl-tools, and cargo-auditable.
set -euo pipefail
output=$(realpath -m "$1")
cd "$(dirname "$0")/.."

target=$(rustc -vV | sed -n 's/^host: \([^-]*\)-.*/\1/p')-unknown-linux-musl
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR="$target_dir"

# aws-lc and mimalloc are C.
export "CC_${target//-/_}=musl-gcc"

# mimalloc says when it was compiled. A constant, not the commit's time: cargo wouldn't compile C again for a new one, and then the
# bytes would depend on what was there already.
export SOURCE_DATE_EPOCH=0

# Panics name source files. Where a file has two names, the last one counts; the separator allows for spaces in paths.
remap=("$PWD=/source" "$target_dir=/target" "${CARGO_HOME:-$HOME/.cargo}=/cargo")
printf -v CARGO_ENCODED_RUSTFLAGS -- '--remap-path-prefix=%s\x1f' "${remap[@]}"
export CARGO_ENCODED_RUSTFLAGS="${CARGO_ENCODED_RUSTFLAGS%$'\x1f'}"

cargo auditable build --release --locked --target "$target" --bin token-broker --features traces
install -D -m 0555 "$target_dir/$target/release/token-broker" "$output"
