#!/usr/bin/env bash
# bash launch/tpu_pod.sh NAME ZONE [teacher] [student] [evaluate]
#
# Runs on your machine. It copies the last commit to every worker of the Cloud TPU slice NAME and
# runs the jobs of launch/pipeline.sh there, with one process per worker; the processes find each
# other through the slice's metadata. If it is stopped, the same command goes on. OUT must be on a
# disk that all workers have mounted, such as Filestore: OUT=/mnt/runs/math. Workers need Python
# 3.11 or newer, and for a gated model a Hugging Face token of their own. DRY_RUN=1 prints the
# commands, those of a worker last.
#
# Each worker runs bash launch/tpu_pod.sh on_worker JOB, one job at a time: the next job can begin
# only when the slowest worker is done, which may be hours after the first.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
source launch/pipeline.sh

# 7B weights in bfloat16 take 15 GB; a v5e chip has 16 GB, a v4 or v6e chip 32 GB. 4 divides the kv
# heads of Qwen2.5-7B. The data axis is the number of chips divided by MODEL_AXIS; it has to divide
# BATCH_SIZE (experiments.plan prints a BATCH_SIZE for which it does).
MODEL_AXIS=${MODEL_AXIS:-4}

on_worker() {
  MESH=(--model_axis="$MODEL_AXIS")
  [[ -n "$DRY_RUN" ]] || install tpu
  run_jobs "$@"
}

# here COMMAND...: runs or prints a command on this machine.
here() {
  if [[ -n "$DRY_RUN" ]]; then printf '%q ' "$@" && echo; else "$@"; fi
}

if [[ "${1:-}" == on_worker ]]; then
  on_worker "${@:2}"
  exit
fi
if (($# < 2)) || [[ "$OUT" != /* ]]; then
  say "usage: OUT=/a/disk/all/workers/have bash launch/tpu_pod.sh NAME ZONE [JOB...]"
  exit 1
fi
name=$1 where=(--zone="$2" --worker=all)
settings=()
for variable in MODEL LEARNING_RATE TRAIN_TASK EVAL_TASK OUT BATCH_SIZE MODEL_AXIS TASK_FLAGS \
  TEACHER_FLAGS STUDENT_FLAGS EVAL_FLAGS PYTHON; do
  if [[ -n "${!variable:-}" ]]; then settings+=("$variable=$(printf %q "${!variable}")"); fi
done

jobs=$(list_jobs "${@:3}")
here git archive --format=tar.gz --output=/tmp/powerjax.tgz HEAD
here gcloud compute tpus tpu-vm scp /tmp/powerjax.tgz "$name:" "${where[@]}"
here gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" \
  --command="mkdir -p powerjax && tar -xzf powerjax.tgz -C powerjax"
for job in $jobs; do
  here gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" \
    --command="cd powerjax && ${settings[*]} bash launch/tpu_pod.sh on_worker $job"
done
if [[ -n "$DRY_RUN" ]]; then on_worker "${@:3}"; fi
