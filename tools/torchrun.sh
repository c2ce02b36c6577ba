# Sourced by dist_train.sh, dist_test.sh and dist_predict.sh: runs $tool of this folder in several processes. "$@" has at
# least $least arguments: $before_gpus of the tool, the number of processes, a PORT if there is one, options of the tool.

if [ $# -lt "$least" ]; then
    sed -n '2,/^set/s/^# //p' "$0" >&2
    exit 2
fi
program=("$tool" "${@:1:before_gpus}")
shift "$before_gpus"
gpus=$1
shift
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    PORT=$1
    shift
fi
python=$here/../.venv/bin/python
# An active environment comes first.
[ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$python" ] || python=python
export PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH}

nodes=${NNODES:-1}
if [ "$nodes" -gt 1 ]; then
    : "${NODE_RANK:?is needed with NNODES > 1}" "${MASTER_ADDR:?is needed with NNODES > 1}"
fi
if [ "$nodes" -gt 1 ] || [ -n "${PORT:-}" ]; then
    # The launchers meet at MASTER_ADDR, on the machine whose NODE_RANK is 0.
    rendezvous=(--rdzv_backend=c10d --rdzv_endpoint="${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}"
        --rdzv_id="$(basename "${program[1]}")" --rdzv_conf=is_host=$((${NODE_RANK:-0} == 0))
        ${LOCAL_ADDR:+--local_addr="$LOCAL_ADDR"})
else
    rendezvous=(--standalone) # a free port, so several runs fit on one machine
fi

# torchrun sets this too, but with a warning.
[ "$gpus" = 1 ] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

exec "$python" "$here/torchrun.py" --nnodes="$nodes" --nproc_per_node="$gpus" "${rendezvous[@]}" \
    "$here/${program[0]}" "${program[@]:1}" --launcher pytorch "$@"
