#!/usr/bin/env bash
# Makes the package file: build.sh OUT has OUT/token-broker-go-VERSION.tar.gz, the module's sources and its stubs. Must never pack
# what is not in the module as a module proxy would serve it, but for the conformance adapter and the scripts.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$(sed -n 's/^const Version = "\(.*\)"$/\1/p' "$here/version.go")
[ -n "$version" ] || { echo "version.go names no version" >&2; exit 1; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
name=token-broker-go-$version
staged=$(mktemp -d)
trap 'rm -rf "$staged"' EXIT
mkdir "$staged/$name"
cp "$here"/*.go "$here/go.mod" "$here/README.md" "$here"/../../LICENSE-* "$staged/$name"
cp -r "$here/tokenbrokerv1" "$here/tokenbrokertest" "$here/debian-modules" "$staged/$name"
# The same bytes for the same sources.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$staged" -cf - "$name" | gzip -n > "$out/$name.tar.gz"
echo "$out/$name.tar.gz"
