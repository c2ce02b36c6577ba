#!/usr/bin/env bash
# bash tools/quickstart.sh
# Sets up, makes a data set, trains the paper's way in two stages, tests, shows what came out. Ten minutes on two cores
# after set-up. Running it again goes on where it was, and repeats nothing that is done.
set -euo pipefail
root=$(dirname "$(dirname "$(readlink -f "$0")")")
bash "$root/tools/setup_env.sh"
cd "$root"
exec .venv/bin/python tools/quickstart.py "$@"
