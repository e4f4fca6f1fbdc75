#!/usr/bin/env bash
# bash launch/a100.sh [teacher] [student] [evaluate]
#
# The paper's setting on one A100-40GB. teacher draws power samples of 500 MATH problems from
# Qwen2.5-Math-7B, student trains a LoRA student on them, evaluate measures it on MATH-500. Without
# arguments all three jobs run; the paper reports more than a day for the first and less than an
# hour for the second. If it is stopped, the same command goes on. DRY_RUN=1 prints the commands.
# MODEL, OUT and other variables are explained in launch/pipeline.sh.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
source launch/pipeline.sh

export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
# By default JAX takes three quarters of the memory. 7B weights in bfloat16 take 15 GB, and the rest
# is cache, whose size decides how many chains run at a time: 23 GB with 0.95, 15 GB without.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.95}

[[ -n "$DRY_RUN" ]] || install cuda
run_jobs "$@"
