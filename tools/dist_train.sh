#!/usr/bin/env bash
# bash tools/dist_train.sh CONFIG N_GPUS [PORT] [options of tools/train.py]
# PORT (also as a variable) is for several machines; one machine takes a free one by itself.
# Several machines: on each of them NNODES=… NODE_RANK=… MASTER_ADDR=… before the same command.
# Without CUDA it runs N_GPUS processes on the CPU.
set -euo pipefail

tool=train.py before_gpus=1 least=2
here=$(dirname "$(readlink -f "$0")")
source "$here/torchrun.sh"
