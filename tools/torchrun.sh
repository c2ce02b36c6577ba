# Sourced by dist_train.sh and dist_test.sh: runs "${program[@]}" of this folder in $gpus processes.
# "$@" are its options, after a PORT if there is one.

if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    PORT=$1
    shift
fi
python=$here/../.venv/bin/python
[ -x "$python" ] || python=python
export PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH}

if [ "${NNODES:-1}" -gt 1 ]; then
    # Machine 0 at MASTER_ADDR:PORT; mmoid.torchrun ends all machines when one does.
    rendezvous=(--node_rank="${NODE_RANK:?NODE_RANK is needed with NNODES > 1}"
        --master_addr="${MASTER_ADDR:?MASTER_ADDR is needed with NNODES > 1}" --master_port="${PORT:-29500}")
elif [ -n "${PORT:-}" ]; then
    rendezvous=(--master_addr=127.0.0.1 --master_port="$PORT")
else
    rendezvous=(--standalone) # any free port: several runs fit on one machine
fi

exec "$python" -m mmoid.torchrun --nnodes="${NNODES:-1}" --nproc_per_node="$gpus" "${rendezvous[@]}" \
    "$here/${program[0]}" "${program[@]:1}" --launcher pytorch "$@"
