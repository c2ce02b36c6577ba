#!/usr/bin/env bash
# bash tools/dist_predict.sh CONFIG CHECKPOINT N_GPUS INPUTS... --out DIR [options of tools/predict.py]
# Several machines, and processes without CUDA: as tools/dist_test.sh. A folder named 2024 is ./2024.
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
program=(predict.py "$1" "$2")
gpus=$3
shift 3
here=$(dirname "$(readlink -f "$0")")
source "$here/torchrun.sh"
