#!/usr/bin/env bash
# bash tools/dist_train.sh CONFIG N_GPUS [PORT] [options of tools/train.py]
# PORT (also as a variable) is for several machines; one machine takes a free one by itself.
# Several machines: on each of them NNODES=… NODE_RANK=… MASTER_ADDR=… before the same command.
# Without CUDA it runs N_GPUS processes on the CPU.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    PORT=$1
    shift
fi
here=$(dirname "$(readlink -f "$0")")
python=$here/../.venv/bin/python
[ -x "$python" ] || python=python
export PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH}

if [ "${NNODES:-1}" -gt 1 ]; then
    rendezvous=(--node_rank="${NODE_RANK:?NODE_RANK is needed with NNODES > 1}"
        --master_addr="${MASTER_ADDR:?MASTER_ADDR is needed with NNODES > 1}" --master_port="${PORT:-29500}")
elif [ -n "${PORT:-}" ]; then
    rendezvous=(--master_addr=127.0.0.1 --master_port="$PORT")
else
    rendezvous=(--standalone) # any free port: several runs fit on one machine
fi

exec "$python" -m torch.distributed.run --nnodes="${NNODES:-1}" --nproc_per_node="$gpus" "${rendezvous[@]}" \
    "$here/train.py" "$config" --launcher pytorch "$@"
