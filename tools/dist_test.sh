#!/usr/bin/env bash
# bash tools/dist_test.sh CONFIG CHECKPOINT N_GPUS [PORT] [options of tools/test.py]
# PORT (also as a variable) is for several machines; one machine takes a free one by itself.
# Several machines: on each of them NNODES=… NODE_RANK=… MASTER_ADDR=… before the same command.
# Without CUDA it runs N_GPUS processes on the CPU.
set -euo pipefail

tool=test.py before_gpus=2 least=3
here=$(dirname "$(readlink -f "$0")")
source "$here/torchrun.sh"
