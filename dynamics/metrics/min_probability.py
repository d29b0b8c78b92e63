from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.score_variance import ScoreSums
from dynamics.metrics.streaming import Estimate


def min_probability(probabilities: Float[Tensor, "*heads T S"]) -> Float64[Tensor, "*heads"]:
    """Return the mean over queries of their least attention probability, among the keys that they see.

    Formula: mean_i min_j p_ij over p_ij > 0 in float32, p = softmax of the masked logits.
    Pitfalls: a minimum over more keys is lower; what underflows counts as unseen.

    `probabilities`: rows summing to 1, zero where masked. (The metric never forms them.)
    >>> min_probability(Tensor([[1.0, 0.0], [0.25, 0.75]]))
    tensor(0.6250, dtype=torch.float64)
    """
    p = probabilities.double()
    return p.where(p.float() > 0, 1).amin(-1).mean(-1)


class MinProbability(ScoreSums):
    """1 / keys where attention is uniform, near 0 where it is sharp."""

    title = "least attention probability"
    range = (0, 1)
    wide = True
    estimator = "smallest probability of each row among the visible keys, mean over queries"
    source = "the sharpness of Godey, de la Clergerie and Sagot (arXiv 2401.12143), section 4"

    def estimate(self, states: ScoreSums) -> Estimate:
        return states.mean_of(2, 3, self.interval_scale)
