"""Memory of a training step: logits whole and in parts, activations kept and computed again.

    python benchmarks/memory.py [--size small|tiny|base] [--vocabularies 207 8192 32768] [--precision fp32|bf16]

Tensors are counted, not computed: what a forward and a backward pass hold at most, weights and gradients included, and
AdamW's two moments not. What an allocator adds, and what kernels need inside, is not counted.
"""

import argparse
import contextlib
import math
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from training import SIZES, Size, configuration

from dynamics.data.windows import WindowBatch
from dynamics.models import architectures, cross_entropy
from dynamics.models.language import LanguageModel, Tokens


def peak(size: Size, vocabulary: int, is_kept: bool, precision: str) -> float:
    """Return the most that the tensors of a step hold, in MiB."""
    autocast: Any = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    module = LanguageModel(activation_checkpointing=not is_kept)
    with FakeTensorMode():
        config = configuration(size, vocabulary)
        module._take(architectures.draw(config, 0), Tokens(0, vocabulary, 1.0))
        tracker = MemTracker()
        tracker.track_external(module.network)
        with tracker:
            windows = torch.zeros(size.batch, size.context + 1, dtype=torch.int64)
            with autocast:
                loss = module.training_step(WindowBatch(windows, 0, 0, size.batch), 0)
            loss.backward()
    held: dict[Any, dict[str, int]] = tracker.get_tracker_snapshot("peak")
    return sum(sizes["Total"] for sizes in held.values()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[207, 8192, 32768])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    size = SIZES[options.size]
    for vocabulary in options.vocabularies:
        is_large = size.tokens * vocabulary > cross_entropy.LARGE
        for is_whole in (True, False) if is_large else (True,):
            with mock.patch.object(cross_entropy, "LARGE", math.inf if is_whole else cross_entropy.LARGE):
                kept, again = (peak(size, vocabulary, is_kept, options.precision) for is_kept in (True, False))
            logits = "whole" if is_whole else "in parts"
            figures = f"{kept:8,.0f} MiB with activations kept, {again:8,.0f} MiB with them computed again"
            print(
                f"{options.size}, {options.precision}, {vocabulary:7,} rows, logits {logits:8}: {figures}", flush=True
            )


if __name__ == "__main__":
    main()
