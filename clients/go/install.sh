#!/usr/bin/env bash
# Installs the package file of OUT in the empty directory EMPTY: install.sh OUT EMPTY. Leaves EMPTY/adapter, the conformance
# adapter over the installed package. Must never take the package's own sources from anywhere but the file.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=tools.sh
. "$here/tools.sh"
module=example.org/token-broker/clients/go
have_go
packed=("$1"/token-broker-go-*.tar.gz)
if [ "${#packed[@]}" != 1 ] || [ ! -e "${packed[0]}" ]; then
  echo "$1 has no package file, or several: run build.sh" >&2
  exit 1
fi
tar xzf "${packed[0]}" -C "$2"
cd "$2"
name=$(basename "${packed[0]}" .tar.gz)
use_debian_modules "$here"
mkdir application
cp "$here"/conformance/*.go application
cd application
go mod init example.org/adapter 2> /dev/null
go mod edit "-require=$module@v${name##*-}" "-replace=$module=../$name"
go mod tidy
go build -o ../adapter .
