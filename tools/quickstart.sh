#!/usr/bin/env bash
# bash tools/quickstart.sh
# Sets up the environment, makes a data set, trains, finds the classes that annotators mix up, tests, and draws figures.
# Run it again to resume; finished steps are skipped.
set -euo pipefail
root=$(dirname "$(dirname "$(readlink -f "$0")")")
bash "$root/tools/setup_env.sh"
cd "$root"
source .venv/bin/activate # the scripts that it starts take the active environment, which may be another
exec python tools/quickstart.py "$@"
