from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import AttentionStatistics


def normalized_entropy(probabilities: Float[Tensor, "*heads T S"]) -> Float64[Tensor, "*heads"]:
    """Return the mean over queries of the attention entropy, divided by the log of the number of keys seen.

    Formula: mean over queries of H / log m, H = -sum_j p_j log p_j, m the number of keys with p > 0 in float32;
        queries that see one key are left out.
    Pitfalls: early queries of a causal model see few keys, and weigh as much as late ones. Keys that a model hides by a
        number too moderate to leave them nothing (Swin: -100) count as seen. Where sinks that are no keys take a share,
        the weights of two keys may give a little more than 1.

    `probabilities`: rows summing to 1 (less with sinks), zero where masked. (The metric never forms them all.) NaN
    where every query sees one key.
    >>> normalized_entropy(Tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.25, 0.25]]))
    tensor(0.9732, dtype=torch.float64)
    """
    p = probabilities.double()
    seen = (p.float() > 0).sum(-1)
    share = -p.xlogy(p).sum(-1) / seen.double().log()
    return share.where(seen > 1, 0).sum(-1) / (seen > 1).sum(-1)


class NormalizedEntropy(AttentionStatistics):
    """1: uniform over the keys that a query may see; 0: all on one key."""

    title = "attention entropy, normalised"
    range = (0, 1)
    estimator = "entropy / log(visible keys), mean over queries; rows with one visible key left out"
    source = "the entropy of Ghader and Monz (arXiv 1710.03348) over its own maximum"
    default_sites = {"attention": 4}
