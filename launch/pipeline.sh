# shellcheck shell=bash disable=SC2086,SC2206
# Sourced by a100.sh, a100x8.sh, slurm.sbatch and tpu_pod.sh: Algorithm 1 of the paper as jobs, with
# the files that they leave.
#
#   teacher     draws power samples of the training problems    $OUT/teacher/records.jsonl
#   student     trains a LoRA student on them                   $OUT/student/adapter
#   evaluate    samples the student on the test problems, four
#               passes by standard sampling                     $OUT/standard
#               and four by temperature sampling                $OUT/temperature
#               (the jobs standard and temperature do one half each)
#
# A job that was stopped goes on where it stopped when the same script is run again. The settings
# are the paper's for Qwen2.5-Math-7B on MATH; these variables change them:

MODEL=${MODEL:-Qwen/Qwen2.5-Math-7B}
LEARNING_RATE=${LEARNING_RATE:-1e-5} # for Phi-3.5-mini the paper takes 1e-3
TRAIN_TASK=${TRAIN_TASK:-math_train} # 500 problems outside MATH-500
EVAL_TASK=${EVAL_TASK:-math500}
OUT=${OUT:-runs/$(basename "$MODEL")-$TRAIN_TASK}
BATCH_SIZE=${BATCH_SIZE:-8} # examples per optimizer step, on any number of devices
DRY_RUN=${DRY_RUN:-}        # 1 prints the commands and runs nothing
# These variables add flags, which are split at spaces: TASK_FLAGS="--data_dir=/data" to every job
# that reads problems, TEACHER_FLAGS="--limit=20", STUDENT_FLAGS="--fsdp" and EVAL_FLAGS to one kind
# of job.

# The scripts set how processes are started, and how the work is divided over the devices.
RUNNER=()         # what stands before the command
STUDENT_RUNNER=() # what stands after RUNNER for the student
MESH=()           # the flags that divide the work
STUDENT_MESH=()   # the same for the student; if it is empty, MESH is used

# run MODULE --flag...: runs or prints the command that every host of the run runs.
run() {
  local command=("${RUNNER[@]}" .venv/bin/python -m "$@")
  if [[ -n "$DRY_RUN" ]]; then
    printf '%q ' "${command[@]}" && echo
  else
    say "${command[*]}"
    "${command[@]}"
  fi
}

# largest_divisor N LIMIT: prints the largest divisor of N that is at most LIMIT.
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
  # GPQA's records hold no text, so the prompts are read from the task.
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

# list_jobs [JOB...]: prints the jobs of these names, or all jobs, one per line. Fails where a name
# is not a job's.
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

# run_jobs [JOB...]: runs the jobs of these names, or all jobs, one after the other.
run_jobs() {
  local jobs job
  jobs=$(list_jobs "$@")
  for job in $jobs; do "$job"; done
}
