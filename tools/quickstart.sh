#!/usr/bin/env bash
# bash tools/quickstart.sh
# Sets up the environment, makes a data set, trains the paper's two stages, tests, and draws figures. About ten minutes on
# two cores after set-up. Run it again to resume; finished steps are skipped.
set -euo pipefail
root=$(dirname "$(dirname "$(readlink -f "$0")")")
bash "$root/tools/setup_env.sh"
cd "$root"
exec .venv/bin/python tools/quickstart.py "$@"
