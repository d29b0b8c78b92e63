"""Exact nearest neighbours by blocked matrix products, wherever the tokens are.

The squared distance of x_i and x_j is |x_i|^2 + |x_j|^2 - 2 x_i.x_j: one product about the mean, in float32 (bfloat16
where the CPU multiplies that much faster), gives a few candidates more than asked for, whose distances are then
recomputed in float64 from the differences. A row whose candidates the product's rounding cannot vouch for is searched
again, one precision up; so the result is that of float64 differences over all pairs (ties aside).
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from dynamics.metrics.streaming.arithmetic import all_equal, floating, multiplies_in_full, precise, unresolved
from dynamics.metrics.streaming.transfer import sent

BLOCK = 1 << 22  # entries of the distance matrix that exist at a time
SPARE = {torch.bfloat16: 4}  # candidates beyond the k asked for, by the product's precision; else 2 + k / 8
FEW = 1 / 512  # share of rows that are cheaper to compare by differences than by a product of all
GROUP = 32  # columns of which the product's maximum is taken at once, when k is small
WHOLE = 1 << 24  # entries of the distance matrix up to which it is held whole, so that half of it is computed


def unique_rows(x: Float[Tensor, "n d"]) -> Int[Tensor, " u"]:
    """Return the indices, ascending, of the first of each set of exactly equal rows.

    >>> unique_rows(torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, -0.0]]))
    tensor([0, 1])
    """
    if len(x) < 2:
        return torch.arange(len(x), device=x.device)
    x = x + 0.0  # -0.0 equals 0.0
    codes = codes_of(x[:, :16]).unique()
    if len(codes) == len(x):  # a few columns tell all rows apart
        return torch.arange(len(x), device=x.device)
    _, inverse = codes_of(x).unique(return_inverse=True)
    if not torch.equal(x[_first(inverse)[inverse]], x):  # a collision
        _, inverse = x.unique(dim=0, return_inverse=True)
    return _first(inverse).sort().values


def codes_of(x: Float[Tensor, "*batch n d"]) -> Int[Tensor, "*batch n"]:
    """Return a hash of each row: equal rows have equal ones, unequal rows unequal ones unless they collide."""
    bits = x.contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int64)
    generator = torch.Generator().manual_seed(0)
    odd = torch.randint(-(2**62), 2**62, (bits.shape[-1],), generator=generator) * 2 + 1
    return (bits * sent(odd, bits.device)).sum(-1)


class Different(NamedTuple):
    """Rows that equal no earlier one, up to rounding, and their nearest neighbours among each other."""

    rows: Int[Tensor, " u"]
    exact: int  # how many differ exactly: the others of these equal one but for rounding
    distances: Float64[Tensor, "u k"]
    neighbours: Int[Tensor, "u k"]


def different_rows(x: Float[Tensor, "n d"], k: int = 4) -> Different:
    """Find the rows of `x` that equal no earlier one, and their k (or all) nearest neighbours.

    Two rows are equal where rounding could set them apart (`unresolved`: half their distance is at most four units in
    the last place of their norm), and so is what is linked by such pairs.
    """
    rows = unique_rows(x)
    exact = len(rows)
    if all_equal(x):
        rows = rows[:1]
    while True:
        cloud = x if len(rows) == len(x) else x[rows]
        if len(rows) < 2 or not cloud.isfinite().all():
            return Different(rows, exact, x.new_empty(len(rows), 0).double(), rows.new_empty(len(rows), 0))
        distances, neighbours = nearest(cloud, min(k, len(rows) - 1))
        power = cloud.double().square().sum(-1, keepdim=True)
        equal = (distances / 2).square() <= unresolved(power, floating(x).dtype)
        if not equal.any():
            return Different(rows, exact, distances, neighbours)
        rows = rows[first_of_linked(equal.cpu(), neighbours.cpu()).to(rows.device)]


def first_of_linked(linked: Bool[Tensor, "n k"], to: Int[Tensor, "n k"]) -> Bool[Tensor, " n"]:
    """Mark the first of each set of rows that links connect, directly or not."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    at, rank = linked.nonzero().T
    links = coo_array((np.ones(len(at)), (at, to[at, rank])), shape=(len(to), len(to)))
    labels = torch.from_numpy(connected_components(links, directed=False)[1]).long()
    return torch.zeros(len(to), dtype=torch.bool).index_fill_(0, _first(labels), True)


def without_duplicates(x: Float[Tensor, "n d"]) -> Float[Tensor, "u d"]:
    """Return `x` without the rows that equal an earlier one up to rounding; `x` itself where there are none."""
    different = different_rows(x, k=1).rows
    return x if len(different) == len(x) else x[different]


