"""What is kept of a stream of attention calls: statistics of each query, sums of queries and keys.

Legend: B rows, H heads, H_kv key heads, T queries (c of them at a time), S keys, d_h head width, w windows.
"""

import math
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from dynamics.metrics.streaming.arithmetic import floating, precise
from dynamics.metrics.streaming.base import Attention, AttentionInputs, Estimate, once, undefined
from dynamics.metrics.streaming.intervals import estimate, with_layer
from dynamics.metrics.streaming.sampling import window_sums
from dynamics.metrics.streaming.sums import WindowSums, scalar
from dynamics.metrics.streaming.transfer import counted, is_whole, sent

ENTRIES = {"cpu": 1 << 21}  # logits that exist at a time, about: they should stay in the cache
MANY = 1 << 26  # elsewhere: a launch costs more than memory
LOG_ZERO = -150 * math.log(2)  # a probability with a smaller logarithm is 0 in float32: its key is hidden
SUMMARIES = ("entropy", "normalized_entropy", "max_probability", "sink_mass", "sink_rate")
UNSEEN = "no softmax over the keys was seen; other weights (sigmoids) are no distribution"
SINK = 0.3  # mean probability on the sink above which a window's head has one


class Histogram(NamedTuple):
    """Bins that are a tenth wide on a transformed scale, from `low` on."""

    there: Callable[[Tensor], Tensor]
    back: Callable[[np.ndarray], np.ndarray]
    low: int
    bins: int


