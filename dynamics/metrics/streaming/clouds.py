"""Nearest neighbours within several clouds of equal size at once: for a device on which each launch and wait costs.

The search is that of `neighbors`, with one product in float32. The host is asked once for all clouds whether the
product vouches for its candidates; a cloud in which it does not is searched again there. Legend: l clouds, n states
each, d width.
"""

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from dynamics.metrics.streaming.arithmetic import about_mean, precise, unresolved
from dynamics.metrics.streaming.neighbors import Different, codes_of, different_rows, first_of_linked, nearest
from dynamics.metrics.streaming.transfer import sent, to_host

ENTRIES = 1 << 26  # numbers that a step of the search holds at a time
SPARE = 12  # candidates beyond the k asked for


def rows_of(x: Float[Tensor, "l n d"], at: Int[Tensor, "l m"]) -> Float[Tensor, "l m d"]:
    """Return the rows `at` of each cloud."""
    return x.flatten(0, 1)[at + x.shape[1] * torch.arange(len(x), device=x.device)[:, None]]


def different_in_each(x: Float[Tensor, "l n d"], k: int = 4) -> list[Different]:
    """Return `different_rows` of each cloud, on the host."""
    repeats = _repeats(x)
    flat = about_mean(x).isnan().flatten(1).any(1) | ~x.isfinite().flatten(1).all(1)
    floor = unresolved(x.double().square().sum(-1, keepdim=True), x.dtype)
    left, exact, result = list(range(len(x))), dict[int, int](), dict[int, Different]()
    while left:
        part = slice(None) if len(left) == len(x) else left
        distances, neighbours, certain = nearest_in_each(x[part], k, repeats[part])
        equal = (distances / 2).square() <= floor[part]
        host = to_host([distances, neighbours, certain, equal, repeats[part], flat[part]])
        at, left, linked = left, [], []
        for place, near, index, sure, same, dropped, is_flat in zip(at, *host, strict=True):
            rows = (~dropped).nonzero()[:, 0]
            exact.setdefault(place, len(rows))
            if is_flat or not sure[rows].all() or len(rows) <= k + SPARE:
                rows, count, near, index = different_rows(x[place], k)
                result[place] = Different(rows.cpu(), count, near.cpu(), index.cpu())
            elif same[rows].any():
                left.append(place)
                linked.append(dropped | ~first_of_linked(same & ~dropped[:, None], index))
            else:
                result[place] = Different(rows, exact[place], near[rows], ((~dropped).cumsum(0) - 1)[index[rows]])
        if left:
            repeats[left] = torch.stack(linked).to(x.device)
    return [result[place] for place in range(len(x))]


def neighbours_in_each(
    x: Float[Tensor, "l n d"], different: list[Different], k: int, rows: Int[Tensor, "l m"]
) -> Int[Tensor, "l m k"]:
    """Return the k nearest of the different states, more than k, to some of them in each cloud."""
    left_out = torch.ones(x.shape[:2], dtype=torch.bool)
    for mask, part in zip(left_out, different, strict=True):
        mask[part.rows] = False
    _, indices, certain = nearest_in_each(x, k, sent(left_out, x.device), sent(rows, x.device))
    for place in (~certain.all(1)).cpu().nonzero()[:, 0].tolist():
        kept = different[place].rows
        among = torch.searchsorted(kept, rows[place]).to(x.device)
        kept = kept.to(x.device)
        indices[place] = kept[nearest(x[place][kept], k, among)[1]]
    return indices


def nearest_in_each(
    x: Float[Tensor, "l n d"], k: int, left_out: Bool[Tensor, "l n"], rows: Int[Tensor, "l m"] | None = None
) -> tuple[Float64[Tensor, "l m k"], Int[Tensor, "l m k"], Bool[Tensor, "l m"]]:
    """Find the k nearest states of each state, or of `rows` of each cloud, among those that are not left out.

    Distances, ascending, indices, and whether no other state can be nearer.
    """
    layers, n, width = x.shape
    centred = x - x.mean(1, keepdim=True, dtype=torch.float64).to(x.dtype)
    norm = centred.norm(dim=-1).double()
    half = 0.5 * norm.square()
    shift = -half.masked_fill(left_out, torch.inf).to(x.dtype)[:, None]
    rows = torch.arange(n, device=x.device).expand(layers, -1) if rows is None else rows
    take, unit = min(k + SPARE, n - 1), torch.finfo(x.dtype).eps
    results = []
    for block in rows.split(max(1, ENTRIES // (layers * max(n, take * width))), dim=1):
        with precise(x):  # scores: the nearest are the highest of x_i . x_j - |x_j|^2 / 2
            score = torch.baddbmm(shift, rows_of(centred, block), centred.mT).scatter_(2, block[..., None], -torch.inf)
        best, candidates = score.topk(take)
        others = rows_of(x, candidates.flatten(1)).view(-1, take, width).double()
        this = rows_of(x, block).view(-1, 1, width).double()
        apart = torch.cdist(this, others, compute_mode="donot_use_mm_for_euclid_dist").view(best.shape)
        distances, order = apart.masked_fill(best == -torch.inf, torch.inf).sort(-1)
        distances = distances[..., :k]
        # Only rows of norm up to |x_i| + r_k are within reach: see `_ScoreProducts.least_distance`.
        bound, summed = best[..., -1].double(), (2 * norm.gather(1, block) + distances[..., -1]).square()
        slack = unit * bound.abs() + 4 * (width + 1) ** 0.5 * unit * summed
        certain = distances[..., -1] < (2 * (half.gather(1, block) - bound - slack)).clamp(min=0).sqrt()
        results.append((distances, candidates.gather(2, order[..., :k]), certain))
    distances, indices, certain = (torch.cat(part, dim=1) for part in zip(*results, strict=True))
    return distances, indices, certain


def _repeats(x: Float[Tensor, "l n d"]) -> Bool[Tensor, "l n"]:
    """Mark the rows that equal an earlier one of their cloud exactly."""
    x = x + 0.0  # -0.0 equals 0.0
    codes, order = codes_of(x).sort(dim=1, stable=True)
    at = torch.arange(x.shape[1], device=x.device).expand_as(order)
    is_new = torch.ones_like(order, dtype=torch.bool)
    is_new[:, 1:] = codes[:, 1:] != codes[:, :-1]
    first = order.gather(1, at.where(is_new, 0).cummax(1).values)
    is_equal = (rows_of(x, order) == rows_of(x, first)).all(-1)  # else a collision of codes: it may stay
    return torch.zeros_like(is_new).scatter_(1, order, ~is_new & is_equal)
