#!/usr/bin/env bash
# bash launch/a100x8.sh [teacher] [student] [evaluate]
#
# launch/a100.sh on one node of 8 A100s, in one process. The chains and the batch of 8 are divided
# over the GPUs, each of which holds the whole model. A model that one GPU cannot hold is itself
# divided by MODEL_AXIS=2, 4 or 8 (which must divide its kv heads, or attention is on every GPU).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
source launch/pipeline.sh

GPUS=${GPUS:-8}
MODEL_AXIS=${MODEL_AXIS:-1}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.95} # see a100.sh

if ((GPUS < MODEL_AXIS)); then
  say "MODEL_AXIS=$MODEL_AXIS does not fit $GPUS GPUs"
  exit 1
fi
MESH=(--data_axis=$((GPUS / MODEL_AXIS)) --model_axis="$MODEL_AXIS")
# The batch is divided evenly: of 6 GPUs, 4 have one of 8 examples at a time.
STUDENT_MESH=(--data_axis="$(largest_divisor "$BATCH_SIZE" $((GPUS / MODEL_AXIS)))"
  --model_axis="$MODEL_AXIS")

[[ -n "$DRY_RUN" ]] || install cuda
run_jobs "$@"