def asinh(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the inverse of sinh from vectorised functions: torch.asinh takes its elements one by one."""
    a = x.abs()
    return torch.log1p(a + a * a / (1 + (a * a + 1).sqrt())).copysign(x)


HISTOGRAMS = {
    "logit": Histogram(asinh, np.sinh, -6, 120),  # -202 to 202, 0.1 wide about 0
    "probability": Histogram(torch.log10, lambda u: 10.0**u, -8, 80),
}


def chunks(queries: int, entries: int, most: int = 256, device: str = "cpu") -> Iterator[tuple[int, int]]:
    """Yield ranges of at most `most` queries, each of which has `entries` logits, as many as suits a type of device.

    >>> list(chunks(200, 8192, most=128))
    [(0, 128), (128, 200)]
    """
    size = min(max(ENTRIES.get(device, MANY) // entries, 8), most)
    return ((start, min(start + size, queries)) for start in range(0, queries, size))


def seen(
    logits: Float[Tensor, "*rest S"],
    total: Float[Tensor, "*rest"] | None = None,
    out: Float[Tensor, "*rest S"] | None = None,
) -> Float[Tensor, "*rest"]:
    """Count the keys whose probability is not 0 in float32; it is exp(logit - total), by default of their softmax."""
    total = logits.logsumexp(-1) if total is None else total
    out = torch.empty_like(logits) if out is None else out
    return torch.gt(logits, (total + LOG_ZERO)[..., None], out=out).sum(-1)  # sums floats faster than booleans


def absorbed(call: AttentionInputs, start: int, stop: int) -> Float[Tensor, "B H queries"] | None:
    """Return the log of the summed exponentials of what takes probability and is no key (sinks); None without it."""
    sinks: Tensor | None = getattr(call, "sinks", None)
    return None if sinks is None else floating(sinks[:, :, start:stop]).logsumexp(-1)


def is_distribution(call: AttentionInputs) -> bool:
    """Return whether the weights of a call are a softmax: those of sigmoid attention do not sum to 1."""
    return getattr(call, "is_softmax", True)


def attend(
    logits: Float[Tensor, "*rest S"],
    out: Float[Tensor, "*rest S"] | None = None,
    shifted: Float[Tensor, "*rest S"] | None = None,
) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest"], Float[Tensor, "*rest"], Float[Tensor, "*rest S"]]:
    """Return each query's distribution over the keys and its entropy. Overwrites `logits`, or `shifted` if given.

    Entropy = log Z - sum(p s) with s the logits less their maximum and p = exp(s) / Z; the greatest p is 1 / Z. s is
    clamped at -80: what is masked then adds under 2e-35 to Z, and exp never underflows (which runs 50 times slower).

    `logits`: masked entries -inf or far below the others; a query whose entries are all -inf gives NaN. `out`: room for
    the probabilities. Returns the entropy, greatest probability and greatest logit, and the probabilities.
    """
    greatest = logits.amax(-1)
    s = torch.sub(logits, greatest[..., None], out=logits if shifted is None else shifted).clamp_(min=-80)
    p = torch.softmax(s, -1, out=out)
    highest = p.amax(-1)
    return -highest.log() - s.mul_(p).sum(-1), highest, greatest, p


def summarise(
    logits: Float[Tensor, "B H c S"], sink: Int[Tensor, " B"] | int = 0, absorbed: Float[Tensor, "B H c"] | None = None
) -> tuple[Float[Tensor, "4 B H c"], Float[Tensor, "B H c"]]:
    """Summarise each query's attention without keeping its probabilities.

    `logits`: as in `attend`. `sink`: the key that counts as the sink, one for each row or one for all. `absorbed`: as
    the function of that name returns; probabilities then sum to less than 1, and the entropy is that of the keys'
    terms. Returns entropy, greatest probability, probability of the sink and number of keys seen; the greatest
    logit.
    """
    s = torch.empty_like(logits)
    entropy, highest, greatest, p = attend(logits, shifted=s)
    sink = torch.as_tensor(sink, device=p.device).clamp(max=p.shape[-1] - 1).expand(len(p))
    on_sink = p.gather(-1, sink[:, None, None, None].expand(*p.shape[:-1], 1))[..., 0]
    total = greatest - highest.log()
    if absorbed is not None:
        of_keys, total = total, torch.logaddexp(total, absorbed)
        share = (of_keys - total).exp()
        entropy, highest, on_sink = share * entropy - share.xlogy(share), share * highest, share * on_sink
    return torch.stack([entropy, highest, on_sink, seen(logits, total, out=s)]), greatest


class QueryMeans(WindowSums):
    """Sums over queries, and the numbers of these queries: the base of what is a mean over queries."""

    sites = ("attention",)

    def mean_of(self, place: int, number: int, scale: str) -> Estimate:
        """Return the sum at `place` of the last axis over the one at `number`, with its interval over windows."""
        if not self.total.ndim:
            return undefined(1, 0, UNSEEN)
        n = self.total[:, number]
        if not n.all():
            return undefined(self.heads, 0, "no query sees enough keys")
        value, reason = self.total[:, place] / n, "a logit is not a number"
        counted = self.sample[..., number].any(1)  # a window may hold no query that sees enough keys
        influence = self.sample[counted][..., place] - value * self.sample[counted][..., number]
        windows = round(int(self.windows) * float(counted.double().mean()))
        influence = influence * (windows / n)
        return estimate(value, round(float(n.mean())), influence=influence, windows=windows, scale=scale, reason=reason)


class AttentionStatistics(QueryMeans):
    """Sums of each query's statistics, in all and for each window, and histograms of every 16th query's attention.

    Padding is left out. A key counts as seen where its probability is not 0 in float32, whatever number hides it. A
    logit that belongs to no key (the learned sinks of gpt_oss) takes its share of the probability and is no key: what
    is summarised are the weights that the model multiplies its values with. The sink of `sink_mass` is the first key
    that is not padding; the query in its place is left out of it, and queries that see one key out of
    `normalized_entropy`. Layout of a sum's last axis: the `SUMMARIES`, the number of queries of each (of `sink_rate`:
    of windows). A metric with the name of a summary is its mean.
    """

    heads_at: ClassVar = {**WindowSums.heads_at, "greatest": 0, "logit_counts": 0, "probability_counts": 0}
    greatest: Float[Tensor, " H"]
    logit_counts: Float64[Tensor, "H bins"]
    probability_counts: Float64[Tensor, "H bins"]
    stride = 16

    def __init__(self, windows: int = 512) -> None:
        super().__init__(windows)
        self.add_state("greatest", torch.full((), -torch.inf), dist_reduce_fx="max")
        self.add_state("logit_counts", scalar(), dist_reduce_fx="sum")
        self.add_state("probability_counts", scalar(), dist_reduce_fx="sum")

    def update(self, batch: Attention) -> None:
        call, windows = batch
        if not is_distribution(call):
            return
        rows, heads, queries, _ = call.query.shape
        sink = call.valid.int().argmax(1) * (call.key.shape[2] == queries)
        total = torch.zeros(2, len(SUMMARIES), rows, heads, dtype=torch.float64, device=sink.device)
        for start, stop in chunks(queries, rows * heads * call.key.shape[2], device=sink.device.type):
            logits = floating(call.logits(start, stop, call.reach(stop)))
            valid = call.valid[:, None, start:stop]
            every = slice(-start % self.stride, None, self.stride)
            outside = absorbed(call, start, stop)
            self._count(logits[:, :, every], valid[..., every], None if outside is None else outside[..., every])
            (entropy, highest, on_sink, keys), greatest = summarise(logits, sink, outside)
            values = torch.stack([entropy, entropy / keys.log(), highest, on_sink])
            used = valid & (greatest != -torch.inf)
            later = torch.arange(start, stop, device=sink.device) != sink[:, None, None]
            masks = torch.stack([used, used & (keys != 1), used, used & later])
            total[0, :4] += values.where(masks, 0).sum(-1)
            total[1, :4] += masks.sum(-1)
            highest = greatest.where(used, -torch.inf).amax((0, 2))
            self.greatest = torch.maximum(sent(self.greatest.to(highest.dtype), highest.device), highest)
        sums, ids = window_sums(total.flatten(0, 1).permute(1, 2, 0), windows)
        mass, queries_of = sums[..., 3], sums[..., len(SUMMARIES) + 3]
        sums[..., 4], sums[..., -1] = mass > SINK * queries_of, queries_of > 0
        self.add(sums, ids, is_padded=not is_whole(call.valid))

    def _count(
        self, logits: Float[Tensor, "B H c S"], valid: Bool[Tensor, "B 1 c"], outside: Float[Tensor, "B H c"] | None
    ) -> None:
        """Add some queries' logits and probabilities to the histograms."""
        p = logits.softmax(-1)
        if outside is not None:
            p = p * torch.sigmoid(logits.logsumexp(-1) - outside)[..., None]
        hidden = ~(p.float() > 0) | ~valid[..., None]
        heads = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
        for name, values in (("logit", logits), ("probability", p)):
            scale = HISTOGRAMS[name]
            size = scale.bins + 2
            bins = ((scale.there(values) - scale.low) * 10).floor_().nan_to_num_(size).clamp_(-1, size - 2) + 1
            nowhere = len(heads) * size
            places = (bins.long() + size * heads).masked_fill_(hidden, nowhere)
            counts = counted(places.flatten(), nowhere + 1)[:-1].view(-1, size).double()
            setattr(self, f"{name}_counts", getattr(self, f"{name}_counts") + counts)

    def estimate(self, states: "AttentionStatistics") -> Estimate:
        place = SUMMARIES.index(self.name)
        return states.mean_of(place, len(SUMMARIES) + place, self.interval_scale)

    def histogram(self, name: str) -> dict[str, np.ndarray]:
        """Return counts (heads, bins + 2) with what lies outside at both ends, and the bins' edges."""
        counts = with_layer(getattr(self, f"{name}_counts").T).T
        scale = HISTOGRAMS[name]
        edges = scale.back(scale.low + np.arange(scale.bins + 1) / 10)
        return {f"{name}_histogram": counts, f"{name}_edges": np.broadcast_to(edges, (len(counts), len(edges)))}


