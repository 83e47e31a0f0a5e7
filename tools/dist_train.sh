#!/usr/bin/env bash
# Train in several processes, on this machine or on several:
#   tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 tools/dist_train.sh CONFIG PROCESSES_ON_EACH
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,4s/^# //p' "$0" >&2; exit 2; fi

exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$2" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
