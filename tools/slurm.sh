# Sourced by slurm_train.sh and slurm_test.sh: runs $tool of this folder in a Slurm job. "$@" are partition, name of the
# job, two arguments of the tool, with $before_last before the second, and options of the tool.

if [ $# -lt 4 ]; then
    sed -n '2,/^set/s/^# //p' "$0" >&2
    exit 2
fi
partition=$1
job_name=$2
program=("$tool" "$3" ${before_last:+"$before_last"} "$4")
shift 4
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
read -r -a srun_args <<<"${SRUN_ARGS:-}"
python=$here/../.venv/bin/python
# An active environment comes first.
[ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$python" ] || python=python
export PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH}
# Jobs on one machine need different ports.
export MASTER_PORT=${MASTER_PORT:-$((20000 + RANDOM % 10000))}

status=0
srun -p "$partition" --job-name="$job_name" --gres=gpu:"$gpus_per_node" --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 "${srun_args[@]}" \
    "$python" -u "$here/${program[0]}" "${program[@]:1}" --launcher slurm "$@" || status=$?
if [ "$status" -eq 75 ]; then
    echo 'mmoid: ended by SIGTERM after a checkpoint (status 75); --resume resumes from it' >&2
elif [ "$status" -ne 0 ]; then
    echo "mmoid: srun ended with status $status; see above which rank failed$after" >&2
fi
exit "$status"
