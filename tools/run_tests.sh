#!/usr/bin/env bash
# bash tools/run_tests.sh [--stack onedl|openmmlab] [--venv FOLDER] [pytest arguments]
# Creates the environment and runs the tests in two processes. `-m slow` runs the slow tests, `-m ""` all.
set -euo pipefail
root=$(dirname "$(dirname "$(readlink -f "$0")")")
venv=$root/.venv
setup=()
while [[ ${1-} == --stack* || ${1-} == --venv* ]]; do
    [[ $1 == *=* ]] || set -- "$1=${2-}" "${@:3}"
    [[ $1 != --venv=?* ]] || venv=$(readlink -m -- "${1#--venv=}")
    setup+=("$1")
    shift
done
if [[ ${1-} == -h || ${1-} == --help ]]; then
    sed -n '2,3s/^# //p' "$0"
    exit 0
fi
bash "$root/tools/setup_env.sh" "${setup[@]}"
cd "$root"
# Tests start several processes at a time, so each gets one thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Each file runs in one process, in the order of tests/conftest.py.
source "$venv/bin/activate" # the scripts that are tested take the active environment
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
