"""Exact nearest neighbours by blocked matrix products, wherever the tokens are.

The squared distance of x_i and x_j is, but for a term of x_i alone, |x_j|^2 - 2 x_i.x_j: one product about
the mean, in float32 (bfloat16 where the CPU multiplies that much faster), gives a few candidates more than asked
for, whose distances are then recomputed in float64 from the differences. A row whose candidates the product's
rounding cannot vouch for is searched again, one precision up; so the result is that of float64 differences over
all pairs (ties aside).
"""

from functools import partial

import torch
from torch import Tensor

from dynamics.metrics.arithmetic import precise

BLOCK = 1 << 22
"""Entries of the distance matrix that exist at a time."""

SPARE = {torch.bfloat16: 6}
"""Candidates beyond the k asked for, by the product's precision; else two, and an eighth of k."""

FEW = 1 / 512
"""Share of rows that are cheaper to compare by differences than by a product of all."""

GROUP = 32
"""Columns of which the product's minimum is taken at once, when k is small."""


def unique_rows(x: Tensor) -> Tensor:
    """Indices, ascending, of the first of each set of exactly equal rows of `x` (n, d).

    >>> unique_rows(torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, -0.0]]))
    tensor([0, 1])
    """
    if len(x) < 2:
        return torch.arange(len(x), device=x.device)
    x = x + 0.0  # -0.0 equals 0.0
    codes = _codes(x[:, :16]).unique()
    if len(codes) == len(x):  # a few columns tell all rows apart
        return torch.arange(len(x), device=x.device)
    _, inverse = _codes(x).unique(return_inverse=True)
    if not torch.equal(x[_first(inverse)[inverse]], x):  # a collision
        _, inverse = x.unique(dim=0, return_inverse=True)
    return _first(inverse).sort().values


def _codes(x: Tensor) -> Tensor:
    """An int64 for each row; equal rows have equal codes, unequal rows unequal ones but for a collision."""
    bits = x.contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int64)
    generator = torch.Generator().manual_seed(0)
    odd = torch.randint(-(2**62), 2**62, (bits.shape[-1],), generator=generator) * 2 + 1
    return (bits * odd.to(bits.device)).sum(-1)


def without_duplicates(x: Tensor) -> Tensor:
    """`x` (n, d) without the rows that equal an earlier one; `x` itself where there are none."""
    different = unique_rows(x)
    return x if len(different) == len(x) else x[different]


def _first(inverse: Tensor) -> Tensor:
    """The lowest position of each value 0..m-1 of `inverse`."""
    first = inverse.new_full((int(inverse.max()) + 1,), len(inverse))
    return first.scatter_reduce_(0, inverse, torch.arange(len(inverse), device=inverse.device), "amin")


def nearest(x: Tensor, k: int, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k nearest other rows of `x` (n, d), n > k, for each row or for `rows` only.

    Returns:
        Distances (m, k), ascending, in float64, and indices (m, k).

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
    """Of the products to try, cheapest first; None stands for differences, which need no product."""
    tests = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    fast = k <= 4 and x.device.type == "cpu" and any(test is not None and test() for test in tests)
    exact = torch.get_float32_matmul_precision() == "highest"
    return [*[torch.bfloat16] * fast, *[torch.float32] * exact, torch.float64, None]


_apart = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")
"""All distances between the rows of two tensors, from their differences."""


class _Cloud:
    """Rows about their mean, in their own precision, with what all searches among them need."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.centred = x - x.mean(0, dtype=torch.float64).to(x.dtype)
        self.norm = self.centred.norm(dim=-1).double()
        self.half = 0.5 * self.norm.square()

    def search(self, rows: Tensor, k: int, precision: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:
        """Distances and indices of the neighbours of `rows`, and where they are certain."""
        size = max(1, BLOCK // len(self.x))
        if precision is None:
            results = [self._by_differences(block, k) for block in rows.split(size)]
        else:
            factors = self._factors(precision)
            results = [self._by_products(block, k, precision, *factors) for block in rows.split(size)]
        distances, indices, certain = (torch.cat(part) for part in zip(*results, strict=True))
        return distances, indices, certain

    def _by_differences(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        apart = _apart(self.x[rows].double(), self.x.double())
        apart.scatter_(1, rows[:, None], torch.inf)
        return *apart.topk(k, dim=1, largest=False), torch.ones_like(rows, dtype=torch.bool)

    def _factors(self, precision: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Factors (n, d + 3) and (d + 3, n) of the scores x_i x_j - |x_j|^2 / 2, and what rounding took, (n,)."""
        rounded = self.centred.to(precision)
        parts, rest = [], self.half
        for _ in range(3):  # |x_j|^2 / 2 to more digits than one column has
            parts.append(rest.to(precision))
            rest = rest - parts[-1]
        left = torch.cat([rounded, rounded.new_full((len(rounded), 3), -1)], dim=1)
        right = torch.cat([rounded, torch.stack(parts, dim=1)], dim=1).mT
        return left, right, (self.centred - rounded).norm(dim=-1).double()

    def _by_products(
        self, rows: Tensor, k: int, precision: torch.dtype, left: Tensor, right: Tensor, lost: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, d = self.x.shape
        with precise(self.x):
            score = left[rows] @ right  # greatest for the nearest
        score.scatter_(1, rows[:, None], -torch.inf)
        bound, candidates = _highest(score, min(k + SPARE.get(precision, 2 + k // 8), n - 1))
        parts = zip(rows.split(256), candidates.split(256), strict=True)  # small enough for the cache
        distances, order = torch.cat([_distances(self.x, *part) for part in parts]).sort(dim=-1)
        distances = distances[:, :k]
        # Who is not a candidate scores at most `bound`, rounded on output, but for the rounding of the factors
        # (Cauchy-Schwarz on what they lost) and of the sum. Only norms up to |x_i| + r_k are within reach.
        norm = self.norm[rows]
        reach = norm + distances[:, -1]
        unit = torch.finfo(precision).eps
        slack = (lost[rows] + (lost / self.norm).nan_to_num().max() * norm) * reach
        slack += 4 * (d + 3) ** 0.5 * min(unit, torch.finfo(torch.float32).eps) * (norm + reach) * reach
        bound = bound.double()
        score = self.half[rows] - 0.5 * distances[:, -1].square()
        certain = score > bound + 2 * unit * bound.abs() + slack
        return distances, candidates.gather(1, order[:, :k]), certain


def _distances(x: Tensor, rows: Tensor, candidates: Tensor) -> Tensor:
    """Distances of `rows` (m,) to their `candidates` (m, k), from the differences, float64."""
    others = x.index_select(0, candidates.flatten()).view(*candidates.shape, -1)
    return _apart(x[rows, None].double(), others.double())[:, 0]


def _highest(score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k-th highest score of each row, and the columns of the k highest, (m, k)."""
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
