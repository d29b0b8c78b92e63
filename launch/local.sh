#!/usr/bin/env bash
# `dynamics` on this machine. A training run that stopped goes on where it stopped:
#
#   launch/local.sh fit --config configs/decoder.yaml --size tiny --data.corpus sample --run decoder
#
# Hardware: all GPUs that are there (Lightning starts a process for each), or else the processor.
# Time (estimates: steps of the size x seconds a step, a tenth more for measuring and validating):
#   two CPU cores, --size tiny: 6 minutes; 1,000 steps of 30 GFLOP (6 x 1.2 M parameters x 4,096 tokens) at 100 GFLOP/s.
#   one H100, --size base: 35 minutes; 50,000 steps of 36 ms, a time that was measured (docs/gpu.md).
# Cost: that of your machine; the hour of an H100 is rented for about 3 USD, which makes --size base 2 USD (estimate).
set -euo pipefail
[[ ${1:-} != fit ]] || set -- "$@" --resume auto
exec dynamics "$@"
