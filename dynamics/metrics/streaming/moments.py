"""Second moments of a stream of token states, or of two representations together.

Legend: n tokens (m of them kept), h heads, d width, w windows.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, cast

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from dynamics.metrics.streaming.arithmetic import above_rounding, floating, precise, self_product, unresolved
from dynamics.metrics.streaming.base import STATE_SITES, Metric, Pair, States, once
from dynamics.metrics.streaming.intervals import Windowed
from dynamics.metrics.streaming.sampling import by_window, kept_windows, numbered, sift, window_sums
from dynamics.metrics.streaming.sums import scalar, trouble_of_sums
from dynamics.metrics.streaming.transfer import sent


def merge_moments(parts: Float64[Tensor, "parts h e e"]) -> Float64[Tensor, "h e e"]:
    """Return the moments of the whole from those of its parts, e = d + 1.

    Layout: number of tokens at [0, 0], mean at [0, 1:], sum of centred outer products at [1:, 1:].
    """
    whole = parts[0].clone()
    for part in parts[1:]:
        add_moments(whole, part[:, 0, 0], part[:, 0, 1:], part[:, 1:, 1:])
    return whole


def add_moments(
    whole: Float64[Tensor, "h e e"],
    n: Float[Tensor, " h"],
    mean: Float[Tensor, "h d"],
    products: Float[Tensor, "h d d"],
) -> None:
    """Add to the moments of a whole, in place, those of n more tokens.

    Pairwise update of mean and centred second moment (Chan, Golub and LeVeque, 1983): no cancellation, however far the
    mean lies from the origin.
    """
    before = whole[:, 0, 0].clone()
    after = before + n
    apart = mean - whole[:, 0, 1:]
    whole[:, 0, 0] = after
    whole[:, 0, 1:] += apart * (n / after)[:, None]
    whole[:, 1:, 1:] += products
    whole[:, 1:, 1:] += (apart * (before * n / after)[:, None])[:, :, None] * apart[:, None]


class Moments(Windowed):
    """Second moments, and a sample of whole windows from which the intervals are computed.

    In float64: the Gram matrix squares the condition, and small singular values matter to some of the metrics.

    Args:
        tokens: tokens, in whole windows, that are kept for the interval; the value uses all of them
    """

    sites = STATE_SITES
    heads_at: ClassVar = {"moments": 0, "kept": 1}
    stays: ClassVar = ("kept",)
    precision = torch.float32
    moments: Float64[Tensor, "h e e"]
    windows: Float64[Tensor, ""]
    kept: list[Float[Tensor, "m h d"]]
    kept_ids: list[Int[Tensor, " m"]]

    def __init__(self, tokens: int = 8192) -> None:
        super().__init__()
        self.budget = tokens
        self.add_state("moments", scalar(), dist_reduce_fx=merge_moments)
        self.add_state("windows", scalar(), dist_reduce_fx="sum")
        self.add_state("kept", [], dist_reduce_fx="cat")
        self.add_state("kept_ids", [], dist_reduce_fx="cat")

    def update(self, batch: States) -> None:
        self.add(batch.x, batch.windows)

    def add(self, x: Float[Tensor, "n h d"], windows: Int[Tensor, " n"]) -> None:
        """Take the states of more tokens."""
        x = floating(x)
        self.precision = x.dtype
        n, h, d = x.shape
        mean = x.mean(0, dtype=torch.float64)
        products = self_product(x.transpose(0, 1) - mean[:, None])
        if not self.moments.ndim:
            self.moments = mean.new_zeros(h, d + 1, d + 1)
        add_moments(self.moments, mean.new_full((h,), n), mean, products)
        self.windows = self.windows + len(numbered(windows)[0])
        ids = torch.cat([*self.kept_ids, windows])
        if len(ids) <= self.budget:
            self.kept, self.kept_ids = [*self.kept, x], [ids]
        else:
            mask = kept_windows(ids, self.budget)
            self.kept, self.kept_ids = sift(self.kept, x, mask), [ids[mask]]

    def take(self, whole: Metric, number: int) -> None:
        super().take(whole, number)
        self.precision = cast(Moments, whole).precision

    @property
    def heads(self) -> int:
        return len(self.moments) if self.moments.ndim else 1

    @property
    def n(self) -> int:
        return int(self.moments[0, 0, 0]) if self.moments.ndim else 0

    @property
    def mean(self) -> Float64[Tensor, "h d"]:
        return self.moments[:, 0, 1:]

    @property
    def covariance(self) -> Float64[Tensor, "h d d"]:
        """Covariance (divided by n)."""
        return self.moments[:, 1:, 1:] / self.n

    @once
    def trouble(self) -> str:
        return trouble_of_sums(self.n, self.moments.isfinite() if self.moments.ndim else None)

    @once
    def flat(self) -> str:
        """Why nothing can be computed from the covariance; empty where all is well."""
        return self.trouble or self._flat(slice(None))

    def _flat(self, part: slice) -> str:
        power = self.covariance.diagonal(dim1=-2, dim2=-1)[..., part].sum(-1)
        floor = unresolved(self.mean[..., part].square().sum(-1), self.precision)
        return "all states are equal" if (power <= floor).any() else ""

    @once
    def sample(self) -> tuple[Float[Tensor, "h m d"], Int[Tensor, " m"]]:
        """The tokens of the windows kept, and their window ids."""
        x, ids = dim_zero_cat(self.kept), dim_zero_cat(self.kept_ids)
        if self.whole is not None:
            x = x.to(ids.device)
        if len(ids) > self.budget:
            chosen = kept_windows(ids, self.budget).nonzero()[:, 0]
            x, ids = x[sent(chosen, x.device)], ids[chosen]
        return x.transpose(0, 1), ids

    @once
    def centred(self) -> Float[Tensor, "h m d"]:
        """The tokens of the windows kept, about the mean."""
        x, _ = self.sample
        return x - sent(self.mean[:, None].to(x.dtype), x.device)

    @once.of_heads(0, 0, None)
    def within(self) -> tuple[Float64[Tensor, "h w"], Float64[Tensor, "h w"], Int[Tensor, " w"]]:
        """Of each window kept, C the sum of outer products about the mean: |C|_F^2, tr(C) and the number of tokens."""
        windows = self.sample[1]
        z = by_window(self.centred.transpose(0, 1), windows).permute(2, 0, 1, 3)
        with precise(z):
            squares = (z @ z.mT).square().sum((-2, -1), dtype=torch.float64)
        return squares, z.square().sum((-2, -1), dtype=torch.float64), window_sums(torch.ones_like(windows), windows)[0]

    @once
    def n_effective(self) -> float:
        """Independent tokens whose covariance would be as noisy as that of these, the least over heads.

        From the covariance's mean squared error |S - E S|_F^2, by tokens over by windows.
        """
        squares, _, sizes = self.within
        norm = self.covariance.square().sum((-2, -1))
        of_tokens = self.fourth_powers - int(sizes.sum()) * norm
        of_windows = squares.sum(-1) - sizes.double().square().sum() * norm
        share = (of_tokens / of_windows.where(of_windows > 0, torch.nan)).nan_to_num(1).clamp(0, 1)
        return self.n * float(share.min())

    @once.of_heads(0)
    def fourth_powers(self) -> Float64[Tensor, " h"]:
        """The sum over the tokens kept of their distance from the mean to the fourth power."""
        return self.centred.square().sum(-1).double().square().sum(-1)

    @once.of_heads(0, 1)
    def spectrum(self) -> tuple[Float64[Tensor, "h d"], Float64[Tensor, "w h d"]]:
        """Eigenvalues of the covariance, descending, and their influence."""
        values, vectors = decomposed(self.covariance)
        values, vectors = above_rounding(values.flip(-1)), vectors.flip(-1)
        x = self.centred
        along = (x @ sent(vectors.to(x.dtype), x.device)).square() - sent(values[:, None].to(x.dtype), x.device)
        return values, self.influence(along, self.sample[1])

    def influence(
        self, of_tokens: Float[Tensor, "h m *rest"], windows: Int[Tensor, " m"]
    ) -> Float64[Tensor, "w h *rest"]:
        """Return the influence of windows from the influence of their tokens."""
        sums, _ = window_sums(of_tokens.transpose(0, 1).double(), windows)
        return sums * (self.windows / self.n)


def decomposed(matrices: Float64[Tensor, "h d d"]) -> tuple[Float64[Tensor, "h d"], Float64[Tensor, "h d d"]]:
    """Return eigenvalues, ascending, and eigenvectors of symmetric matrices, several at a time; of NaN, those of 0."""
    if len(matrices) == 1:
        return torch.linalg.eigh(matrices)
    with ThreadPoolExecutor() as pool:
        parts = pool.map(torch.linalg.eigh, matrices.nan_to_num(0, 0, 0))
        values, vectors = (torch.stack(part) for part in zip(*parts, strict=True))
    return values, vectors


class CrossMoments(Moments):
    """Second moments of two representations together, fed `Pair`s: no site has two."""

    sites = ("pair",)
    heads_at: ClassVar = {}
    split = 0  # width of the first

    def update(self, batch: Pair) -> None:  # type: ignore[override]  # its sites differ, and so does what it is fed
        self.split = batch.x.shape[-1]
        self.add(torch.cat([batch.x, batch.y], dim=-1), batch.windows)

    @once
    def by_window(self) -> Float64[Tensor, "h w t e"]:
        """The states of each window kept, about the mean, zeros after those of the shorter ones."""
        x, windows = self.sample
        return by_window((x.double() - self.mean[:, None]).transpose(0, 1), windows).permute(2, 0, 1, 3)

    @once
    def flat(self) -> str:
        return self.trouble or self._flat(slice(self.split)) or self._flat(slice(self.split, None))
