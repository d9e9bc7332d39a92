#!/usr/bin/env bash
# The package's own tests, and that its code is formatted and vetted. Must never write in the sources: go does in a copy.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=tools.sh
. "$here/tools.sh"
have_go
use_debian_modules "$here"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$here/." "$copy"
cd "$copy"
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { printf 'not formatted, run gofmt -w:\n%s\n' "$unformatted" >&2; exit 1; }
go mod tidy
diff "$here/go.mod" go.mod || { echo "go.mod is not what go mod tidy makes of it" >&2; exit 1; }
go vet ./...
# The race detector is C.
case " $* " in *" -race "*) export CGO_ENABLED=1 ;; esac
go test "$@" ./...
# go tells of what was skipped with -v alone.
for variable in TOKEN_BROKER_SANDBOX_PROGRAM TOKEN_BROKER_PROGRAM; do
  [ -n "${!variable:-}" ] || echo "skipped: tokenbrokertest with the real programs, since $variable is not set"
done
