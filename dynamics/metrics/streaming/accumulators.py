"""What is kept of a stream of token states: sums, moments, a sample of tokens.

Each accumulator is the common base of the metrics that read it. Its state is a handful of tensors, each with
its reduction, so that batches, their order and the ranks change nothing beyond rounding. All work stays on the
device of the states. Legend: n tokens, h heads, d width, W windows.
"""

from collections.abc import Hashable

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from dynamics.metrics.streaming.arithmetic import above_rounding, floating, precise, self_product, unresolved
from dynamics.metrics.streaming.base import HEAD_SITES, STATE_SITES, Metric, Pair, States, once
from dynamics.metrics.streaming.neighbors import nearest, unique_rows
from dynamics.metrics.streaming.sampling import kept_windows, occurrence, priority, sift, window_sums


def scalar() -> Tensor:
    """An empty sum: takes the shape and device of the first thing added to it."""
    return torch.zeros((), dtype=torch.float64)


def state_sums(x: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the tokens of each window of states x (n, h, d), float64, and the W window ids.

    Layout of the last axis of the sums (W, h, 2d + 2): state (d), direction (d), norm (1), number of tokens (1).
    Within a window they are taken in the precision of x.
    """
    ids, inverse = windows.unique(return_inverse=True)
    own = x.new_zeros(len(ids), len(x))
    own[inverse, torch.arange(len(x), device=x.device)] = 1
    x = x.transpose(0, 1)
    norm = x.norm(dim=-1)
    # A direction is a state weighted by the inverse of its norm: a product, and no copy of the states.
    with precise(x):
        sums = torch.cat([own.expand(len(x), -1, -1), own / norm[:, None]], dim=1) @ x
        norms = (norm @ own.mT)[..., None]
    number = own.sum(1)[:, None].expand_as(norms)
    return torch.cat([*sums.chunk(2, dim=1), norms, number], dim=-1).double().transpose(0, 1), ids


class WindowSums(Metric):
    """Sums over the tokens of each window: of all windows, and one by one of a seeded sample of them."""

    def __init__(self, windows: int = 512) -> None:
        super().__init__()
        self.budget = windows
        self.add_state("total", scalar(), dist_reduce_fx="sum")  # (h, s)
        self.add_state("windows", scalar(), dist_reduce_fx="sum")
        self.add_state("kept", [], dist_reduce_fx="cat")  # (W, h, s)
        self.add_state("kept_ids", [], dist_reduce_fx="cat")  # (W,)

    def add(self, sums: Tensor, ids: Tensor) -> None:
        """Take the sums (W, h, s) of the windows `ids` (W,); of one that was there before, they are added to its own.

        (One that the sample has dropped counts again.)
        """
        self.total = self.total + sums.sum(0)
        before = sum(map(len, self.kept_ids))
        kept, known = torch.cat([*self.kept, sums]), torch.cat([*self.kept_ids, ids])
        if torch.isin(ids, known[:before]).any():  # local attention gives a window in several calls
            kept, known = window_sums(kept, known)
        self.windows = self.windows + len(known) - before
        mask = kept_windows(known, self.budget)
        self.kept, self.kept_ids = [kept[mask]], [known[mask]]

    @property
    def heads(self) -> int:
        return len(self.total) if self.total.ndim else 1

    @property
    @once
    def sample(self) -> Tensor:
        """Sums for each of the windows kept, in the order of their ids, shape (W, h, s)."""
        kept, ids = window_sums(dim_zero_cat(self.kept), dim_zero_cat(self.kept_ids))
        return kept[kept_windows(ids, self.budget)]


class Sums(WindowSums):
    """First moments: sums of the states, of their directions and of their norms, in all and for each window.

    Layout of a sum's last axis: state (d), direction (d), norm (1), number of tokens (1).
    """

    sites = (*STATE_SITES, *HEAD_SITES)

    def __init__(self, windows: int = 512) -> None:
        super().__init__(windows)
        # pairs within windows: cosines and number, (h, 2)
        self.add_state("own", scalar(), dist_reduce_fx="sum")

    @property
    def accumulator(self) -> Hashable:
        return Sums, self.budget

    def update(self, batch: States) -> None:
        x = floating(batch.x)
        sums, ids = state_sums(x, batch.windows)
        direction, number = sums[..., x.shape[-1] : -2], sums[..., -1]
        self.own = self.own + torch.stack([direction.square().sum((0, -1)), number.square().sum(0)], dim=-1)
        self.add(sums, ids)

    @property
    def width(self) -> int:
        return self.total.shape[-1] // 2 - 1

    @property
    def n(self) -> int:
        return int(self.total[0, -1]) if self.total.ndim else 0

    @property
    @once
    def trouble(self) -> str:
        """Why nothing can be read off the sums; empty where all is well."""
        if self.n < 2:
            return "fewer than two tokens"
        if not self.total[:, : self.width].isfinite().all():
            return "a state is not finite"
        return ""

    @property
    @once
    def mean(self) -> Tensor:
        """Means of (state, direction, norm), shape (h, 2d + 1)."""
        return self.total[:, :-1] / self.n

    @property
    @once
    def deviations(self) -> Tensor:
        """Influence on `mean` of the windows kept, shape (W, h, 2d + 1)."""
        return (self.sample[..., :-1] - self.sample[..., -1:] * self.mean) * (self.windows / self.n)


def merge_moments(parts: Tensor) -> Tensor:
    """Moments of the whole from those of its parts, shape (R, h, d + 1, d + 1) -> (h, d + 1, d + 1).

    Layout: number of tokens at [0, 0], mean at [0, 1:], sum of centred outer products at [1:, 1:].
    """
    whole = parts[0].clone()
    for part in parts[1:]:
        add_moments(whole, part[:, 0, 0], part[:, 0, 1:], part[:, 1:, 1:])
    return whole


def add_moments(whole: Tensor, n: Tensor, mean: Tensor, products: Tensor) -> None:
    """Add to the moments of a whole, in place, those of n more tokens.

    Pairwise update of mean and centred second moment (Chan, Golub and LeVeque, 1983): no cancellation, however
    far the mean lies from the origin.
    """
    before = whole[:, 0, 0].clone()
    after = before + n
    apart = mean - whole[:, 0, 1:]
    whole[:, 0, 0] = after
    whole[:, 0, 1:] += apart * (n / after)[:, None]
    whole[:, 1:, 1:] += products
    whole[:, 1:, 1:] += (apart * (before * n / after)[:, None])[:, :, None] * apart[:, None]


class Moments(Metric):
    """Second moments, and a sample of whole windows from which the intervals are read.

    In float64: the Gram matrix squares the condition, and small singular values matter to some of the metrics.
    """

    sites = STATE_SITES

    def __init__(self, tokens: int = 8192) -> None:
        super().__init__()
        self.budget = tokens
        self.precision = torch.float32
        self.add_state("moments", scalar(), dist_reduce_fx=merge_moments)  # (h, d + 1, d + 1)
        self.add_state("windows", scalar(), dist_reduce_fx="sum")
        self.add_state("kept", [], dist_reduce_fx="cat")  # (m, h, d)
        self.add_state("kept_ids", [], dist_reduce_fx="cat")  # (m,)

    @property
    def accumulator(self) -> Hashable:
        return Moments, self.budget

    def update(self, batch: States) -> None:
        x = floating(batch.x)
        self.precision = x.dtype
        n, h, d = x.shape
        mean = x.mean(0, dtype=torch.float64)
        products = self_product(x.transpose(0, 1) - mean[:, None])
        if not self.moments.ndim:
            self.moments = mean.new_zeros(h, d + 1, d + 1)
        add_moments(self.moments, mean.new_full((h,), n), mean, products)
        self.windows = self.windows + len(batch.windows.unique())
        ids = torch.cat([*self.kept_ids, batch.windows])
        mask = kept_windows(ids, self.budget)
        self.kept, self.kept_ids = sift(self.kept, x, mask), [ids[mask]]

    @property
    def heads(self) -> int:
        return len(self.moments) if self.moments.ndim else 1

    @property
    def n(self) -> int:
        return int(self.moments[0, 0, 0]) if self.moments.ndim else 0

    @property
    def mean(self) -> Tensor:
        """Mean state, shape (h, d)."""
        return self.moments[:, 0, 1:]

    @property
    def covariance(self) -> Tensor:
        """Covariance (divided by n), shape (h, d, d)."""
        return self.moments[:, 1:, 1:] / self.n

    @property
    @once
    def trouble(self) -> str:
        """Why nothing can be read off the moments; empty where all is well."""
        if self.n < 2:
            return "fewer than two tokens"
        if not self.moments.isfinite().all():
            return "a state is not finite"
        return ""

    @property
    @once
    def flat(self) -> str:
        """Why nothing can be read off the covariance; empty where all is well."""
        return self.trouble or self._flat(slice(None))

    def _flat(self, part: slice) -> str:
        power = self.covariance.diagonal(dim1=-2, dim2=-1)[..., part].sum(-1)
        floor = unresolved(self.mean[..., part].square().sum(-1), self.precision)
        return "all states are equal" if (power <= floor).any() else ""

    @property
    @once
    def sample(self) -> tuple[Tensor, Tensor]:
        """The tokens of the windows kept, (h, m, d), and their window ids (m,)."""
        ids = dim_zero_cat(self.kept_ids)
        mask = kept_windows(ids, self.budget)
        return dim_zero_cat(self.kept)[mask].transpose(0, 1), ids[mask]

    @property
    @once
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of the covariance, descending, (h, d), and their influence (W, h, d)."""
        values, vectors = torch.linalg.eigh(self.covariance)
        values, vectors = above_rounding(values.flip(-1)), vectors.flip(-1)
        x, windows = self.sample
        along = ((x - self.mean[:, None].to(x)) @ vectors.to(x)).square() - values[:, None].to(x)
        return values, self.influence(along, windows)

    def influence(self, of_tokens: Tensor, windows: Tensor) -> Tensor:
        """Influence of windows (W, h, ...) from the influence of their tokens (h, m, ...)."""
        sums, _ = window_sums(of_tokens.transpose(0, 1).double(), windows)
        return sums * (self.windows / self.n)


class CrossMoments(Moments):
    """Second moments of two representations together, fed `Pair`s by hand: no site has two."""

    sites = ("pair",)

    def __init__(self, tokens: int = 8192) -> None:
        super().__init__(tokens)
        self.split = 0

    @property
    def accumulator(self) -> Hashable:
        return CrossMoments, self.budget

    def update(self, batch: Pair) -> None:
        self.split = batch.x.shape[-1]
        super().update(States(torch.cat([batch.x, batch.y], dim=-1), batch.windows))

    @property
    @once
    def flat(self) -> str:
        return self.trouble or self._flat(slice(self.split)) or self._flat(slice(self.split, None))


class Sample(Metric):
    """A seeded sample of tokens (one head), for what needs their neighbours."""

    sites = STATE_SITES

    def __init__(self, size: int = 4096, seed: int = 0) -> None:
        super().__init__()
        self.size, self.seed = size, seed
        self.add_state("kept", [], dist_reduce_fx="cat")  # (m, d)
        self.add_state("kept_ids", [], dist_reduce_fx="cat")  # (m,)
        self.add_state("order", [], dist_reduce_fx="cat")  # (m,)

    @property
    def accumulator(self) -> Hashable:
        return Sample, self.size, self.seed

    def update(self, batch: States) -> None:
        place = priority(occurrence(batch.windows), self.seed)
        order = torch.cat([*self.order, priority(batch.windows ^ place, self.seed)])
        chosen = torch.zeros_like(order, dtype=torch.bool)
        chosen[order.argsort()[: self.size]] = True
        self.kept, self.order = sift(self.kept, floating(batch.x[:, 0]), chosen), [order[chosen]]
        self.kept_ids = [torch.cat([*self.kept_ids, batch.windows])[chosen]]

    @property
    @once
    def places(self) -> Tensor:
        """Where the sample lies in what is kept, in an order that the stream's order does not touch, (m,)."""
        return dim_zero_cat(self.order).argsort()[: self.size]

    @property
    @once
    def sample(self) -> Tensor:
        """The tokens, (m, d)."""
        return dim_zero_cat(self.kept)[self.places] if len(self.order) else torch.zeros(0, 1)

    @property
    @once
    def trouble(self) -> str:
        """Why nothing can be read off the sample; empty where all is well."""
        return "" if self.sample.isfinite().all() else "a state is not finite"

    @property
    @once
    def first(self) -> Tensor:
        """Which tokens of the sample equal no earlier one exactly, (u,)."""
        return unique_rows(self.sample)

    @property
    @once
    def different(self) -> Tensor:
        """The sample without its exact duplicates, (u, d)."""
        return self.sample if len(self.first) == len(self.sample) else self.sample[self.first]

    @property
    @once
    def windows(self) -> Tensor:
        """The window ids of the different tokens, (u,)."""
        return dim_zero_cat(self.kept_ids)[self.places][self.first]

    @property
    @once
    def pairs(self) -> tuple[Tensor, Tensor]:
        """The two nearest neighbours of each of the different tokens: distances and indices, (u, 2)."""
        return nearest(self.different, 2)
