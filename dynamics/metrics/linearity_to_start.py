from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.procrustes_linearity import ProcrustesLinearity, procrustes_linearity
from dynamics.metrics.streaming import ToStart


def linearity_to_start(
    x: Float[Tensor, "*batch n d"], reference: Float[Tensor, "*batch n e"]
) -> Float64[Tensor, "*batch"]:
    """Return the share of the variance of a layer's states that the best linear map of those at step 0 explains.

    Formula: tr(y^T x (x^T x)^+ x^T y) / tr(y^T y) of the states x at step 0 and y now, both centred.
    Pitfalls: 1 for any states when n <= d + 1, and biased upwards by about d / n: `size` tokens are compared, however
        many are measured. They are kept with every training state: size (d + 1) numbers a layer.
    Interval: windows' influence functions, Student's t on the logit scale; sampling error only, not that bias.

    `reference`: states at step 0, of the same tokens. NaN for fewer than two tokens, or where all states of either are
    equal.
    >>> start = Tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 5.0], [3.0, 1.0]])
    >>> round(float(linearity_to_start(start @ Tensor([[1.0], [2.0]]) + 7, start)), 9)
    1.0
    """
    return procrustes_linearity(reference, x)


class LinearityToStart(ToStart):
    """1 where a layer's states are a linear map of what they were at step 0."""

    title = "linearity to step 0"
    range = (0, 1)
    estimator = "share of the variance that the best linear map explains, both centred, on the same sample of tokens"
    source = "Razzhigaev et al., Your Transformer is Secretly Linear (arXiv 2405.12250), between steps"
    of = ProcrustesLinearity
