#!/usr/bin/env bash
# Builds the wheel into a directory: `build.sh OUT`. The same sources make the same bytes.
set -euo pipefail
out=$(mkdir -p "${1:?build.sh OUT}" && cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=environment.sh
source environment.sh
need_python
environment build requirements/build.txt

# Any fixed day that zip can name.
export SOURCE_DATE_EPOCH=1704067200
"$environment/bin/pip" wheel --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --wheel-dir "$out" .
ls "$out"/token_broker_client-*-py3-none-any.whl
