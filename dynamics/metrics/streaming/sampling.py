"""Seeded samples of a stream that depend on neither its batches, nor their order, nor the ranks.

Every window (or token) has a pseudo-random priority that is a function of its identity and the seed alone; the
sample is what has the lowest priorities. So samples of two parts of a stream merge into the sample of the
whole.
"""

import torch
from torch import Tensor

LEAST = 8
"""Windows that a sample keeps whatever its budget: fewer give no variance worth the name."""


def _signed(number: int) -> int:
    return (number & (2**64 - 1)) - ((number & 2**63) << 1)


def _shifted(x: Tensor, by: int) -> Tensor:
    return x ^ ((x >> by) & (2 ** (64 - by) - 1))


def priority(ids: Tensor, seed: int = 0) -> Tensor:
    """A pseudo-random int64 for each id: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).

    >>> priority(torch.tensor([0, 1, 2])).unique().numel()
    3
    """
    x = ids + _signed((seed + 1) * 0x9E3779B97F4A7C15)
    x = _shifted(x, 30) * _signed(0xBF58476D1CE4E5B9)
    x = _shifted(x, 27) * _signed(0x94D049BB133111EB)
    return _shifted(x, 31)


def occurrence(windows: Tensor) -> Tensor:
    """How many rows of the same window come before each row.

    >>> occurrence(torch.tensor([7, 7, 3, 7]))
    tensor([0, 1, 0, 2])
    """
    order = torch.argsort(windows, stable=True)
    _, counts = torch.unique_consecutive(windows[order], return_counts=True)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    found = torch.empty_like(order)
    found[order] = torch.arange(len(order), device=order.device) - starts
    return found


def kept_windows(windows: Tensor, budget: int, seed: int = 0) -> Tensor:
    """Mask of the rows in the sample of whole windows: as many as fit into `budget` rows, at least `LEAST`."""
    ids, inverse, counts = torch.unique(windows, return_inverse=True, return_counts=True)
    order = torch.argsort(priority(ids, seed))
    fits = counts[order].cumsum(0) <= budget
    fits[:LEAST] = True
    kept = torch.empty_like(fits)
    kept[order] = fits
    return kept[inverse]


def sift(parts: list[Tensor], new: Tensor, chosen: Tensor) -> list[Tensor]:
    """The rows that the mask `chosen` marks, of `parts` and `new` on end: copies only of what is new or changes.

    >>> sift([torch.tensor([1, 2]), torch.tensor([3])], torch.tensor([4, 5]), torch.tensor([1, 1, 0, 0, 1]).bool())
    [tensor([1, 2]), tensor([5])]
    """
    *masks, last = chosen.split([*map(len, parts), len(new)])
    old = [part if mask.all() else part[mask] for part, mask in zip(parts, masks, strict=True) if mask.any()]
    return [*old, new[last]] if last.any() else old


def window_sums(values: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of `values` (n, ...) over the rows of each window: the sums (W, ...) and the W window ids."""
    ids, inverse = torch.unique(windows, return_inverse=True)
    sums = values.new_zeros(len(ids), *values.shape[1:])
    return sums.index_add_(0, inverse, values), ids