def _first(inverse: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
    """Return the lowest position of each value 0..m-1 of `inverse`."""
    first = inverse.new_full((int(inverse.max()) + 1,), len(inverse))
    return first.scatter_reduce_(0, inverse, torch.arange(len(inverse), device=inverse.device), "amin")


def nearest(
    x: Float[Tensor, "n d"], k: int, rows: Int[Tensor, " m"] | None = None
) -> tuple[Float64[Tensor, "m k"], Int[Tensor, "m k"]]:
    """Find the k nearest other rows of `x`, n > k, for each row or for `rows` only.

    Distances, ascending, and indices.

    >>> distances, indices = nearest(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), k=2)
    >>> distances.tolist(), indices.tolist()
    ([[1.0, 3.0], [1.0, 2.0], [2.0, 3.0], [4.0, 6.0]], [[1, 2], [0, 2], [1, 0], [2, 1]])
    """
    rows = torch.arange(len(x), device=x.device) if rows is None else rows
    distances = torch.empty(len(rows), k, dtype=torch.float64, device=x.device)
    indices = torch.empty(len(rows), k, dtype=torch.long, device=x.device)
    left = torch.arange(len(rows), device=x.device)
    for precision in _precisions(x, k):
        if not len(left):
            break
        precision = precision if len(left) > FEW * len(x) else None
        cloud = _Cloud(x.double() if precision == torch.float64 else x)
        distances[left], indices[left], certain = cloud.search(rows[left], k, precision)
        left = left[~certain]
    return distances, indices


def _precisions(x: Tensor, k: int) -> list[torch.dtype | None]:
    """Return the precisions of the products to try, cheapest first; None stands for differences without a product."""
    tests = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    fast = k <= 4 and x.device.type == "cpu" and any(test is not None and test() for test in tests)
    return [*[torch.bfloat16] * fast, *[torch.float32] * multiplies_in_full(x.device), torch.float64, None]


# All distances between the rows of two tensors, from their differences.
_apart = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")


class _Cloud:
    """Rows about their mean, in the precision of `x`, with what all searches among them need."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.centred = x - x.mean(0, dtype=torch.float64).to(x.dtype)
        self.norm = self.centred.norm(dim=-1).double()

    def search(self, rows: Tensor, k: int, precision: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return distances and indices of the neighbours of `rows`, and where they are certain."""
        n, size = len(self.x), max(1, BLOCK // len(self.x))
        if precision is None:
            results = [self._by_differences(block, k) for block in rows.split(size)]
        else:
            products = _ScoreProducts(self.centred, k, precision)
            take = min(k + SPARE.get(precision, 2 + k // 8), n - 1)
            if len(rows) == n and n * n <= WHOLE and self.x.device.type == "cpu" and n // GROUP >= 4 * take:
                results = [self._settle(rows, k, products, *products.highest_of_all(take))]
            else:
                results = [
                    self._settle(block, k, products, *products.highest(block, take)) for block in rows.split(size)
                ]
        distances, indices, certain = (torch.cat(part) for part in zip(*results, strict=True))
        again = (~certain).nonzero()[:, 0]
        if precision is not None and 0 < len(again) < len(rows) / 8:  # more candidates may do
            more = products.highest(rows[again], min(8 * take, n - 1))
            distances[again], indices[again], certain[again] = self._settle(rows[again], k, products, *more)
        return distances, indices, certain

    def _by_differences(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        apart = _apart(self.x[rows].double(), self.x.double())
        apart.scatter_(1, rows[:, None], torch.inf)
        return *apart.topk(k, dim=1, largest=False), torch.ones_like(rows, dtype=torch.bool)

    def _settle(
        self, rows: Tensor, k: int, products: "_ScoreProducts", bound: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the k nearest of the candidates, and whether no other row can be nearer than these."""
        parts = zip(rows.split(256), candidates.split(256), strict=True)  # small enough for the cache
        distances, order = torch.cat([_distances(self.x, *part) for part in parts]).sort(dim=-1)
        distances = distances[:, :k]
        # Only rows of norm up to |x_i| + r_k are within reach.
        norm = self.norm[rows]
        floor = products.least_distance(rows, bound.double(), norm, norm + distances[:, -1])
        return distances, candidates.gather(1, order[:, :k]), distances[:, -1] < floor


class _ScoreProducts:
    """Scores c - |y_i - y_j|^2 / 2 as one product of matrices, y the rows rounded to a precision.

    c lies about the scores of neighbours, so that these are small and rounded finely.
    """

    def __init__(self, centred: Tensor, k: int, precision: torch.dtype) -> None:
        n, d = centred.shape
        self.n, self.precision = n, precision
        rounded = centred.to(precision)
        self.lost = (centred - rounded).norm(dim=-1).double()
        self.ratio = (self.lost / centred.norm(dim=-1)).nan_to_num().max()
        half = 0.5 * rounded.to(centred.dtype).norm(dim=-1).double().square()
        self.shift = self._typical(centred, k)
        parts, rest = [], 0.5 * self.shift - half
        for _ in range(3):  # to more digits than one column has
            parts.append(rest.to(precision))
            rest = rest - parts[-1]
        # To a whole number of groups and to even steps of the product; rows that are added score lowest.
        size = (-(-n // GROUP) * GROUP, -(-(d + 6) // 32) * 32)
        self.left, self.right = rounded.new_zeros(size), rounded.new_zeros(size)
        for factor, terms, ones in ((self.left, d, d + 3), (self.right, d + 3, d)):
            factor[:n, :d] = rounded
            factor[:n, terms : terms + 3] = torch.stack(parts, dim=1)
            factor[n:, terms] = -torch.finfo(torch.bfloat16).max / 4
            factor[:, ones : ones + 3] = 1

    @staticmethod
    def _typical(centred: Tensor, k: int) -> Tensor:
        """Return about half the squared distance of a k-th neighbour; any value will do."""
        some = centred[:: max(1, len(centred) // 16)]
        half = 0.5 * centred.square().sum(-1)
        with precise(centred):
            apart = half - some @ centred.mT + half[:: max(1, len(centred) // 16), None]
        # Not kthvalue, of which CUDA has no deterministic kernel.
        near = apart.topk(min(k + 1, len(centred)), dim=1, largest=False).values.amax(1)
        return near.median().double().nan_to_num()

    def highest(self, rows: Tensor, take: int) -> tuple[Tensor, Tensor]:
        """Return the lowest of the `take` highest scores of `rows`, and their columns, (m, take)."""
        with precise(self.left):
            score = self.left[rows] @ self.right[: self.n].mT
        score.scatter_(1, rows[:, None], -torch.inf)
        return _highest(score, take)

    def highest_of_all(self, take: int) -> tuple[Tensor, Tensor]:
        """Return `highest` of every row from half the products, for i scores with j as j with i."""
        size, groups = len(self.left), len(self.left) // GROUP
        strip = groups * max(1, 256 // groups)
        starts = range(0, size, strip)
        score = self.left.new_empty(sum(min(strip, size - start) * (size - start) for start in starts))
        best = [self.left.new_full(shape, -torch.inf) for shape in ((size, groups), (groups, size))]
        places = torch.empty(size, dtype=torch.long)  # of (i, j) in `score`, less j
        end = 0
        for start in starts:
            rows = slice(start, min(start + strip, size))
            width, begin = size - start, end
            end += (rows.stop - start) * width
            places[rows] = begin - start + width * torch.arange(rows.stop - start)
            part = score[begin:end].view(-1, width)
            with precise(self.left):
                torch.mm(self.left[rows], self.right[start:].mT, out=part)
            part.diagonal().fill_(-torch.inf)
            best[0][rows] = part.unflatten(1, (-1, groups)).amax(1)
            below = best[1][:, rows.stop :]
            torch.maximum(below, part[:, rows.stop - start :].unflatten(0, (-1, groups)).amax(0), out=below)
        # the highest lie in the groups (columns equal modulo `groups`) with the highest maxima
        chosen = torch.maximum(best[0], best[1].mT)[: self.n].topk(take, dim=1).indices
        columns = (chosen[:, None] + groups * torch.arange(GROUP)[:, None]).flatten(1)
        index = torch.arange(self.n)[:, None]
        across = columns >= index // strip * strip  # else the score lies on the other side of the diagonal
        values, picked = score.take(torch.where(across, places[index] + columns, places[columns] + index)).topk(take)
        return values[:, -1], columns.gather(1, picked)

    def least_distance(self, rows: Tensor, bound: Tensor, norm: Tensor, reach: Tensor) -> Tensor:
        """Return what separates a row at least from those of norm up to `reach` that score at most `bound`.

        The bound is rounded on output, the sum underway; and |x_i - x_j| >= |y_i - y_j| less what the rounding of both
        took.
        """
        unit, width = torch.finfo(self.precision).eps, self.left.shape[1]
        summed = (norm + reach).square() + self.shift.abs()
        slack = unit * bound.abs() + 4 * width**0.5 * min(unit, torch.finfo(torch.float32).eps) * summed
        apart = (2 * (self.shift - bound - slack)).clamp(min=0).sqrt()
        return apart - self.lost[rows] - torch.minimum(self.lost.max(), self.ratio * reach)


def _distances(x: Tensor, rows: Tensor, candidates: Tensor) -> Tensor:
    """Return the distances of `rows` (m,) to their `candidates` (m, k), from the differences, float64."""
    others = x.index_select(0, candidates.flatten()).view(*candidates.shape, -1)
    return _apart(x[rows, None].double(), others.double())[:, 0]


def _highest(score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k-th highest score of each row, and the columns of the k highest, (m, k)."""
    m, n = score.shape
    groups = n // GROUP
    if groups < 4 * k:
        values, columns = score.topk(k, dim=1)
        return values[:, -1], columns
    # the k highest lie in the k groups with the highest maxima, or in the remainder
    best = score[:, : groups * GROUP].view(m, GROUP, groups).amax(1).topk(k, dim=1).indices
    columns = (best[:, None] + groups * torch.arange(GROUP, device=score.device)[:, None]).flatten(1)
    rest = torch.arange(groups * GROUP, n, device=score.device).expand(m, -1)
    columns = torch.cat([columns, rest], dim=1)
    values, picked = score.gather(1, columns).topk(k, dim=1)
    return values[:, -1], columns.gather(1, picked)
