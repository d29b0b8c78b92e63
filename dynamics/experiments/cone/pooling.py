"""Token states to sentence vectors: the modes of pooling of sentence-transformers.

Token states x (B, T, d), kept tokens (B, T) -> (B, d). Where a prompt is not pooled, its tokens are not kept, and `cls`
is the first token after it: as in sentence-transformers since 5.5 (`Pooling` in its modules/pooling.py), which took the
first token of all before.
"""

from collections.abc import Callable

import torch
from torch import Tensor


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
