#!/usr/bin/env bash
# The package's own tests, over its source tree: `test.sh [PYTEST'S ARGUMENTS]`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=environment.sh
source environment.sh
need_python
if ! command -v openssl >/dev/null; then
  # Makes the certificates of the tests.
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openssl >/dev/null
fi
environment test requirements/test.txt
PYTHONDONTWRITEBYTECODE=1 exec "$environment/bin/python" -m pytest -p no:cacheprovider "$@"
