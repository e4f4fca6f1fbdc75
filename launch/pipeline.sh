# shellcheck shell=bash disable=SC2086,SC2206
# Sourced by a100.sh, a100x8.sh, slurm.sbatch and tpu_pod.sh: Algorithm 1 of the paper as jobs.
#
#   teacher     power samples of the training problems      $OUT/teacher/records.jsonl
#   student     LoRA, trained on them                       $OUT/student/adapter
#   evaluate    the student on the test problems, four passes each by standard and by temperature
#               sampling, each also a job of its own        $OUT/standard, $OUT/temperature
#
# A job that was stopped goes on where it was when the same script is run again. The settings are
# the paper's for Qwen2.5-Math-7B on MATH; these variables change them:

MODEL=${MODEL:-Qwen/Qwen2.5-Math-7B}
LEARNING_RATE=${LEARNING_RATE:-1e-5} # the paper's for Phi-3.5-mini is 1e-3
TRAIN_TASK=${TRAIN_TASK:-math_train} # 500 problems outside MATH-500
EVAL_TASK=${EVAL_TASK:-math500}
OUT=${OUT:-runs/$(basename "$MODEL")-$TRAIN_TASK}
BATCH_SIZE=${BATCH_SIZE:-8} # examples an optimizer step, on any number of devices
DRY_RUN=${DRY_RUN:-}        # 1: print the commands, run nothing
# More flags: TASK_FLAGS="--data_dir=/data" for what reads problems, and for one kind of job
# TEACHER_FLAGS="--limit=20", STUDENT_FLAGS="--fsdp", EVAL_FLAGS. They are split at spaces.

# What a launcher sets: how processes are started, and how the work is laid over devices.
RUNNER=()
STUDENT_RUNNER=() # added to RUNNER for the student
MESH=()
STUDENT_MESH=() # MESH if empty

# run MODULE --flag...: the command that every host of the run runs.
run() {
  local command=("${RUNNER[@]}" .venv/bin/python -m "$@")
  if [[ -n "$DRY_RUN" ]]; then
    printf '%q ' "${command[@]}" && echo
  else
    say "${command[*]}"
    "${command[@]}"
  fi
}

# largest_divisor N LIMIT: of N, up to LIMIT.
largest_divisor() {
  local found=$(($2 < $1 ? $2 : $1))
  while (($1 % found)); do found=$((found - 1)); done
  echo "$found"
}

teacher() {
  run experiments.sample --model="$MODEL" --task="$TRAIN_TASK" --out="$OUT/teacher" \
    --sampler=power --alpha=4 --num_mcmc_steps=10 --max_new_tokens=3072 --block_size=192 \
    "${MESH[@]}" ${TASK_FLAGS:-} ${TEACHER_FLAGS:-}
}

student() {
  local before=("${RUNNER[@]}") mesh=("${STUDENT_MESH[@]}") asked=()
  # GPQA's records hold no text: the prompts are the task's.
  [[ "$TRAIN_TASK" != gpqa* ]] || asked=(--task="$TRAIN_TASK" ${TASK_FLAGS:-})
  ((${#mesh[@]})) || mesh=("${MESH[@]}")
  RUNNER+=("${STUDENT_RUNNER[@]}")
  run experiments.distill --model="$MODEL" --records="$OUT/teacher/records.jsonl" \
    --out="$OUT/student" --resume --lora_rank=16 --lora_alpha=32 --lora_dropout=0.05 \
    --learning_rate="$LEARNING_RATE" --epochs=3 --batch_size="$BATCH_SIZE" --max_length=1024 \
    "${asked[@]}" "${mesh[@]}" ${STUDENT_FLAGS:-}
  RUNNER=("${before[@]}")
}

standard() {
  sample_student standard
}

temperature() {
  sample_student temperature
}

sample_student() {
  run experiments.sample --model="$MODEL" --adapter="$OUT/student/adapter" --merge_adapter \
    --task="$EVAL_TASK" --out="$OUT/$1" --sampler="$1" --num_samples=4 \
    --max_new_tokens=3072 "${MESH[@]}" ${TASK_FLAGS:-} ${EVAL_FLAGS:-}
}

# list_jobs [JOB...]: those named, or all; one a line. Fails where one is none.
list_jobs() {
  local job
  (($#)) || set -- teacher student evaluate
  for job in "$@"; do
    case "$job" in
      teacher | student | standard | temperature) echo "$job" ;;
      evaluate) printf '%s\n' standard temperature ;;
      *)
        say "$job is not one of the jobs teacher, student, evaluate (or standard, temperature)"
        return 1
        ;;
    esac
  done
}

# run_jobs [JOB...]: those named, or all, one after the other.
run_jobs() {
  local jobs job
  jobs=$(list_jobs "$@")
  for job in $jobs; do "$job"; done
}
