#!/usr/bin/env bash
# bash launch/a100x8.sh [teacher] [student] [evaluate]
#
# The jobs of launch/a100.sh on one node of 8 A100s, in one process. The chains, and the student's
# batch of 8, are divided over the GPUs, each of which holds the whole model. MODEL_AXIS=2, 4 or 8
# splits a model that one GPU cannot hold over so many GPUs. It should divide the model's kv heads:
# otherwise every GPU holds all of the attention weights.

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
# The batch has to be divided evenly: of 6 GPUs, the student uses 4, with 2 of the 8 examples each.
STUDENT_MESH=(--data_axis="$(largest_divisor "$BATCH_SIZE" $((GPUS / MODEL_AXIS)))"
  --model_axis="$MODEL_AXIS")

[[ -n "$DRY_RUN" ]] || install cuda
run_jobs "$@"
