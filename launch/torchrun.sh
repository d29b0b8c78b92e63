#!/usr/bin/env bash
# `dynamics fit` on several GPUs, of one machine or of several, under torchrun:
#
#   launch/torchrun.sh fit --config configs/decoder.yaml --size base --run decoder
#   NODES=2 HEAD=first-machine:29500 launch/torchrun.sh fit ... --run large    # the same on each machine
#
# Environment: PROCESSES (on each machine; its GPUs, or 1), NODES (1), HEAD (host:port of one of the machines).
# Hardware: one GPU for each process, or cores: PROCESSES=2 trains on a CPU with gloo. The folder checkpoints/ must be
#   the same on all machines.
# Time (estimate): that of one GPU (launch/local.sh) by the number of GPUs, at the same global batch, as long as a step
#   takes far longer than to add up the gradients (4 bytes x parameters): not for --size tiny.
# Cost (estimate): GPUs x hours x 3 USD for H100s that are rented: two for --size base, 20 minutes, 2 USD.
set -euo pipefail
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || gpus=0
processes=${PROCESSES:-$((gpus > 0 ? gpus : 1))}
nodes=${NODES:-1}
where=(--standalone)
if ((nodes > 1)); then
  where=(--nnodes "$nodes" --rdzv-backend c10d --rdzv-id dynamics --rdzv-endpoint "${HEAD:?set HEAD to host:port}")
fi
if [[ ${1:-} == fit ]]; then
  set -- "$@" --resume auto --trainer.devices "$processes" --trainer.num_nodes "$nodes"
fi
exec torchrun "${where[@]}" --nproc-per-node "$processes" -m -- dynamics "$@" # its options are no abbreviations of torchrun's
