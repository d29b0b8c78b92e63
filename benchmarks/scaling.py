"""What training and each metric cost, as a function of the sizes, fitted to measurements of this machine.

    python benchmarks/scaling.py [--rounds 1] [--json FILE]

A cost is a sum of TERMS, each a product of sizes with a factor that is not negative: nonnegative least squares of the
relative error (Lawson and Hanson, 1974), on models that differ from one in a single size. Each point counts as its
fastest round, in processor time of one thread, so that other work on the machine matters little. Errors are relative:
of the fit, of each point when it is left out of the fit (in the median), and of models that are larger than all that
were fitted. Metrics that share an accumulator share its time evenly. L layers, D width, H heads, T context, n tokens,
V rows of the vocabulary.
"""

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it; read before torch is imported

import numpy as np
import torch
from scipy.optimize import nnls

from dynamics.measure import clock, measurement
from dynamics.models.transformer import CharTransformerConfig, CharTransformerLM

VOCABULARY = 207


class Size(NamedTuple):
    layers: int = 4
    width: int = 128
    heads: int = 4
    context: int = 128
    tokens: int = 4096


FITTED = [
    Size(),
    *(Size(layers=layers) for layers in (2, 8)),
    *(Size(width=width) for width in (64, 256, 512)),
    *(Size(heads=heads) for heads in (1, 16)),
    *(Size(context=context) for context in (32, 512)),
    *(Size(tokens=tokens) for tokens in (1024, 2048, 8192)),
    Size(2, 256, 8, 256, 2048),
    Size(8, 64, 2, 64, 8192),
]
LARGER = [Size(6, 512, 8, 256, 4096), Size(12, 256, 8, 256, 4096)]
TERMS = {
    "1": lambda s: 1,
    "L": lambda s: s.layers,
    "L n": lambda s: s.layers * s.tokens,
    "L n D": lambda s: s.layers * s.tokens * s.width,
    "L n D^2": lambda s: s.layers * s.tokens * s.width**2,
    "n D V": lambda s: s.tokens * s.width * VOCABULARY,
    "L D^3": lambda s: s.layers * s.width**3,
    "L n T H": lambda s: s.layers * s.tokens * s.context * s.heads,
    "L n T D": lambda s: s.layers * s.tokens * s.context * s.width,
    "L n^2 D": lambda s: s.layers * s.tokens**2 * s.width,
}
# Sizes that are asked about: tokens of a step and of a measurement.
NEEDS = {
    "scan of a 7B model": Size(32, 4096, 32, 512, 4096),
    "tiny": Size(6, 128, 4, 128, 4096),
    "small": Size(6, 256, 8, 256, 4096),
    "base": Size(12, 512, 8, 512, 4096),
}


class Fit(NamedTuple):
    factors: dict[str, float]  # seconds, by term
    error: float  # greatest relative error of the points fitted
    left_out: float  # median relative error of points that are left out
    larger: float  # greatest relative error of the larger models

    def seconds(self, size: Size) -> float:
        return sum(factor * TERMS[term](size) for term, factor in self.factors.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for module in (clock, measurement):
        module.time = SimpleNamespace(perf_counter=time.process_time)
    spent = {size: costs(size, arguments.rounds) for size in (*FITTED, *LARGER)}
    fits = {name: fit(name, spent) for name in spent[FITTED[0]]}
    together = {size: sum(x for name, x in of.items() if name != "step") for size, of in spent.items()}
    print(f"{'':28} fit  left out  larger  factors in seconds")
    for name, found in sorted(fits.items(), key=lambda pair: -spent[Size()][pair[0]]):
        factors = ", ".join(f"{factor:.2g} {term}" for term, factor in found.factors.items())
        print(f"{name:28} {found.error:4.0%} {found.left_out:8.0%} {found.larger:7.0%}  {factors}")
    needs = {}
    for name, size in NEEDS.items():
        of = {metric: found.seconds(size) for metric, found in fits.items()}
        needs[name] = {"step": of.pop("step"), "measurement": sum(of.values()), "most": most(of)}
        parts = ", ".join(f"{metric} {seconds:.3g} s" for metric, seconds in needs[name]["most"].items())
        print(f"{name}: step {needs[name]['step']:.3g} s, measurement {needs[name]['measurement']:.3g} s ({parts})")
    if arguments.json:
        points = [{**size._asdict(), "step": spent[size]["step"], "measurement": together[size]} for size in spent]
        result = {"points": points, "fits": {name: found._asdict() for name, found in fits.items()}, "needs": needs}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def costs(size: Size, rounds: int) -> dict[str, float]:
    """Return the seconds of a training step, of the forward passes of a measurement, and of each of its metrics."""
    torch.manual_seed(0)
    shape = dict(zip(("num_hidden_layers", "hidden_size", "num_attention_heads"), size[:3], strict=True))
    model = CharTransformerLM(CharTransformerConfig(max_position_embeddings=size.context, **shape))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    windows = torch.randint(VOCABULARY - 2, (size.tokens // size.context, size.context + 1))
    batches = [{"input_ids": part} for part in windows[:, :-1].split(16)]
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        started = time.process_time()
        logits = model(windows[:, :-1]).logits.flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        step = time.process_time() - started
        found.append({"step": step, **measurement.measure(model, batches, references={}).seconds})
    least = {name: min(of[name] for of in found) for name in found[0]}
    print(*size, f"step {least['step']:.3g} s, measurement {sum(least.values()) - least['step']:.3g} s", flush=True)
    return least


def fit(name: str, spent: dict[Size, dict[str, float]]) -> Fit:
    """Fit the cost of one thing."""
    points = [(size, spent[size][name]) for size in FITTED]
    found = factors(points)

    def off(of: dict[str, float], size: Size, seconds: float) -> float:
        return abs(sum(x * TERMS[term](size) for term, x in of.items()) / seconds - 1)

    left_out = [off(factors([p for p in points if p is not point]), *point) for point in points]
    larger = max(off(found, size, spent[size][name]) for size in LARGER)
    return Fit(found, max(off(found, *point) for point in points), statistics.median(left_out), larger)


def factors(points: list[tuple[Size, float]]) -> dict[str, float]:
    """Return the factors of the terms that a cost has."""
    rows = np.array([[term(size) / seconds for term in TERMS.values()] for size, seconds in points])
    scale = rows.max(0)
    found, _ = nnls(rows / scale, np.ones(len(rows)))
    return {term: float(x) for term, x in zip(TERMS, found / scale, strict=True) if x > 0 and math.isfinite(x)}


def most(seconds: dict[str, float], number: int = 4) -> dict[str, float]:
    return dict(sorted(seconds.items(), key=lambda pair: -pair[1])[:number])


if __name__ == "__main__":
    main()
