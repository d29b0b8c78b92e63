"""Token states to sentence vectors: the modes of pooling of sentence-transformers, and `Dense` layers after it.

Token states x (B, T, d), kept tokens (B, T) -> (B, d). Where a prompt is not pooled, its tokens are not kept, and `cls`
is the first token after it: as in sentence-transformers since 5.5 (`Pooling` in its modules/pooling.py), which took the
first token of all before.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dynamics.errors import InputError

INPUT = "sentence_embedding"  # what a module must read and write to follow the pooling


def mean(x: Tensor, kept: Tensor) -> Tensor:
    """Return the mean of the kept tokens."""
    return (x * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)


def cls(x: Tensor, kept: Tensor) -> Tensor:
    """Return the first kept token."""
    return x[torch.arange(len(x), device=x.device), kept.int().argmax(1)]


def last(x: Tensor, kept: Tensor) -> Tensor:
    """Return the last kept token."""
    return cls(x.flip(1), kept.flip(1))


def largest(x: Tensor, kept: Tensor) -> Tensor:
    """Return the largest value of each coordinate over the kept tokens."""
    return x.masked_fill(~kept[..., None], -torch.inf).amax(1)


MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean, "cls": cls, "last": last, "max": largest}


@dataclass(frozen=True)
class Dense:
    """y = f(W x + b), x (B, d) -> (B, k) in float64; f is a module of `torch.nn` without settings."""

    weight: Tensor
    bias: Tensor | None
    activation: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.device)
        return self.activation(nn.functional.linear(x.double(), self.weight.to(x.device), bias))

    def __str__(self) -> str:
        wide, narrow = self.weight.shape[::-1]
        return f"{wide} to {narrow}, {type(self.activation).__name__}"


def dense(config: Mapping[str, Any], weights: Path | None) -> Dense | None:
    """Return a module from its configuration and its weights (safetensors); None where it is more than that.

    Raises:
        InputError: the weights cannot be read, or are not those of a linear layer.
    """
    activation = _activation(str(config.get("activation_function", "torch.nn.Tanh")))
    names = {config.get("module_input_name", INPUT), config.get("module_output_name") or INPUT}
    if activation is None or weights is None or names != {INPUT} or config.get("use_residual"):
        return None
    try:
        tensors = load_file(weights)
        weight, bias = tensors["linear.weight"].double(), tensors.get("linear.bias")
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"{weights} holds no linear layer that can be read ({error}): fetch it again.") from error
    return Dense(weight, None if bias is None else bias.double(), activation)


def _activation(name: str) -> nn.Module | None:
    """Return the activation of that name; like sentence-transformers, trust only modules of torch."""
    kind = getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.nn.") else None
    try:
        return kind() if isinstance(kind, type) and issubclass(kind, nn.Module) else None
    except TypeError:
        return None
