from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import CrossMoments
from dynamics.metrics.streaming.cross import Cross, blocks


def linear_cka(x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch n e"]) -> Float64[Tensor, "*batch"]:
    """Return the similarity of two representations of the same tokens: centred kernel alignment with linear kernels.

    Formula: |y^T x|_F^2 / (|x^T x|_F |y^T y|_F), both centred.
    Pitfalls: biased upwards when n is not far above the widths (`linear_cka_debiased` is not); few directions of
        great variance decide it.
    Interval: windows' influence functions, Student's t on the logit scale; sampling error only, not that bias.

    NaN for fewer than two tokens or where all are equal.
    >>> x = Tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 5.0]])
    >>> linear_cka(x, 3 * x.flip(-1) + 1).round(decimals=3), linear_cka(x, Tensor([[1.0]] * 3))
    (tensor(1., dtype=torch.float64), tensor(nan, dtype=torch.float64))
    """
    return LinearCka.of_blocks(*blocks(x, y))


class LinearCka(Cross):
    """Similarity of two representations of the same tokens: 1 where equal up to rotation and scale.

    Args:
        debiased: take the products from pairs of different windows alone
    """

    title = "linear CKA"
    range = (0, 1)
    tail = 1.0
    estimator = "‖yᵀx‖² / (‖xᵀx‖ ‖yᵀy‖), both centred"
    source = "Kornblith et al., Similarity of Neural Network Representations Revisited (arXiv 1905.00414)"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"debiased": {"debiased": True}}

    def __init__(self, debiased: bool = False, tokens: int = 8192) -> None:
        super().__init__(tokens)
        self.debiased = debiased
        if debiased:
            self.name, self.title = "linear_cka_debiased", "linear CKA, debiased"
            self.estimator = "‖yᵀx‖² / (‖xᵀx‖ ‖yᵀy‖), both centred, the squares over pairs of different windows"

    def value_and_influence(self, states: CrossMoments) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        if not self.debiased:
            return super().value_and_influence(states)
        d, both = states.split, states.covariance
        x, y = states.by_window.split([d, both.shape[-1] - d], dim=-1)
        totals, shares = [], []
        for left, right, block in ((y, x, both[:, d:, :d]), (x, x, both[:, :d, :d]), (y, y, both[:, d:, d:])):
            own = ((left @ left.mT) * (right @ right.mT)).sum((-2, -1))  # |C_w|^2, C_w the sum of outer products
            others = states.n * (left @ block[:, None] * right).sum((-2, -1)) - own
            totals.append(total := others.sum(-1))
            shares.append(others / total[:, None])
        product = totals[1] * totals[2]
        value = totals[0] / product.where(product > 0, torch.nan).sqrt()
        change = shares[0] - (shares[1] + shares[2]) / 2
        return value, 2 * x.shape[1] * (value[:, None] * change).T

    def no_interval(self, value: Tensor) -> str:
        return "no interval holds within 0.01 of 1: rare windows decide it" if (value > 0.99).any() else ""

    @staticmethod
    def of_blocks(xx: Tensor, yx: Tensor, yy: Tensor) -> Float[Tensor, "*batch"]:
        norms = [block.square().sum((-2, -1)) for block in (xx, yx, yy)]
        return norms[1] / (norms[0] * norms[2]).sqrt()
