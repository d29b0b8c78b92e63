"""Cost of a regulariser in training: an optimiser step with it against a step without, side by side in one run.

    python benchmarks/regularizers.py [--windows 64] [--rounds 3] [--json FILE]

A 6 x 256 model on windows of 256 characters. The ratio is the step's time with the regulariser over that without, so
1.25 means that it adds a quarter.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it; read before torch is imported

import torch

from dynamics.models.regularized import RegularizedModule
from dynamics.models.regularizers import CosReg, IStar
from dynamics.models.transformer import CharTransformerConfig, CharTransformerLM

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def stepper(model, windows, regularizers, autocast):
    """Return a function that makes one step."""
    module = RegularizedModule(regularizers)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def task():
        logits = model(windows[:, :-1]).logits.flatten(0, 1).float()
        return torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten())

    def step():
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=autocast):
            loss = module.training_loss(task, model, None)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(work):
    started = time.perf_counter()
    work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = CharTransformerLM(CharTransformerConfig()).to(DEVICE)
    windows = torch.randint(205, (arguments.windows, 257), device=DEVICE)
    autocast = DEVICE == "cuda"
    steppers = {
        "none": stepper(model, windows, [], autocast),
        "IStar": stepper(model, windows, [IStar(-1.0)], autocast),
        "CosReg": stepper(model, windows, [CosReg(1.0)], autocast),
    }
    for step in steppers.values():
        step()
    rounds = [{name: seconds(step) for name, step in steppers.items()} for _ in range(arguments.rounds)]
    ratios = {
        name: statistics.median(times[name] / times["none"] for times in rounds) for name in steppers if name != "none"
    }
    fastest = {name: min(times[name] for times in rounds) for name in steppers}
    print(", ".join(f"{name} {spent:.3f} s" for name, spent in fastest.items()))
    print(", ".join(f"with {name}: {ratio:.2f} of a plain step" for name, ratio in ratios.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"ratio": ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
