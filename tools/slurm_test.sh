#!/usr/bin/env bash
# [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=…] \
#     bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# GPUS is their number on all machines together. Without GPUs: SRUN_ARGS=--gres=none, and GPUS is that of processes.
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
partition=$1
job_name=$2
program=(test.py "$3" "$4")
after=''
shift 4
here=$(dirname "$(readlink -f "$0")")
source "$here/slurm.sh"
