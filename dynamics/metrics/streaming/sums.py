"""First moments of a stream of token states: sums, in all and for each window.

The state of an accumulator is a handful of tensors, each with its reduction, so that batches, their order and the ranks
change nothing beyond rounding. All work stays on the device of the states. Legend: n tokens, h heads, d width, w
windows, s sums.
"""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from dynamics.metrics.streaming.arithmetic import floating, precise
from dynamics.metrics.streaming.base import HEAD_SITES, STATE_SITES, States, once
from dynamics.metrics.streaming.intervals import Windowed
from dynamics.metrics.streaming.sampling import kept_windows, numbered, window_sums


def scalar() -> Float64[Tensor, ""]:
    """Return an empty sum: it takes the shape and device of the first thing added to it."""
    return torch.zeros((), dtype=torch.float64)


def trouble_of_sums(n: int, finite: Bool[Tensor, "..."] | None) -> str:
    """Return why nothing can be computed from sums over `n` tokens; empty where all is well."""
    if n < 2 or finite is None:
        return "fewer than two tokens"
    return "" if finite.all() else "a state is not finite"


def state_sums(
    x: Float[Tensor, "n h d"], windows: Int[Tensor, " n"]
) -> tuple[Float64[Tensor, "w h s"], Int[Tensor, " w"]]:
    """Return sums over the tokens of each window, and the window ids.

    Layout of the last axis of the sums (2d + 2): state (d), direction (d), norm (1), number of tokens (1). Within a
    window they are taken in the precision of x.
    """
    ids, inverse = numbered(windows)
    membership = x.new_zeros(len(ids), len(x))
    membership[inverse, torch.arange(len(x), device=x.device)] = 1
    x = x.transpose(0, 1)
    norm = x.norm(dim=-1)
    # A direction is a state weighted by the inverse of its norm: a product, and no copy of the states.
    with precise(x):
        weights = torch.cat([membership.expand(len(x), -1, -1), membership / norm[:, None]], dim=1)
        sums = weights @ x
        norms = (norm @ membership.mT)[..., None]
    number = membership.sum(1)[:, None].expand_as(norms)
    return torch.cat([*sums.chunk(2, dim=1), norms, number], dim=-1).double().transpose(0, 1), ids


class WindowSums(Windowed):
    """Sums over the tokens of each window: of all windows, and of each in a seeded sample of them.

    Args:
        windows: windows whose sums are kept for the interval; the value uses all of them
    """

    heads_at: ClassVar = {"total": 0, "kept": 1}
    total: Float64[Tensor, "h s"]
    windows: Float64[Tensor, ""]
    kept: list[Float64[Tensor, "w h s"]]
    kept_ids: list[Int[Tensor, " w"]]

    def __init__(self, windows: int = 512) -> None:
        super().__init__()
        self.budget = windows
        self.add_state("total", scalar(), dist_reduce_fx="sum")
        self.add_state("windows", scalar(), dist_reduce_fx="sum")
        self.add_state("kept", [], dist_reduce_fx="cat")
        self.add_state("kept_ids", [], dist_reduce_fx="cat")

    def add(self, sums: Float64[Tensor, "w h s"], ids: Int[Tensor, " w"], is_padded: bool = True) -> None:
        """Take the sums of the windows `ids`, adding to those kept (a window that the sample dropped counts again).

        A window of padding alone, whose sums are all 0, is none; `is_padded`: whether there may be one.
        """
        if is_padded:
            seen = (sums != 0).flatten(1).any(1)
            sums, ids = sums[seen], ids[seen]
        self.total = self.total + sums.sum(0)
        before = sum(len(part) for part in self.kept_ids)
        kept, kept_ids = torch.cat([*self.kept, sums]), torch.cat([*self.kept_ids, ids])
        if before and torch.isin(ids, kept_ids[:before]).any():  # local attention gives a window in several calls
            kept, kept_ids = window_sums(kept, kept_ids)
        self.windows = self.windows + len(kept_ids) - before
        if len(kept_ids) > self.budget:
            mask = kept_windows(kept_ids, self.budget)
            kept, kept_ids = kept[mask], kept_ids[mask]
        self.kept, self.kept_ids = [kept], [kept_ids]

    @property
    def heads(self) -> int:
        return len(self.total) if self.total.ndim else 1

    @once
    def sample(self) -> Float64[Tensor, "w h s"]:
        """Sums for each of the windows kept, in the order of their ids."""
        kept, ids = window_sums(dim_zero_cat(self.kept), dim_zero_cat(self.kept_ids))
        return kept[kept_windows(ids, self.budget)] if len(ids) > self.budget else kept


class Sums(WindowSums):
    """First moments: sums of the states, of their directions and of their norms, laid out as in `state_sums`."""

    sites = (*STATE_SITES, *HEAD_SITES)
    heads_at: ClassVar = {**WindowSums.heads_at, "within": 0}
    within: Float64[Tensor, "h 2"]  # of pairs within windows: the sum of their cosines and their number

    def __init__(self, windows: int = 512) -> None:
        super().__init__(windows)
        self.add_state("within", scalar(), dist_reduce_fx="sum")

    def update(self, batch: States) -> None:
        x = floating(batch.x)
        sums, ids = state_sums(x, batch.windows)
        direction, number = sums[..., x.shape[-1] : -2], sums[..., -1]
        self.within = self.within + torch.stack([direction.square().sum((0, -1)), number.square().sum(0)], dim=-1)
        self.add(sums, ids, is_padded=False)

    @property
    def width(self) -> int:
        return self.total.shape[-1] // 2 - 1

    @property
    def n(self) -> int:
        return int(self.total[0, -1]) if self.total.ndim else 0

    @once
    def trouble(self) -> str:
        return trouble_of_sums(self.n, self.total[:, : self.width].isfinite() if self.total.ndim else None)

    @once
    def mean(self) -> Float64[Tensor, "h s"]:
        """Means of (state, direction, norm), s = 2d + 1."""
        return self.total[:, :-1] / self.n

    @once
    def deviations(self) -> Float64[Tensor, "w h s"]:
        """Influence on `mean` of the windows kept."""
        return (self.sample[..., :-1] - self.sample[..., -1:] * self.mean) * (self.windows / self.n)
