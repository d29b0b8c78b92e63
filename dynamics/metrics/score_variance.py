import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from dynamics.metrics.streaming import Attention, Estimate, QueryMeans
from dynamics.metrics.streaming.arithmetic import floating
from dynamics.metrics.streaming.attention import LOG_ZERO, absorbed, chunks, is_distribution
from dynamics.metrics.streaming.sampling import window_sums

CHUNK = 64  # queries whose logits exist at a time, at most


def score_variance(logits: Float[Tensor, "*heads T S"]) -> Float64[Tensor, "*heads"]:
    """Return the mean over queries of the variance of a query's attention scores over the keys that it sees.

    Formula: mean_i sum_j (s_ij - mean_j s_ij)^2 / (m_i - 1), m_i the number of keys seen, those whose probability is
        not 0 in float32; queries that see one key are left out. Inputs N(0, I_d) and projections N(0, v) give (v d)^2
        in the mean, whatever the number of heads; the entropy is then about log m - variance / 2.
    Pitfalls: one outlying key makes it large, as does a spread that softmax has long saturated at.

    `logits`: masked entries -inf, or any number that leaves them no probability. In squared logits. NaN where every
    query sees one key.
    >>> score_variance(torch.tensor([[1.0, -torch.inf], [0.0, 2.0]])), score_variance(torch.ones(1, 9))
    (tensor(2., dtype=torch.float64), tensor(0., dtype=torch.float64))
    """
    variance, _, seen = spread(logits)
    used = seen > 1
    return variance.double().where(used, 0).sum(-1) / used.sum(-1)


def spread(
    logits: Float[Tensor, "*rows S"], total: Float[Tensor, "*rows"] | None = None
) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"], Int[Tensor, "*rows"]]:
    """Return the variance of each query's scores, the least one, and the number of keys seen.

    The variance is taken about the mean: no shift cancels it. `total`: the log of the sum that normalises a query's
    probabilities, by default over its keys.
    """
    total = logits.logsumexp(-1) if total is None else total
    hidden = logits <= (total + LOG_ZERO)[..., None]
    seen = logits.shape[-1] - hidden.sum(-1)
    mean = logits.masked_fill(hidden, 0).sum(-1) / seen
    apart = (logits - mean[..., None]).masked_fill_(hidden, 0)
    return torch.linalg.vecdot(apart, apart) / (seen - 1), logits.masked_fill(hidden, torch.inf).amin(-1), seen


class ScoreSums(QueryMeans):
    """Sums over queries of the score variance and of the least probability, in all and for each window.

    Padding is left out. Layout of a sum's last axis: variance, number of queries that see several keys, least
    probability, number of queries.
    """

    def update(self, batch: Attention) -> None:
        call, windows = batch
        if not is_distribution(call):
            return
        rows, heads, queries, _ = call.query.shape
        sums = torch.zeros(rows, heads, 4, dtype=torch.float64, device=call.query.device)
        for start, stop in chunks(queries, rows * heads * call.key.shape[2], CHUNK, sums.device.type):
            logits = floating(call.logits(start, stop, call.reach(stop)))
            total, outside = logits.logsumexp(-1), absorbed(call, start, stop)
            total = total if outside is None else torch.logaddexp(total, outside)
            variance, least, seen = spread(logits, total)
            used = call.valid[:, None, start:stop] & (seen > 0)
            several = used & (seen > 1)
            probability = (least - total).exp()
            parts = (variance.where(several, 0), several, probability.where(used, 0), used)
            sums += torch.stack([part.double().sum(-1) for part in parts], dim=-1)
        self.add(*window_sums(sums, windows))


class ScoreVariance(ScoreSums):
    """How far a query's scores lie apart: all that softmax sees of them."""

    range = (0, None)
    wide = True
    estimator = "variance of each row of scores over the visible keys, mean over queries"
    source = "Godey, de la Clergerie and Sagot (arXiv 2401.12143), within rows, which a key bias only shifts"

    def estimate(self, states: ScoreSums) -> Estimate:
        return states.mean_of(0, 1, self.interval_scale)
