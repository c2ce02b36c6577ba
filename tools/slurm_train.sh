#!/usr/bin/env bash
# [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=…] \
#     bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
# GPUS is their number on all machines together. Without GPUs: SRUN_ARGS=--gres=none, and GPUS is that of processes.
set -euo pipefail

tool=train.py before_last=--work-dir
after='; --resume resumes from the newest checkpoint'
here=$(dirname "$(readlink -f "$0")")
source "$here/slurm.sh"
