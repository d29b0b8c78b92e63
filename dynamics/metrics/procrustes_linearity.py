import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming.cross import Cross, blocks
from dynamics.metrics.streaming.spectrum import trace


def procrustes_linearity(x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch n e"]) -> Float64[Tensor, "*batch"]:
    """Return the share of the variance of y that the best linear map of x explains.

    Formula: 1 - min_A |x A - y|_F^2, both centred and divided by their Frobenius norm; that is tr(y^T x (x^T x)^+ x^T
        y) / tr(y^T y).
    Pitfalls: 1 for any y when n <= d + 1: use far more tokens than the width. The residual stream alone makes it near 1
        between neighbouring layers; of y - x it says what the block adds.
    Interval: windows' influence functions, Student's t on the logit scale; sampling error only, not that bias.

    NaN for fewer than two tokens, or where all of y or of x are equal.
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 5.0], [3.0, 1.0]])
    >>> round(float(procrustes_linearity(x, x @ torch.tensor([[1.0], [2.0]]) + 7)), 9)
    1.0
    """
    return ProcrustesLinearity.of_blocks(*blocks(x, y))


class ProcrustesLinearity(Cross):
    """1 where one representation is a linear map of the other."""

    title = "linearity"
    range = (0, 1)
    estimator = "share of the variance that the best linear map explains, both centred"
    source = "Razzhigaev et al., Your Transformer is Secretly Linear (arXiv 2405.12250), A any matrix"

    @staticmethod
    def of_blocks(xx: Tensor, yx: Tensor, yy: Tensor) -> Float[Tensor, "*batch"]:
        inverse = torch.linalg.pinv(xx.nan_to_num(), rtol=xx.shape[-1] * torch.finfo(xx.dtype).eps, hermitian=True)
        share = (yx @ inverse * yx).sum((-2, -1)) / trace(yy)
        return share.where(trace(xx) > 0, torch.nan)
