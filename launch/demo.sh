#!/usr/bin/env bash
# The main job in minutes on two cores: three twins from the same initial weights, and the page that compares them.
# Run again, it goes on where it stopped.
set -euo pipefail
steps=${STEPS:-192}
for arm in decoder encoder causal-mlm; do
  dynamics fit --config "configs/$arm.yaml" --size tiny --data.corpus sample --trainer.max_steps "$steps" \
    --run "demo-$arm" --resume auto
done
dynamics report demo-decoder demo-encoder demo-causal-mlm --out checkpoints/demo.html
