# Sourced by the recipes of the justfile, after tools.sh: the image is made by deploy/image.sh, twice, and what is in it runs in an empty
# root. `image` comes after the build of the tests, which has the sandbox vault in it.
# shellcheck shell=bash

# The same as in deploy/Dockerfile.
cargo_auditable_version=0.7.7

install_image_tools() {
  have musl-gcc || apt_install musl-tools
  have buildah || apt_install buildah
  have openssl || apt_install openssl
  have readelf || apt_install binutils
  local target
  target=$(rustc -vV | sed -n 's/^host: \([^-]*\)-.*/\1/p')-unknown-linux-musl
  [ -d "$(rustc --print target-libdir --target "$target")" ] || rustup target add "$target"
  install_cargo_auditable
}

install_cargo_auditable() {
  local root="${tools:?}/cargo-auditable-$cargo_auditable_version"
  cargo_auditable="$root/bin"
  if [ ! -x "$cargo_auditable/cargo-auditable" ]; then
    # As with cargo-deny: it runs for a moment, so it isn't worth making fast.
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
      CARGO_TARGET_DIR="$root/build" cargo install --quiet --locked --root "$root" "cargo-auditable@$cargo_auditable_version"
    rm -rf "$root/build"
  fi
}

# What is shipped, not something like it: the release profile with all of its optimisation. The binary is built once, since that
# takes minutes, and the image twice from it. That the binary has the same bytes wherever it is built was shown by hand; that
# it names no path of the machine, which is what would break it, is looked at here.
image() {
  local target_dir made again binaries
  target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
  made="$target_dir/image" again="$target_dir/image-again" binaries="$target_dir/debug"
  grep -q "cargo-auditable@$cargo_auditable_version\$" deploy/Dockerfile ||
    { echo "deploy/Dockerfile has another cargo-auditable than $cargo_auditable_version" && return 1; }
  local directory
  for directory in "$made" "$again"; do
    SYFT="${venv:?}/bin/syft" PATH="$cargo_auditable:$PATH" deploy/image.sh "$directory" | tee "$target_dir/$(basename "$directory").txt"
  done
  [ "$(tail -n 1 "$made.txt")" = "$(tail -n 1 "$again.txt")" ] || { echo 'Two builds, two digests.' && return 1; }
  rm -r "$again" "$again.txt"

  as_root "$venv/bin/python" tests/image/run.py --image "$made/token-broker.oci.tar" --sbom "$made/token-broker.cdx.json" \
    --sandbox "$binaries/token-broker-sandbox" \
    --not-in-it "$PWD" --not-in-it "$target_dir" --not-in-it "${CARGO_HOME:-$HOME/.cargo}"
}
