"""What measuring costs in training: the default suite against an optimiser step, side by side in one run.

    python benchmarks/suite.py [--json FILE]

A 6 x 256 model, windows of 256 characters: one measurement on 4096 tokens, against one AdamW step on 16 windows. The
ratio is the measurement's time over the step's, so 2 means that measuring costs two steps.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it; read before torch is imported

import torch

from dynamics.measure.measurement import measure
from dynamics.models.transformer import CharTransformerConfig, CharTransformerLM

ROUNDS = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = CharTransformerLM(CharTransformerConfig())
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    windows = torch.randint(205, (16, 257))

    def step():
        logits = model(windows[:, :-1]).logits.flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    def look():
        measure(model, [{"input_ids": windows[:, :-1]}], references={})

    def seconds(work):
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    step(), look()
    pairs = [(seconds(look), seconds(step)) for _ in range(ROUNDS)]
    ratio = statistics.median(ours / peer for ours, peer in pairs)
    print(f"measure {min(a for a, _ in pairs):.2f} s, step {min(b for _, b in pairs):.2f} s, ratio {ratio:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"ratio": {"optimiser step": ratio}}, indent=2) + "\n")


if __name__ == "__main__":
    main()
