#!/usr/bin/env bash
# bash tools/dist_predict.sh CONFIG CHECKPOINT N_GPUS INPUTS... --out DIR [options of tools/predict.py]
# Several machines, and processes without CUDA: as tools/dist_test.sh. A folder named 2024 is ./2024.
set -euo pipefail

tool=predict.py before_gpus=2 least=4
here=$(dirname "$(readlink -f "$0")")
source "$here/torchrun.sh"
