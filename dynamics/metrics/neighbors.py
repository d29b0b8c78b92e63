"""Exact nearest neighbours by blocked matrix products, wherever the tokens are.

The squared distance of x_i and x_j is, but for a term of x_i alone, |x_j|^2 - 2 x_i.x_j: one product in float32
about the mean gives a few candidates more than asked for, whose distances are then recomputed in float64 from
the differences. A row whose candidates the product's rounding cannot vouch for is searched again, one precision
up; so the result is that of float64 differences over all pairs (ties aside).
"""

import torch
from torch import Tensor

BLOCK = 1 << 22
"""Entries of the distance matrix that exist at a time."""

SPARE = 2
"""Candidates beyond the k asked for."""

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
    bits = x.contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int64)
    generator = torch.Generator().manual_seed(0)
    odd = torch.randint(-(2**62), 2**62, (bits.shape[-1],), generator=generator) * 2 + 1
    code = (bits * odd.to(bits.device)).sum(-1)  # equal rows have equal codes
    _, inverse = code.unique(return_inverse=True)
    if not torch.equal(x[_first(inverse)[inverse]], x):  # and unequal rows unequal ones, but for a collision
        _, inverse = x.unique(dim=0, return_inverse=True)
    return _first(inverse).sort().values


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
    centred = (x - x.mean(0, dtype=torch.float64)).double()
    distances = centred.new_empty(len(rows), k)
    indices = rows.new_empty(len(rows), k)
    left = torch.arange(len(rows), device=x.device)
    for precision in (torch.float32, torch.float64, None):
        found, certain = _search(centred, rows[left], k, precision)
        distances[left], indices[left] = found
        left = left[~certain]
        if not len(left):
            break
    return distances, indices


def _search(
    x: Tensor, rows: Tensor, k: int, precision: torch.dtype | None
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Neighbours of `rows` by products in `precision` (None: by differences), and where they are certain."""
    n, d = x.shape
    y = x if precision is None else x.to(precision)
    half = 0.5 * x.square().sum(-1)
    size = max(1, BLOCK // n)
    results = []
    for block in rows.split(size):
        if precision is None:
            score = 0.5 * torch.cdist(x[block], x, compute_mode="donot_use_mm_for_euclid_dist").square()
            score -= half[block, None]
        else:
            score = torch.addmm(half.to(precision), y[block], y.mT, alpha=-1)
        score.scatter_(1, block[:, None], torch.inf)
        bound, candidates = _lowest(score, min(k + SPARE, n - 1))
        apart = x[candidates] - x[block, None]
        squares, order = torch.linalg.vecdot(apart, apart).sort(dim=-1)
        certain = torch.ones_like(block, dtype=torch.bool)
        if precision is not None and n - 1 > k + SPARE:
            # |error| of a score <= gamma (|x_i| |x_j| + |x_j|^2 / 2); gamma: 4 sqrt(d) roundings, far in the
            # tail
            reach = (2 * half.max()).sqrt()
            slack = 4 * d**0.5 * torch.finfo(precision).eps * reach * ((2 * half[block]).sqrt() + reach)
            certain = 0.5 * squares[:, k - 1] - half[block] < bound - slack
        results.append((squares[:, :k].sqrt(), candidates.gather(1, order[:, :k]), certain))
    distances, indices, certain = (torch.cat(parts) for parts in zip(*results, strict=True))
    return (distances, indices), certain


def _lowest(score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k-th lowest score of each row, and the columns of the k lowest, (m, k)."""
    m, n = score.shape
    groups = n // GROUP
    if groups < 4 * k:
        values, columns = score.topk(k, dim=1, largest=False)
        return values[:, -1], columns
    # the k lowest lie in the k groups with the lowest minima, or in the remainder
    whole = score[:, : groups * GROUP].view(m, GROUP, groups)
    best = whole.amin(1).topk(k, dim=1, largest=False).indices
    columns = (best[:, None] + groups * torch.arange(GROUP, device=score.device)[:, None]).flatten(1)
    rest = torch.arange(groups * GROUP, n, device=score.device).expand(m, -1)
    columns = torch.cat([columns, rest], dim=1)
    values, picked = score.gather(1, columns).topk(k, dim=1, largest=False)
    return values[:, -1], columns.gather(1, picked)
