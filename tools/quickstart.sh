#!/usr/bin/env bash
# bash tools/quickstart.sh: sets up the environment and runs tools/quickstart.py. Run it again to resume.
set -euo pipefail
root=$(dirname "$(dirname "$(readlink -f "$0")")")
bash "$root/tools/setup_env.sh"
cd "$root"
source .venv/bin/activate # the scripts that it starts take the active environment, which may be another
exec python tools/quickstart.py "$@"
