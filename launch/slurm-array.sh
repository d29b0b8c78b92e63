#!/usr/bin/env bash
# A sweep as a SLURM job array: one element a run, each as launch/slurm.sh has it. To be called where sbatch is:
#
#   launch/slurm-array.sh sweep configs/istar-sweep-twins.yaml --size tiny --sbatch="--partition=gpu --gpus-per-node=1"
#
# It waits for the runs and draws their page. What SLURM has goes on without it: called again, it waits for the rest.
# Hardware: one task, with one GPU if --sbatch asks for it, for each run that SLURM places at a time (--jobs N: at most N).
# Time (estimate): runs x time of one (launch/local.sh), by the number that run at a time. The 102 runs of the example,
#   6 minutes each on two CPU cores, 20 at a time: half an hour.
# Cost (estimate): runs x hours x GPUs x 3 USD for H100s that are rented: a sweep of 9 runs of --size base, 5 hours, 16 USD.
set -euo pipefail
exec dynamics "$@" --launcher slurm
