#!/usr/bin/env bash
# bash launch/a100.sh [teacher] [student] [evaluate]
#
# The paper's setting on one A100-40GB: power samples of 500 MATH problems from Qwen2.5-Math-7B, a
# LoRA student, its accuracy on MATH-500. Without a job named it does all three; the paper reports
# more than a day for the first and less than an hour for the second. Stopped, the same command goes
# on. DRY_RUN=1 prints the commands; MODEL, OUT and the rest: see launch/pipeline.sh.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
source launch/pipeline.sh

export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
# JAX takes three quarters of the memory unless told. 7B weights in bfloat16 are 15 GB; what is left
# is cache, and so chains at a time: 23 GB instead of 15.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.95}

[[ -n "$DRY_RUN" ]] || install cuda
run_jobs "$@"
