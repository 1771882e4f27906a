#!/usr/bin/env bash
# The tests.   bash launch/test.sh [--slow] [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
select=(-m 'not slow')
if [ "${1:-}" = --slow ]; then select=(); shift; fi
exec python -m pytest -n 2 --dist worksteal ${select[@]+"${select[@]}"} "$@"
