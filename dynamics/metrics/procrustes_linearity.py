from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import CrossMoments
from dynamics.metrics.streaming.cross import Cross, blocks
from dynamics.metrics.streaming.spectrum import trace


def procrustes_linearity(x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch n e"]) -> Float64[Tensor, "*batch"]:
    """Return the share of the variance of y that the best linear map of x explains.

    Formula: 1 - min_A |x A - y|_F^2, both centred and divided by their Frobenius norm; that is tr(y^T x (x^T x)^+ x^T
        y) / tr(y^T y).
    Pitfalls: 1 for any y when n <= d + 1: use far more tokens than the width, or `procrustes_linearity_held_out`. The
        residual stream alone makes it near 1 between neighbouring layers; of y - x it says what the block adds.
    Interval: windows' influence functions, on the logit scale, a window's residuals as they would be if the map were
        fitted without it; sampling error only, not that bias.

    NaN for fewer than two tokens, or where all of y or of x are equal.
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 5.0], [3.0, 1.0]])
    >>> round(float(procrustes_linearity(x, x @ torch.tensor([[1.0], [2.0]]) + 7)), 9)
    1.0
    """
    return ProcrustesLinearity.of_blocks(*blocks(x, y))


class ProcrustesLinearity(Cross):
    """1 where one representation is a linear map of the other.

    Args:
        held_out: fit the map without the window whose states it predicts
    """

    title = "linearity"
    range: tuple[float | None, float | None] = (0, 1)
    estimator = "share of the variance that the best linear map explains, both centred"
    source = "Razzhigaev et al., Your Transformer is Secretly Linear (arXiv 2405.12250), A any matrix"

    variants: ClassVar[dict[str, dict[str, Any]]] = {"held_out": {"held_out": True}}

    def __init__(self, held_out: bool = False, tokens: int = 8192) -> None:
        super().__init__(tokens)
        self.held_out = held_out
        if held_out:
            self.name, self.title = "procrustes_linearity_held_out", "linearity on held-out windows"
            self.estimator = "share of a window's variance that the best linear map of the other windows explains"
            self.range = (None, 1)

    @staticmethod
    def of_blocks(xx: Tensor, yx: Tensor, yy: Tensor) -> Float[Tensor, "*batch"]:
        share = (yx @ inverse(xx) * yx).sum((-2, -1)) / trace(yy)
        return share.where(trace(xx) > 0, torch.nan)

    def value_and_influence(self, states: CrossMoments) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        d, both = states.split, states.covariance
        value = self.of_blocks(both[:, :d, :d], both[:, d:, :d], both[:, d:, d:])
        z = states.by_window
        x, y, inverted = z[..., :d], z[..., d:], inverse(both[:, :d, :d])[:, None]
        residual = y - x @ (inverted @ both[:, d:, :d].mT[:, None])
        others = torch.eye(x.shape[2], dtype=x.dtype, device=x.device) - x @ inverted @ x.mT / states.n
        without = torch.linalg.solve_ex(others, residual).result
        if self.held_out:
            power, missed = y.square().sum((-2, -1)), without.square().sum((-2, -1))
            value = 1 - missed.sum(-1) / power.sum(-1)
            change = missed - (1 - value)[:, None] * power
            return value, -x.shape[1] * (change / power.sum(-1, keepdim=True)).T
        missed = (without * residual).sum((-2, -1)) - (1 - value)[:, None] * y.square().sum((-2, -1))
        return value, -(missed / trace(both[:, d:, d:])[:, None]).T * (states.windows / states.n)


def inverse(matrix: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
    """Return the pseudoinverse of a covariance, without the directions that are rounding."""
    return torch.linalg.pinv(matrix.nan_to_num(), rtol=matrix.shape[-1] * torch.finfo(matrix.dtype).eps, hermitian=True)
