#!/usr/bin/env bash
# `dynamics` as a SLURM job that outlives time limits and preemption; options of sbatch stand before the script:
#
#   sbatch launch/slurm.sh fit --config configs/decoder.yaml --size tiny --data.corpus sample --run decoder
#   sbatch --partition=gpu --gpus-per-node=8 --ntasks-per-node=8 --nodes=2 launch/slurm.sh fit ... --run large
#
# Hardware: what sbatch is asked for; a task is a process, with a GPU of its own if there are any. As it stands: one task.
# Time: 12 hours at a stretch, as many as it takes. A restart costs the start of a process (about 10 s) and what the
#   queue makes it wait (SLURM itself holds a requeued job back for about 2 minutes), but no step.
# Cost (estimate): GPUs x hours x 3 USD for H100s that are rented: --size base, 35 minutes on one, 2 USD (reckoned in
#   launch/local.sh).
#
# 300 s before the time limit, and when a job of more priority needs the place, every task gets SIGUSR1: it finishes its
# step, saves, and exits with 138. This script then puts the job back into the queue, and the restarted job goes on from
# that step. A task that gets the signal before it can hear it dies of it, which is 138 as well.
#SBATCH --job-name=dynamics
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

output=()
if [[ ${1:-} == --cells ]]; then # an element of a sweep: its line of the file is where it prints, and its arguments
  eval "set -- $(sed -n "${SLURM_ARRAY_TASK_ID}p" "$2")"
  output=(--output "$1" --open-mode=append)
  shift
fi
if [[ ${1:-} == fit ]]; then
  set -- "$@" --resume auto --trainer.devices "$SLURM_NTASKS_PER_NODE" --trainer.num_nodes "$SLURM_JOB_NUM_NODES"
fi
export PYTHONUNBUFFERED=1
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # which srun does not take over

code=0
# A rank that stops does not end the others, which may still save, before 60 s have passed.
srun --kill-on-bad-exit=0 --wait=60 "${output[@]}" dynamics "$@" || code=$?
# 143: SIGTERM, where preemption sends that. `scancel` sends it to this script too, which ends here and now.
if [[ $code == 138 || $code == 143 ]]; then
  echo "back into the queue after $((SECONDS / 60)) minutes"
  trap '' TERM # comes with it
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$code"
