#!/usr/bin/env bash
# `dynamics` as a SLURM job that outlives time limits and preemption; options of sbatch stand before the script:
#
#   sbatch launch/slurm.sh fit --config configs/decoder.yaml --size tiny --data.corpus sample --run decoder
#   sbatch --partition=gpu --gpus-per-node=8 --ntasks-per-node=8 --nodes=2 launch/slurm.sh fit ... --run large
#
# Hardware: what sbatch is asked for; one task is one process, with one GPU if there are any. As it stands: one task.
# Time: 12 hours at a time, as often as it takes; a restart costs the start of a process (about 10 s), what the queue
#   makes it wait (SLURM itself holds a requeued job back for about 2 minutes), and no step.
# Cost: time x GPUs. Estimate for one H100 at 3 USD an hour: --size tiny in minutes, under 1 USD; --size base (6 layers
#   of width 512, 20,000 steps) under 1 hour, 3 USD; reckoned from the steps of docs/gpu.md, not from whole runs.
#
# 300 s before the time limit, and when a job of more priority needs the place, every task gets SIGUSR1: it finishes its
# step, saves, and exits with 138. This script then puts the job back into the queue, whose restart goes on from that
# step (`--resume auto`). A task that gets the signal before it can hear it dies of it, which is 138 as well.
# Measuring and validating end before the run stops: ask for more than 300 s if they take longer.
#SBATCH --job-name=dynamics
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [[ ${1:-} == fit ]]; then
  set -- "$@" --resume auto --trainer.devices "$SLURM_NTASKS_PER_NODE" --trainer.num_nodes "$SLURM_JOB_NUM_NODES"
fi
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # which srun does not take over

code=0
# A rank that has stopped does not end the others, which may still save; 60 s later it does.
srun --kill-on-bad-exit=0 --wait=60 dynamics "$@" || code=$?
# 143: SIGTERM, where preemption sends that. `scancel` sends it to this script too, which ends here and now.
if [[ $code == 138 || $code == 143 ]]; then
  echo "requeued after $((SECONDS / 60)) minutes"
  trap '' TERM # it comes with the requeue
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$code"
