import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import AttentionStatistics, Estimate


def max_probability(probabilities: Float[Tensor, "*heads T S"]) -> Float64[Tensor, "*heads"]:
    """Return the mean over queries of their greatest attention probability.

    Formula: mean_i max_j p_ij, p = softmax of the masked logits.
    Pitfalls: at least 1 / (keys seen), unless sinks that are no keys take a share; the first query of a causal model
        sees one key and gives 1.

    `probabilities`: rows summing to 1. (The metric never forms them all.)
    >>> max_probability(Tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor(0.7500, dtype=torch.float64)
    """
    return probabilities.double().amax(-1).mean(-1)


class MaxProbability(AttentionStatistics):
    """Near 1 where attention is sharp."""

    title = "largest attention probability"
    range = (0, 1)
    estimator = "largest probability of each row, mean over queries"
    source = "the sharpness of Godey, de la Clergerie and Sagot (arXiv 2401.12143)"
    default_sites = {"attention": 5}

    def estimate(self, states: AttentionStatistics) -> Estimate:
        estimate = super().estimate(states)
        sound = np.isfinite(estimate.value).all()
        return estimate._replace(arrays=states.histogram("probability")) if sound else estimate
