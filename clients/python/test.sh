#!/usr/bin/env bash
# The package's own tests, over its source tree: `test.sh [PYTEST'S ARGUMENTS]`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=environment.sh
source environment.sh
need_python
environment test requirements/test.txt
PYTHONDONTWRITEBYTECODE=1 exec "$environment/bin/python" -m pytest -p no:cacheprovider "$@"
