#!/usr/bin/env bash
# Builds the broker as it goes into the image: `deploy/build.sh FILE [ARCHITECTURE]` writes the binary there. deploy/Dockerfile and
# deploy/image.sh both call it, so that one and the same thing is shipped and checked.
#
# Static, with musl; with traces, which then are a matter of configuration; with the list of its crates inside, for SBOMs and scanners. The
# same source, compilers and C headers give the same bytes, wherever the source, the target directory and cargo's home are.
#
# ARCHITECTURE is x86_64 or aarch64, by default that of this machine. Needs Rust's target <architecture>-unknown-linux-musl and cargo-auditable;
# for this machine's own Debian's musl-tools, for the other one gcc-<architecture>-linux-gnu and musl-dev of that architecture
# (`dpkg --add-architecture arm64`). PACKAGE builds another program of the workspace in the same way.
set -euo pipefail
output=$(realpath -m "$1")
cd "$(dirname "$0")/.."
package=${PACKAGE:-token-broker}

host=$(rustc -vV | sed -n 's/^host: \([^-]*\)-.*/\1/p')
architecture=${2:-$host}
target=$architecture-unknown-linux-musl
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR="$target_dir"

# aws-lc and mimalloc are C. rustc brings musl itself for linking; what is compiled needs its headers, in the place of glibc's.
if [ "$architecture" = "$host" ]; then
  export "CC_${target//-/_}=musl-gcc"
else
  cross=$architecture-linux-gnu-gcc headers=/usr/include/$architecture-linux-musl
  for needed in "$(command -v "$cross" || true)" "$headers"; do
    [ -e "$needed" ] || { echo "deploy/build.sh: $cross or $headers is missing (its head says what to install)" >&2 && exit 1; }
  done
  export "CC_${target//-/_}=$cross"
  # Outlined atomics would call libgcc, which isn't linked.
  flags="-nostdinc -isystem $("$cross" -print-file-name=include) -isystem $headers -mno-outline-atomics"
  export "CFLAGS_${target//-/_}=$flags"
  variable=CARGO_TARGET_${target//-/_}_LINKER
  export "${variable^^}=$cross"
fi

# mimalloc says when it was compiled. A constant, not the commit's time: cargo wouldn't compile C again for a new one, and then the
# bytes would depend on what was there already.
export SOURCE_DATE_EPOCH=0

# Panics name source files. Where a file has two names, the last one counts; the separator allows for spaces in paths.
remap=("$PWD=/source" "$target_dir=/target" "${CARGO_HOME:-$HOME/.cargo}=/cargo")
printf -v CARGO_ENCODED_RUSTFLAGS -- '--remap-path-prefix=%s\x1f' "${remap[@]}"
export CARGO_ENCODED_RUSTFLAGS="${CARGO_ENCODED_RUSTFLAGS%$'\x1f'}"

features=(--features traces)
[ "$package" = token-broker ] || features=()
cargo auditable build --release --locked --target "$target" --package "$package" --bin "$package" "${features[@]}"
install -D -m 0555 "$target_dir/$target/release/$package" "$output"
