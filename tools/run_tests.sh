#!/usr/bin/env bash
# bash tools/run_tests.sh [--stack onedl|openmmlab] [--venv FOLDER] [pytest arguments]
# Creates the environment and runs the tests in two processes. `-m slow` runs the slow tests, `-m ""` all.
set -euo pipefail
root=$(dirname "$(dirname "$(readlink -f "$0")")")
venv=$root/.venv
setup=()
while [[ ${1-} == --stack || ${1-} == --venv ]]; do
    (($# > 1)) || { echo "run_tests.sh: $1 needs a value" >&2; exit 2; }
    [[ $1 == --stack ]] || venv=$(readlink -m -- "$2")
    setup+=("$1" "$2")
    shift 2
done
bash "$root/tools/setup_env.sh" "${setup[@]}"
cd "$root"
# Tests start several processes at a time, so each gets one thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Each file runs in one process, in the order of tests/conftest.py.
exec "$venv/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
