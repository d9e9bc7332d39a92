# What the scripts beside it share, to be sourced: Debian's packages, unpacked once beside the tools of .ci/run. Must never
# install anything but the compiler where there is none, nor keep what is half made.
# shellcheck shell=bash
TOOLS=${TOKEN_BROKER_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/token-broker-tools}
# shellcheck disable=SC2034 # for generate.sh
DEBIAN_PROTOC=(protobuf-compiler libprotobuf-dev libprotobuf32 libprotoc32 protoc-gen-go protoc-gen-go-grpc)

# once NAME KEY COMMAND…: the directory that the command fills, which it is given as its last argument; made once for this key.
once() {
  local directory made
  directory=$TOOLS/client-go-$1-$(printf '%s' "$2" | sha256sum | cut -c 1-16)
  if [ ! -e "$directory" ]; then
    mkdir -p "$TOOLS"
    made=$(mktemp -d "$TOOLS/making.XXXXXX")
    "${@:3}" "$made" >&2 || { rm -rf "$made"; return 1; }
    chmod 755 "$made"
    mv -T "$made" "$directory" 2>/dev/null || rm -rf "$made" # somebody else was first
  fi
  echo "$directory"
}

unpack() { # PACKAGE… DIRECTORY
  local directory=${*: -1} fetched package
  fetched=$directory/fetched
  mkdir "$fetched"
  (cd "$fetched" && apt-get download -qq -o APT::Sandbox::User=root "${@:1:$#-1}") || {
    apt-get update -qq
    (cd "$fetched" && apt-get download -qq -o APT::Sandbox::User=root "${@:1:$#-1}")
  } || return 1
  for package in "$fetched"/*.deb; do
    dpkg-deb --extract "$package" "$directory" || return 1
  done
  rm -rf "$fetched"
}

# debian_root NAME PACKAGE…: the directory that these are unpacked in.
debian_root() { once "$1" "${*:2}" unpack "${@:2}"; }

have_go() {
  command -v go > /dev/null && return 0
  apt-get install -y -qq golang-go > /dev/null || { apt-get update -qq && apt-get install -y -qq golang-go > /dev/null; }
}

lay_out_modules() { # PROGRAM DIRECTORY
  go run "$1" "$2" > /dev/null || { apt-get update -qq && go run "$1" "$2" > /dev/null; }
}

# use_debian_modules HERE: has go find the modules that this one needs among Debian's packages. Set TOKEN_BROKER_GO_MODULES=proxy
# to have the real ones.
use_debian_modules() {
  local directory
  [ "${TOKEN_BROKER_GO_MODULES:-debian}" = debian ] || return 0
  directory=$(once modules "$(cat "$1/go.mod" "$1/debian-modules/main.go")" lay_out_modules "$1/debian-modules/main.go")
  eval "$(go run "$1/debian-modules/main.go" "$directory")"
  export GOCACHE=$directory/built
}
