# What build.sh, install.sh and test.sh share: Node and npm, and npm's packages in the versions of package-lock.json, fetched
# once.
#
# Must never install anything but Debian's packages of programs that are missing, nor fetch what package-lock.json doesn't name.
# shellcheck shell=bash

debian() {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# A program whose package has its name.
need() {
  command -v "$1" >/dev/null || debian "$1"
}

need_node() {
  if command -v node >/dev/null && command -v npm >/dev/null; then return; fi
  debian nodejs npm ca-certificates
}

# Installs into the current directory what its own lock file names; a second time from the cache, without network. The argument is
# the package's lock file, whose versions the cache is for.
locked_packages() {
  local tools hash
  tools=${TOKEN_BROKER_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/token-broker-tools}
  hash=$(sha256sum "$1" | cut -c1-16)
  npm ci --cache "$tools/client-node-$hash" --prefer-offline --ignore-scripts --no-audit --no-fund --no-update-notifier --silent
}
