from functools import lru_cache, partial
from typing import cast

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from dynamics.metrics.anisotropy import anisotropy
from dynamics.metrics.streaming import STATE_SITES, Estimate, Sample, estimate, undefined
from dynamics.metrics.streaming.arithmetic import floating
from dynamics.metrics.streaming.clouds import ENTRIES, neighbours_in_each, rows_of
from dynamics.metrics.streaming.neighbors import Different, nearest, without_duplicates
from dynamics.metrics.streaming.sampling import priority
from dynamics.metrics.streaming.transfer import sent

BLOCK = 32  # neighbourhoods that exist at a time


def local_anisotropy(
    x: Float[Tensor, "n d"], neighbors: int = 64, queries: int = 128, random: bool = False, seed: int = 0
) -> Float64[Tensor, ""]:
    """Return the mean anisotropy of the nearest neighbours of a state.

    Formula: mean over a seeded sample of states of the `anisotropy` of their 64 nearest other states; with `random` of
        64 states drawn at random, the value to compare with (named `local_anisotropy_random`). Exact duplicates are
        dropped first.
    Pitfalls: 64 states give at least 1 / 63, and are never near 0, even isotropic ones: read it against the random
        value.
    Interval: none: neighbourhoods share states and windows (counting neighbourhoods covers 61-94 %, measured).

    The options are those of `LocalAnisotropy`, and the `seed` of the sample and the draws. NaN
    for no more than 64 different states, or states that are not finite.
    >>> line = torch.arange(100.0)[:, None] * torch.tensor([[1.0, 2.0]])
    >>> local_anisotropy(line)
    tensor(1., dtype=torch.float64)
    """
    x = floating(x)
    if not x.isfinite().all() or len(x := without_duplicates(x)) <= neighbors:
        return torch.tensor(torch.nan, dtype=torch.float64, device=x.device)
    return of_different(x, neighbors, queries, random, seed)


def of_different(x: Float[Tensor, "n d"], neighbors: int, queries: int, random: bool, seed: int) -> Float64[Tensor, ""]:
    """Return `local_anisotropy` of states without duplicates, more of them than neighbours."""
    chosen = priority(torch.arange(len(x), device=x.device), seed).argsort()[:queries]
    members = drawn(len(x), len(chosen), neighbors, seed).to(x.device) if random else nearest(x, neighbors, chosen)[1]
    return torch.cat([anisotropy(x[block]) for block in members.split(BLOCK)]).mean()


@lru_cache(maxsize=8)
def drawn(states: int, queries: int, neighbors: int, seed: int) -> Int[Tensor, "queries neighbors"]:
    """Draw some of the states for each query."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(queries, states, generator=generator).topk(neighbors).indices


def of_each(
    x: Float[Tensor, "l n d"], different: list[Different], neighbors: int, queries: int, random: bool, seed: int
) -> Float64[Tensor, " l"]:
    """Return `of_different` of the different rows of each cloud; NaN where there are too few of them."""
    rows = [part.rows for part in different]
    if min(map(len, rows)) < max(neighbors + 1, queries):  # each has another number of neighbourhoods
        few = [x[place][part.rows.to(x.device)] for place, part in enumerate(different)]
        nan = x.new_tensor(torch.nan, dtype=torch.float64)
        settings = neighbors, queries, random, seed
        return torch.stack([of_different(part, *settings) if len(part) > neighbors else nan for part in few])
    if random:
        members = torch.stack([part[drawn(len(part), queries, neighbors, seed)] for part in rows])
        members = sent(members, x.device)
    else:
        chosen = [part[priority(torch.arange(len(part)), seed).argsort()[:queries]] for part in rows]
        members = neighbours_in_each(x, different, neighbors, torch.stack(chosen))
    size = max(1, ENTRIES // (4 * queries * neighbors * x.shape[-1]))
    values = [
        anisotropy(rows_of(part, at.flatten(1)).view(*at.shape, -1)).mean(1)
        for part, at in zip(x.split(size), members.split(size), strict=True)
    ]
    return torch.cat(values)


class LocalAnisotropy(Sample):
    """Anisotropy within a neighbourhood: never near 0 in so few points; see the random one.

    Args:
        neighbors: states in a neighbourhood
        queries: neighbourhoods that the mean is taken over, at most
        random: draw the states of a neighbourhood at random
    """

    range = (0, 1)
    estimator = "anisotropy of the 64 nearest neighbours, centred on their mean, mean over sampled states"
    source = "Razzhigaev et al. (arXiv 2311.05928): neighbourhoods are near isotropic; cf. Cai et al. (ICLR 2021)"
    default_sites = dict.fromkeys(STATE_SITES, 14)
    default_variants = ("random",)
    variants = {"random": {"random": True}}

    def __init__(
        self, neighbors: int = 64, queries: int = 128, random: bool = False, size: int = 4096, seed: int = 0
    ) -> None:
        super().__init__(size, seed)
        self.neighbors, self.queries, self.random = neighbors, queries, random
        if random:
            self.name, self.title = "local_anisotropy_random", "local anisotropy, random"
            self.estimator = "anisotropy of 64 random states, centred on their mean, averaged over draws"

    @property
    def meaning(self) -> str:
        random = "What 64 states drawn at random give: the value to compare the local anisotropy with."
        return random if self.random else super().meaning

    def estimate(self, states: Sample) -> Estimate:
        n = len(states.distinct.rows) if not states.trouble else 0
        if n <= self.neighbors:
            return undefined(1, n, states.trouble or f"no more than {self.neighbors} different states")
        settings = self.neighbors, self.queries, self.random, self.seed
        if states.whole is None:
            mean = of_different(states.different, *settings)[None]
        else:
            whole, number = cast(Sample, states.whole[0]), states.whole[1]
            every = partial(of_each, whole.samples, whole.distinct_by_layer, *settings)
            mean = whole.by_layer(self.name, every, (0,))[number]
        windows, without = len(states.windows.unique()), "no interval is known: neighbourhoods share states and windows"
        return estimate(mean, n, windows=windows, without=without)
