#!/usr/bin/env bash
# [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=…] \
#     bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# GPUS is their number on all machines together. Without GPUs: SRUN_ARGS=--gres=none, and GPUS is that of processes.
set -euo pipefail

tool=test.py before_last=
after=''
here=$(dirname "$(readlink -f "$0")")
source "$here/slurm.sh"
