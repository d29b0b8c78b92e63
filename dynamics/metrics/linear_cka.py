from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming.cross import Cross, blocks


def linear_cka(x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch n e"]) -> Float64[Tensor, "*batch"]:
    """Return the similarity of two representations of the same tokens: centred kernel alignment with linear kernels.

    Formula: |y^T x|_F^2 / (|x^T x|_F |y^T y|_F), both centred.
    Pitfalls: biased upwards when n is not far above the widths; few directions of great variance decide it.
    Interval: windows' influence functions, Student's t on the logit scale; sampling error only, not that bias.

    NaN for fewer than two tokens or where all are equal.
    >>> x = Tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 5.0]])
    >>> linear_cka(x, 3 * x.flip(-1) + 1).round(decimals=3), linear_cka(x, Tensor([[1.0]] * 3))
    (tensor(1., dtype=torch.float64), tensor(nan, dtype=torch.float64))
    """
    return LinearCka.of_blocks(*blocks(x, y))


class LinearCka(Cross):
    """Similarity of two representations of the same tokens: 1 where equal up to rotation and scale."""

    title = "linear CKA"
    range = (0, 1)
    estimator = "‖yᵀx‖² / (‖xᵀx‖ ‖yᵀy‖), both centred"
    source = "Kornblith et al., Similarity of Neural Network Representations Revisited (arXiv 1905.00414)"

    def no_interval(self, value: Tensor) -> str:
        return "no interval holds within 0.01 of 1: rare windows decide it" if (value > 0.99).any() else ""

    @staticmethod
    def of_blocks(xx: Tensor, yx: Tensor, yy: Tensor) -> Float[Tensor, "*batch"]:
        norms = [block.square().sum((-2, -1)) for block in (xx, yx, yy)]
        return norms[1] / (norms[0] * norms[2]).sqrt()
