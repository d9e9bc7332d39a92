#!/usr/bin/env bash
# Installs the wheel that build.sh left in OUT into a virtual environment in the empty directory EMPTY, with the conformance adapter
# over it: `install.sh OUT EMPTY` leaves EMPTY/adapter (threads) and EMPTY/adapter-aio (asyncio).
set -euo pipefail
out=$(cd "${1:?install.sh OUT EMPTY}" && pwd)
empty=$(mkdir -p "${2:?install.sh OUT EMPTY}" && cd "$2" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=environment.sh
source environment.sh
need_python
wheels requirements/runtime.txt

python3 -m venv "$empty/venv"
"$empty/venv/bin/pip" install --quiet --disable-pip-version-check --no-index --find-links "$wheels" \
  --constraint requirements/runtime.txt "$out"/token_broker_client-*-py3-none-any.whl
cp conformance/adapter.py "$empty"
for name in adapter adapter-aio; do
  # Isolated: nothing of a source tree gets in by the environment.
  printf '#!/bin/sh\nexec "%s/venv/bin/python" -I "%s/adapter.py"%s "$@"\n' \
    "$empty" "$empty" "$([ "$name" = adapter ] || echo ' --aio')" >"$empty/$name"
  chmod +x "$empty/$name"
done
