"""Peak memory and time of a training step: logits whole and in parts, activations kept and computed again.

    python benchmarks/memory.py [--size small|tiny|base] [--vocabularies 207 8192 32768] [--steps 3] [--json FILE]

Every case is a process of its own, on the GPU where there is one. The memory is what the process held at most beyond
what it held before the model was built; times are medians of single steps after the first.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import statistics
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import training
from training import SIZES, Size, held, seconds

from dynamics.models import cross_entropy, language


def work(pipe: Any, size: Size, vocabulary: int, is_whole: bool, is_kept: bool, steps: int, device: str) -> None:
    """Train one case and send its peak memory in MiB and the milliseconds of a step."""
    before = held(device)
    model = language.LanguageModel

    def make(**settings: Any) -> Any:
        return model(**settings, activation_checkpointing=not is_kept)

    with (
        mock.patch.object(training, "VOCABULARY", vocabulary),
        mock.patch.object(training, "LanguageModel", make),
        mock.patch.object(cross_entropy, "LARGE", math.inf if is_whole else cross_entropy.LARGE),
    ):
        step = training.ours(size, device == "cuda", contextlib.nullcontext, device)
        times = [seconds(step, 1, device) for _ in range(steps + 1)][1:]
    pipe.send((held(device) - before, 1e3 * statistics.median(times)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[207, 8192, 32768])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device, size = "cuda" if torch.cuda.is_available() else "cpu", SIZES[arguments.size]
    spawn, results = multiprocessing.get_context("spawn"), []
    for vocabulary in arguments.vocabularies:
        is_large = size.tokens * vocabulary > cross_entropy.LARGE
        for is_whole in (True, False) if is_large else (True,):
            for is_kept in (True, False):
                ours, end = spawn.Pipe()
                case = (size, vocabulary, is_whole, is_kept)
                process = spawn.Process(target=work, args=(end, *case, arguments.steps, device))
                process.start()
                end.close()
                memory, milliseconds = ours.recv()
                process.join()
                results.append((*case[1:], memory, milliseconds))
                logits, layers = "whole" if is_whole else "in parts", "kept" if is_kept else "computed again"
                figures = f"{memory:8,.0f} MiB  {milliseconds:9,.1f} ms"
                print(f"{vocabulary:7,} rows, logits {logits:8}, activations {layers:14}  {figures}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
