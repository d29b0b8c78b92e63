from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import AttentionStatistics


def sink_mass(probabilities: Float[Tensor, "*heads T S"]) -> Float64[Tensor, "*heads"]:
    """Return the mean over queries of the attention probability on position 0, query 0 left out.

    Formula: mean_{i > 0} p_i0, p = softmax of the masked logits.
    Pitfalls: uniform causal attention over T positions gives about log(T) / T; other positions can be sinks too. In
        padded input position 0 is the first that is not padding.

    `probabilities`: rows summing to 1. (The metric never forms them all.) NaN for a single query.
    >>> sink_mass(Tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.5, 0.25]]))
    tensor(0.3750, dtype=torch.float64)
    """
    return probabilities[..., 1:, 0].double().mean(-1)


class SinkMass(AttentionStatistics):
    """Attention that goes to the very first position."""

    title = "attention sink"
    range = (0, 1)
    estimator = "mean probability on position 0; query 0 left out"
    source = "Gu et al., When Attention Sink Emerges (arXiv 2410.10781); Xiao et al. (arXiv 2309.17453)"
    default_sites = {"attention": 6}
