#!/usr/bin/env bash
# The whole study: twins, arms, forks, probe and cone; then every claim judged by them, and one report. Run again, it goes
# on where it stopped. Options behind the scale go to every training run:
#
#   launch/study.sh cpu
#   SENTENCES=sentences.txt launch/study.sh gpu
#   STEPS=64 NAME=trial launch/study.sh cpu --model.depth 3     # to see that all of it works
#
# CORPUS is the text (sample); SENTENCES a file of sentences for the cone of MINILM, which is left out without it; STEPS
# how long runs are; JOBS how many are side by side (as many as there are cores); NAME what the study is called (study).
# Hardware: cpu: two cores. gpu: one GPU and 16 cores; runs share the GPU better under NVIDIA's MPS daemon.
# Time (estimates, from the runs of docs/study): cpu: three hours; gpu: a quarter of an hour on an H100.
# Cost (estimate): gpu: 1 USD for an H100 that is rented.
set -euo pipefail
scale=${1:-} name=${NAME:-study}
case $scale in
  cpu) steps=${STEPS:-1000} device=cpu probe=(--width 128 --heads 4) ;;
  gpu) steps=${STEPS:-4000} device=cuda probe=() ;;
  *) echo "launch/study.sh: the scale is cpu or gpu (got ${scale:-nothing})." >&2; exit 2 ;;
esac
shift
for word in "$@"; do
  case ${word%%=*} in
    --trainer.max_steps | --checkpoints.every)
      echo "launch/study.sh: ${word%%=*} is set by the study, whose forks begin at half of it: set STEPS instead." >&2
      exit 2 ;;
  esac
done
[[ $steps =~ ^[1-9][0-9]*$ && $steps != 1 ]] || { echo "launch/study.sh: STEPS must be at least 2 (got $steps)." >&2; exit 2; }
half=$((steps / 2))
arms=(--config configs/study/common.yaml --size tiny --data.corpus "${CORPUS:-sample}" --trainer.max_steps "$steps"
  --trainer.val_check_interval "$half" --checkpoints.every "$half" "$@")
folder=checkpoints/$name cores=$(getconf _NPROCESSORS_ONLN)
jobs=${JOBS:-$cores}
failed=0

dynamics sweep configs/study/arms.yaml --run "$name" --jobs "$jobs" "${arms[@]}" || failed=$?
[[ $failed -le 1 ]] || exit "$failed" # 1: some runs failed, and are named; the others are judged

switch_mask() { # train the fork of the seed $1: causal-mlm, from half of its steps on, without the mask
  local fork=$name-switched-$1
  if grep -qs '"status": "done"' "checkpoints/$fork/run.json"; then
    return # its states, from which a run resumes, may be gone by now
  elif [[ -e checkpoints/$fork ]]; then
    dynamics fit --run "$fork" --resume auto
  else
    dynamics fork "$folder-causal-mlm-$1" --at "$half" --config configs/switch.yaml --run "$fork"
  fi
}
export -f switch_mask
export name folder half
threads=${OMP_NUM_THREADS:-$((cores > jobs ? cores / jobs : 1))} # as the sweep gives to each of its runs
parents=("$folder"-causal-mlm-seed_*)
seeds=("${parents[@]#"$folder-causal-mlm-"}")
printf '%s\0' "${seeds[@]}" | OMP_NUM_THREADS=$threads xargs -0 -P "$jobs" -I {} bash -c 'switch_mask "$1"' _ {}

others=("$name-probe")
dynamics probe --config configs/probe.yaml "${probe[@]}" --device "$device" --run "$name-probe" --resume auto
if [[ -n ${SENTENCES:-} ]]; then
  minilm=${MINILM:-sentence-transformers/all-MiniLM-L6-v2}
  dynamics cone "$minilm" "$minilm:untrained" --sentences "$SENTENCES" --run "$name-cone" --resume auto
  others+=("$name-cone")
fi

dynamics claims "$name" "${others[@]}" --json "$folder/claims.json" --out "$folder/claims.html"
dynamics report "$folder"-{decoder,causal-mlm,encoder}-seed_* "${seeds[@]/#/$name-switched-}" --out "$folder/study.html"
exit "$failed"
