import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import AttentionStatistics, Estimate, undefined
from dynamics.metrics.streaming.attention import SUMMARIES, UNSEEN


def logit_max(logits: Float[Tensor, "*heads T S"]) -> Float64[Tensor, "*heads"]:
    """Return the greatest attention logit of a head, as it enters the softmax.

    Formula: max_ij s_ij, s the scaled logits with mask and bias.
    Pitfalls: softmax only sees differences: a common shift of a query's logits moves it and nothing else.
    Interval: none is known for a maximum.

    `logits`: masked entries -inf.
    >>> logit_max(Tensor([[1.0, -float("inf")], [0.5, 3.0]]))
    tensor(3., dtype=torch.float64)
    """
    return logits.double().amax((-2, -1))


class LogitMax(AttentionStatistics):
    """Large logits make attention sharp."""

    title = "largest attention logit"
    estimator = "largest scaled logit of a head; a layer's is the largest of its heads'"
    source = "Dehghani et al. (arXiv 2302.05442): the growth that precedes a collapse of the entropy"
    default_sites = {"attention": 7}

    def estimate(self, states: AttentionStatistics) -> Estimate:
        if not states.greatest.ndim:
            return undefined(1, 0, UNSEEN)
        n = int(states.total[0, len(SUMMARIES)])
        heads = states.greatest.double().cpu().numpy()
        value = heads if len(heads) == 1 else np.append(heads, heads.max())
        if not np.isfinite(value).all():
            value = np.where(np.isfinite(value), value, np.nan)
            return Estimate(value, value * np.nan, value * np.nan, n, "no query, or a logit is not finite")
        arrays, windows = states.histogram("logit"), int(states.windows)
        return Estimate(value, value * np.nan, value * np.nan, n, "no interval is known for a maximum", arrays, windows)
