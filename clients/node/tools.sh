# What build.sh, install.sh and test.sh share: Node and npm, and npm's packages in the versions of package-lock.json, fetched
# once.
#
# Must never install anything but Debian's nodejs and npm where they are missing, nor fetch what package-lock.json doesn't name.
# shellcheck shell=bash

need_node() {
  if command -v node >/dev/null && command -v npm >/dev/null; then return; fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm ca-certificates >/dev/null
}

# Installs into the current directory what its own lock file names; a second time from the cache, without network. The argument is
# the package's lock file, whose versions the cache is for.
locked_packages() {
  local tools hash
  tools=${TOKEN_BROKER_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/token-broker-tools}
  hash=$(sha256sum "$1" | cut -c1-16)
  npm ci --cache "$tools/client-node-$hash" --prefer-offline --ignore-scripts --no-audit --no-fund --no-update-notifier --silent
}