class QueryKeySums(WindowSums):
    """Sums of queries, keys and their directions, in all and for each window. Padding is left out.

    Grouped keys are repeated for their queries. Layout of a sum's last axis: query (d_h), its direction (d_h), key, its
    direction, number of queries, number of keys.
    """

    sites = ("attention",)
    heads_at: ClassVar = dict(WindowSums.heads_at)

    def update(self, batch: Attention) -> None:
        call, windows = batch
        query = floating(call.query)
        key = floating(call.key).repeat_interleave(query.shape[1] // call.key.shape[1], dim=1)
        same = key.shape[2] == query.shape[2]
        valid_key = call.valid if same else call.valid.new_ones(len(key), key.shape[2])
        parts: list[Tensor] = []
        numbers: list[Tensor] = []
        for x, mask in ((query, call.valid), (key, valid_key)):
            if not is_whole(mask):
                x = x.where(mask[:, None, :, None], 0)  # padding may hold anything
            weight = mask[:, None].to(x.dtype)
            of_direction = (weight / x.norm(dim=-1)).where(weight > 0, 0)
            with precise(x):
                pair = torch.stack([weight.expand(*x.shape[:3]), of_direction], dim=2) @ x
            parts.extend(pair.double().unbind(2))
            numbers.append(mask.sum(1)[:, None, None].expand(*x.shape[:2], 1))
        sums, ids = window_sums(torch.cat([*parts, *numbers], dim=-1), windows)
        self.add(sums, ids, is_padded=not is_whole(call.valid))

    @property
    def n(self) -> int:
        return int(self.total[0, -2]) if self.total.ndim else 0

    @once
    def trouble(self) -> str:
        if not self.n or not self.total[0, -1]:
            return "no query or no key was seen"
        width = self.total.shape[-1] // 4
        if not (self.total[:, :width].isfinite() & self.total[:, 2 * width : 3 * width].isfinite()).all():
            return "a query or key is not finite"
        return ""

    @once
    def means(self) -> tuple[Float64[Tensor, "4 H d_h"], Float64[Tensor, "w 4 H d_h"]]:
        """Means of (query, direction, key, direction), and their influence."""
        kept = self.sample
        numbers = self.total[0, [-2, -2, -1, -1]][:, None, None]
        mean = self._split(self.total) / numbers
        of_window = kept[:, :1, [-2, -2, -1, -1]].mT[..., None]
        return mean, (self._split(kept) - of_window * mean) / numbers * self.windows

    @staticmethod
    def _split(sums: Float64[Tensor, "*w H s"]) -> Float64[Tensor, "*w 4 H d_h"]:
        return sums[..., :-2].unflatten(-1, (4, -1)).movedim(-2, -3)
