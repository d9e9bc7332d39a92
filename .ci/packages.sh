# Sourced by the recipe `packages`: the packages of clients/, each by its own scripts, which bring what they need.
# shellcheck shell=bash

# packages BUILT: their tests, with the programs that are in BUILT, and whether committed stubs are what proto/ makes.
packages() {
  local package failed=()
  local built
  built=$(realpath "$1")
  export TOKEN_BROKER_PROGRAM="$built/token-broker" TOKEN_BROKER_SANDBOX_PROGRAM="$built/token-broker-sandbox"
  for package in python node go java; do
    printf '%s\n' "-- clients/$package"
    bash "clients/$package/generate.sh" --check || failed+=("$package: generated code")
    bash "clients/$package/test.sh" || failed+=("$package: tests")
  done
  [ "${#failed[@]}" -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}" >&2 && return 1; }
}
