#!/usr/bin/env bash
# Packs the programs for who tests against them: `deploy/programs.sh DIRECTORY` writes token-broker-programs-VERSION-ARCH.tar.gz there, with the
# broker and the sandbox vault, both static. The same source and compilers give the same bytes.
#
# Needs what deploy/build.sh needs. ARCHITECTURE is x86_64 or aarch64, by default that of this machine.
set -euo pipefail
directory=$(realpath -m "${1:?usage: deploy/programs.sh DIRECTORY}")
cd "$(dirname "$0")/.."
architecture=${ARCHITECTURE:-$(uname -m)}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
name=token-broker-programs-$version-$architecture

staged=$(mktemp -d)
trap 'rm -rf "$staged"' EXIT
for package in token-broker token-broker-sandbox; do
  PACKAGE=$package deploy/build.sh "$staged/$name/$package" "$architecture"
done
cp LICENSE-* "$staged/$name"
mkdir -p "$directory"
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=u+w -C "$staged" -cf - "$name" | gzip -n >"$directory/$name.tar.gz"
echo "$directory/$name.tar.gz"
