"""Seeded samples of a stream that depend on neither its batches, nor their order, nor the ranks.

Every window (or token) has a pseudo-random priority that is a function of its identity and the seed alone; the sample
is what has the lowest priorities. So samples of two parts of a stream merge into the sample of the whole.
"""

from collections.abc import Hashable
from typing import ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from dynamics.metrics.streaming.arithmetic import floating
from dynamics.metrics.streaming.base import STATE_SITES, Metric, States, once
from dynamics.metrics.streaming.clouds import different_in_each
from dynamics.metrics.streaming.neighbors import Different, different_rows
from dynamics.metrics.streaming.transfer import asked, sent

# SplitMix64 (Steele, Lea and Flood 2014, doi 10.1145/2714064.2660195): the step of its counter, then the shift and the
# factor of every round of its output function. Factors are signed: int64 products wrap.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1))
LEAST = 8  # windows that a sample keeps whatever its budget: fewer give no variance worth the name


def splitmix64(counter: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """Return 64 pseudo-random bits for each state of the counter of SplitMix64, which steps by `GAMMA`."""
    for shift, factor in ROUNDS:
        counter = (counter ^ (counter >> shift & 2 ** (64 - shift) - 1)) * factor  # int64 shifts repeat the sign
    return counter


def priority(ids: Int[Tensor, " n"], seed: int = 0) -> Int[Tensor, " n"]:
    """Return a pseudo-random int64 for each id.

    >>> priority(torch.tensor([0, 1, 2])).unique().numel()
    3
    """
    start = (seed + 1) * GAMMA
    return splitmix64(ids + ((start + 2**63) % 2**64 - 2**63))  # as an int64


def occurrence(windows: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return how many rows of the same window come before each row.

    >>> occurrence(torch.tensor([7, 7, 3, 7]))
    tensor([0, 1, 0, 2])
    """
    order = torch.argsort(windows, stable=True)
    at, sorted_windows = torch.arange(len(order), device=order.device), windows[order]
    starts = at.where(sorted_windows != sorted_windows.roll(1), 0).cummax(0).values if len(order) else at
    return torch.empty_like(order).scatter_(0, order, at - starts)


def numbered(windows: Int[Tensor, " n"]) -> tuple[Int[Tensor, " w"], Int[Tensor, " n"]]:
    """Return the different windows, ascending, and the place of each row's among them."""
    return asked(windows, _unique)


def _unique(windows: Tensor) -> tuple[Tensor, Tensor]:
    ids, inverse = torch.unique(windows, return_inverse=True)
    return ids, inverse


def kept_windows(windows: Int[Tensor, " n"], budget: int) -> Bool[Tensor, " n"]:
    """Mark the rows in the sample of whole windows: as many as fit into `budget` rows, at least `LEAST`."""
    if len(windows) <= budget:
        return torch.ones_like(windows, dtype=torch.bool)
    ids, inverse, counts = torch.unique(windows, return_inverse=True, return_counts=True)
    order = torch.argsort(priority(ids))
    fits = counts[order].cumsum(0) <= budget
    fits[:LEAST] = True
    kept = torch.empty_like(fits)
    kept[order] = fits
    return kept[inverse]


def sift(
    parts: list[Shaped[Tensor, "_ ..."]], new: Shaped[Tensor, "_ ..."], chosen: Bool[Tensor, " n"]
) -> list[Shaped[Tensor, "_ ..."]]:
    """Return the rows that the mask `chosen` marks, of `parts` and `new` on end: copies only of what is new or changes.

    >>> sift([torch.tensor([1, 2]), torch.tensor([3])], torch.tensor([4, 5]), torch.tensor([1, 1, 0, 0, 1]).bool())
    [tensor([1, 2]), tensor([5])]
    """
    *masks, last = chosen.split([*map(len, parts), len(new)])
    old = [part if mask.all() else part[mask] for part, mask in zip(parts, masks, strict=True) if mask.any()]
    return [*old, new[last]] if last.any() else old


def window_sums(
    values: Shaped[Tensor, "n ..."], windows: Int[Tensor, " n"]
) -> tuple[Shaped[Tensor, "w ..."], Int[Tensor, " w"]]:
    """Sum `values` over the rows of each window; return the sums and the window ids."""
    ids, inverse = numbered(windows)
    sums = values.new_zeros(len(ids), *values.shape[1:])
    return sums.index_add_(0, sent(inverse, values.device), values), ids


def by_window(x: Shaped[Tensor, "n ..."], windows: Int[Tensor, " n"]) -> Shaped[Tensor, "w t ..."]:
    """Return the rows of each window side by side, zeros after those of the shorter ones.

    >>> by_window(torch.tensor([1, 2, 3]), torch.tensor([7, 3, 7]))
    tensor([[2, 0],
            [1, 3]])
    """
    (ids, inverse), places = numbered(windows), occurrence(windows)
    rows = x.new_zeros(len(ids), int(places.max()) + 1, *x.shape[1:])
    rows[sent(inverse, x.device), sent(places, x.device)] = x
    return rows


class Sample(Metric):
    """A seeded sample of tokens (one head), for what needs their neighbours.

    Args:
        size: tokens in the seeded sample that it reads
        seed: of that sample
    """

    sites = STATE_SITES
    heads_at: ClassVar = {"kept": 1}
    stays: ClassVar = ("kept",)
    kept: list[Float[Tensor, "m h d"]]
    kept_ids: list[Int[Tensor, " m"]]
    order: list[Int[Tensor, " m"]]

    def __init__(self, size: int = 4096, seed: int = 0) -> None:
        super().__init__()
        self.size, self.seed = size, seed
        for state in ("kept", "kept_ids", "order"):
            self.add_state(state, [], dist_reduce_fx="cat")

    @property
    def accumulator(self) -> Hashable:
        return Sample, self.size, self.seed

    def update(self, batch: States) -> None:
        place = priority(occurrence(batch.windows), self.seed)
        order = torch.cat([*self.order, priority(batch.windows ^ place, self.seed)])
        x, ids = floating(batch.x[:, : self.layers]), torch.cat([*self.kept_ids, batch.windows])
        if len(order) <= self.size:
            self.kept, self.order, self.kept_ids = [*self.kept, x], [order], [ids]
            return
        chosen = torch.zeros_like(order, dtype=torch.bool)
        chosen[order.argsort()[: self.size]] = True
        self.kept, self.order, self.kept_ids = sift(self.kept, x, chosen), [order[chosen]], [ids[chosen]]

    @once
    def places(self) -> Int[Tensor, " m"]:
        """Where the sample lies in what is kept, in an order that the stream's order does not touch."""
        return dim_zero_cat(self.order).argsort()[: self.size] if len(self.order) else torch.zeros(0, dtype=torch.long)

    @once
    def samples(self) -> Float[Tensor, "layers m d"]:
        """The tokens in each of several layers."""
        x = dim_zero_cat(self.kept)
        return x[sent(self.places, x.device)].transpose(0, 1).contiguous()

    @once
    def sample(self) -> Float[Tensor, "m d"]:
        """The tokens."""
        return self.samples[0].to(self.places.device) if len(self.order) else torch.zeros(0, 1)

    @once.of_heads(0)
    def finite(self) -> Bool[Tensor, " layers"]:
        return self.samples.isfinite().flatten(1).all(1)

    @once
    def trouble(self) -> str:
        """Why nothing can be computed from the sample; empty where all is well."""
        return "" if not len(self.order) or self.finite.all() else "a state is not finite"

    @once
    def distinct(self) -> Different:
        """Which tokens of the sample equal no earlier one up to rounding, and their four nearest neighbours."""
        if self.whole is None:
            return different_rows(self.sample)
        whole, number = self.whole
        return cast(Sample, whole).distinct_by_layer[number]

    @once
    def distinct_by_layer(self) -> list[Different]:
        """`distinct` of each of several layers, on the host."""
        return different_in_each(self.samples)

    @once
    def different(self) -> Float[Tensor, "u d"]:
        """The sample without its duplicates."""
        rows = self.distinct.rows
        return self.sample if len(rows) == len(self.sample) else self.sample[rows]

    @property
    def rounded(self) -> str:
        """How many tokens equal another but for rounding, where some do."""
        count = self.distinct.exact - len(self.distinct.rows)
        return f"{count} states equal another but for rounding" if count else ""

    @once
    def windows(self) -> Int[Tensor, " u"]:
        """The window ids of the different tokens."""
        return dim_zero_cat(self.kept_ids)[self.places][self.distinct.rows]
