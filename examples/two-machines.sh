#!/bin/sh
# One run on two machines with the same files: start this on both, with the first one's address.
#
#     examples/two-machines.sh 10.0.0.1 SPEC URI RUN
#
# RUN must be a folder that both see. torchrun starts a worker for each GPU (on machines without
# GPUs: one a machine) and starts all of them again, up to three times, when one is lost; they go on
# from the last checkpoint. The batch in the spec is divided among all workers. PORT is where the two
# find each other on the first machine; default: 29400. A machine that says nothing for a minute is
# lost; by torchrun's own 15 seconds so is one that is only busy.
set -eu
address=$1 spec=$2 data=$3 run=$4
workers=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
[ "$workers" -gt 0 ] || workers=1
exec .venv/bin/torchrun \
    --nnodes 2 --nproc-per-node "$workers" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$address:${PORT:-29400}" --rdzv-id "$(basename "$run")" \
    --rdzv-conf keep_alive_max_attempt=12 \
    .venv/bin/alexc train "$spec" --data "$data" --out "$run" --resume
