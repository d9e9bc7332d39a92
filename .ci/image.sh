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
  install_musl_target "$(uname -m)"
  install_cargo_auditable
}

# What it takes to build for arm64 on another machine, and to run what was built.
install_arm64_tools() {
  have aarch64-linux-gnu-gcc || apt_install gcc-aarch64-linux-gnu
  have qemu-aarch64-static || apt_install qemu-user-static
  if [ ! -d /usr/include/aarch64-linux-musl ]; then
    # The headers of a foreign architecture come from its own packages.
    sources_for_arm64 /etc/apt/sources.list.d
    as_root dpkg --add-architecture arm64
    as_root apt-get update -qq
    apt_install musl-dev:arm64
  fi
  install_musl_target aarch64
}

# sources_for_arm64 DIRECTORY: Debian's servers have all architectures. Of Ubuntu's some have amd64 and others arm64, and apt-get fails
# where it looks for one on the others.
sources_for_arm64() {
  if [ ! -e "$1/ubuntu.sources" ] || [ -e "$1/ubuntu-arm64.sources" ]; then return; fi
  local codename
  codename=$(sed -n 's/^Suites: *\([a-z]*\).*/\1/p' "$1/ubuntu.sources" | head -n 1)
  as_root sed -i "/^Architectures:/d; s/^Types:.*/&\nArchitectures: $(dpkg --print-architecture)/" "$1/ubuntu.sources"
  as_root tee "$1/ubuntu-arm64.sources" >/dev/null <<END
Types: deb
URIs: http://ports.ubuntu.com/ubuntu-ports
Suites: $codename $codename-updates $codename-security
Components: main universe
Architectures: arm64
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
END
}

install_musl_target() {
  local target="$1-unknown-linux-musl"
  [ -d "$(rustc --print target-libdir --target "$target")" ] || rustup target add "$target"
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
  local target_dir made again
  target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
  made="$target_dir/image" again="$target_dir/image-again"
  local dockerfile directory
  for dockerfile in deploy/Dockerfile sandbox/Dockerfile; do
    grep -q "cargo-auditable@$cargo_auditable_version\$" "$dockerfile" ||
      { echo "$dockerfile has another cargo-auditable than $cargo_auditable_version" && return 1; }
  done
  for directory in "$made" "$again"; do
    SYFT="${venv:?}/bin/syft" PATH="$cargo_auditable:$PATH" deploy/image.sh "$directory" | tee "$target_dir/$(basename "$directory").txt"
  done
  [ "$(tail -n 1 "$made.txt")" = "$(tail -n 1 "$again.txt")" ] || { echo 'Two builds, two digests.' && return 1; }
  rm -r "$again" "$again.txt"

  look_into "$made" "$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')"
}

# look_into DIRECTORY ARCHITECTURE [OPTION…]: what image.sh made there is run.
look_into() {
  local target_dir
  target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
  as_root "$venv/bin/python" tests/image/run.py --image "$1/token-broker.oci.tar" --sbom "$1/token-broker.$2.cdx.json" \
    --architecture "$2" --sandbox "$target_dir/debug/token-broker-sandbox" \
    --not-in-it "$PWD" --not-in-it "$target_dir" --not-in-it "${CARGO_HOME:-$HOME/.cargo}" "${@:3}"
}

# As it is released: for both architectures, in one archive; the other one's runs in an emulator. Takes as long again as `image`, and so is
# no part of every run.
image_for_all() {
  local made
  made=$(realpath -m "${CARGO_TARGET_DIR:-target}")/image-for-all
  ARCHITECTURES="x86_64 aarch64" SYFT="${venv:?}/bin/syft" PATH="$cargo_auditable:$PATH" deploy/image.sh "$made"
  look_into "$made" amd64
  look_into "$made" arm64 --emulator "$(command -v qemu-aarch64-static)"
}

# programs ARCHITECTURE…: packs the programs for callers' tests, and the packages, into one directory, as they are released. Those for this
# machine are unpacked and tried: the sandbox starts the broker, which gives a token.
programs() {
  local made unpacked architecture package
  made=$(realpath -m "${CARGO_TARGET_DIR:-target}/for-callers")
  rm -rf "$made"
  for architecture in "$@"; do
    ARCHITECTURE=$architecture PATH="$cargo_auditable:$PATH" deploy/programs.sh "$made"
  done
  for package in python node go java; do bash "clients/$package/build.sh" "$made"; done
  ls -l "$made"
  unpacked=$(mktemp -d)
  tar -xzf "$made"/token-broker-programs-*-"$(uname -m)".tar.gz -C "$unpacked" --strip-components 1
  python3 - "$unpacked" <<'PYTHON'
import json, subprocess, sys

programs = sys.argv[1]
command = [f"{programs}/token-broker-sandbox", "--listen", "127.0.0.1:0", "--broker", f"{programs}/token-broker"]
with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sandbox:
    told = json.loads(sandbox.stdout.readline())
    get = [f"{programs}/token-broker", "get", "--endpoint", told["endpoint"], "--merchant-id", told["merchant_id"]]
    got = subprocess.run([*get, "--number", told["numbers"][0]], stdout=subprocess.PIPE, text=True, check=True)
    print("a token of the packed programs:", json.loads(got.stdout)["token_id"])
PYTHON
  rm -r "$unpacked"
}
