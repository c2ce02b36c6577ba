#!/usr/bin/env bash
# bash tools/run_tests.sh [pytest arguments]
# Sets up, then runs the tests; `-m slow` for the long ones, `-m ""` for all.
set -euo pipefail
root=$(dirname "$(dirname "$(readlink -f "$0")")")
bash "$root/tools/setup_env.sh"
cd "$root"
# Tests start several processes at a time: one thread each, or they fight for the cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec .venv/bin/python -m pytest "$@"
