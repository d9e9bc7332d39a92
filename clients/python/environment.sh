# Sourced by the scripts beside it: virtual environments of pinned packages, made once and found again.
#
# Must never leave half of one: a directory counts once it holds `complete`.
# shellcheck shell=bash

tools="${TOKEN_BROKER_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/token-broker-tools}"

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# A fresh Debian has neither Python nor its venv.
need_python() {
  if ! command -v python3 >/dev/null || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
  fi
}

# hash_of FILE…: of their contents and of the interpreter, which the packages are for.
hash_of() {
  { python3 -c 'import sys; print(sys.version, sys.platform)' && cat "$@"; } | sha256sum | cut -c1-16
}

# environment NAME REQUIREMENTS: leaves the directory of a virtual environment with these in $environment.
environment() {
  environment="$tools/python-client-$1-$(hash_of "$2")"
  if [ ! -e "$environment/complete" ]; then
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
    touch "$environment/complete"
  fi
}

# wheels REQUIREMENTS: leaves the directory with the wheels of these in $wheels.
wheels() {
  wheels="$tools/python-client-wheels-$(hash_of "$1")"
  if [ ! -e "$wheels/complete" ]; then
    rm -rf "$wheels"
    mkdir -p "$wheels"
    python3 -m venv "$wheels/venv"
    "$wheels/venv/bin/pip" download --quiet --disable-pip-version-check --only-binary :all: --dest "$wheels" --requirement "$1"
    rm -rf "$wheels/venv"
    touch "$wheels/complete"
  fi
}
