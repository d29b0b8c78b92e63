"""A scan against a bare forward pass over the same batches: seconds of both, and where the rest goes.

Two ratios: of the whole, and of what more tokens cost (the whole less half of the batches): neighbour searches,
samples, eigenvalues and the weights' own metrics cost the same however long the text is.

python benchmarks/scan.py [MODEL] [--text FILE] [--tokens N] [--json FILE]
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from dynamics.experiments.scan.options import ScanOptions
from dynamics.loading import text
from dynamics.loading.models import load
from dynamics.loading.subjects import expand
from dynamics.measure.measurement import measure

SUITES = {
    "default": None,
    "inherent": {name: {"sites": ["residual", "output"]} for name in ("mean_cosine", "norm_of_mean", "mean_norm")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="random:bert")
    parser.add_argument("--text")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.text is None:
        words = np.random.default_rng(0).choice(["the", "cat", "sat", "on", "a", "mat"], size=args.tokens)
        args.text = "/tmp/benchmark-scan.txt"
        Path(args.text).write_text(" ".join(words))
    full = {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072}
    overrides = full if args.model == "random:bert" else {}
    options = ScanOptions([args.model], text=args.text, tokens=args.tokens, context=128, config_overrides=overrides)
    loaded = load(expand(options)[0], options)
    batches = list(text.text_batches(loaded, options, text.open_text(options)))
    device = next(loaded.model.parameters()).device

    few = batches[: len(batches) // 2]

    def forward(batches: list) -> None:
        with torch.no_grad():
            for batch in batches:
                loaded.model(**{key: value.to(device) for key, value in batch.items()})

    forward(few)
    bare, bare_few = (min(timed(lambda part=part: forward(part)) for _ in range(3)) for part in (batches, few))
    print(f"{args.model}: {sum(b['attention_mask'].sum() for b in batches)} tokens; bare forward {bare:.2f} s")
    ratios, results = {}, []
    for name, suite in SUITES.items():
        measure(loaded.model, few, suite, dtype=None)
        seconds = timed(lambda suite=suite: results.append(measure(loaded.model, batches, suite, dtype=None)))
        seconds_few = timed(lambda suite=suite: measure(loaded.model, few, suite, dtype=None))
        ratios[f"{name} metrics"] = seconds / bare
        ratios[f"{name} metrics, more tokens"] = (seconds - seconds_few) / (bare - bare_few)
        print(
            f"{name}: {seconds:.2f} s, {seconds / bare:.2f} x bare; {list(ratios.values())[-1]:.2f} x for more tokens"
        )
        for metric, spent in sorted(results[-1].seconds.items(), key=lambda item: -item[1])[:8]:
            print(f"    {metric:32}{spent:7.2f} s")
    if args.json:
        args.json.write_text(json.dumps({"ratio": {f"bare forward, {k}": v for k, v in ratios.items()}}))


def timed(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
