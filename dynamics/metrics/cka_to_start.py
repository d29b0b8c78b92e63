from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.linear_cka import LinearCka, linear_cka
from dynamics.metrics.streaming import ToStart


def cka_to_start(x: Float[Tensor, "*batch n d"], reference: Float[Tensor, "*batch n e"]) -> Float64[Tensor, "*batch"]:
    """Return the linear CKA of a layer's states with those of the same tokens at step 0.

    Formula: |y^T x|_F^2 / (|x^T x|_F |y^T y|_F) of the states x at step 0 and y now, both centred.
    Pitfalls: biased upwards when n is not far above the width: `size` tokens are compared, however many are measured.
        They are kept with every training state: size (d + 1) numbers a layer.
    Interval: windows' influence functions, Student's t on the logit scale; sampling error only, not that bias.

    `reference`: states at step 0, of the same tokens. NaN for fewer than two tokens or where all are equal.
    >>> x = Tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 5.0]])
    >>> cka_to_start(3 * x.flip(-1) + 1, x).round(decimals=3)
    tensor(1., dtype=torch.float64)
    """
    return linear_cka(reference, x)


class CkaToStart(ToStart):
    """Similarity of a layer's states to those of the same tokens at step 0, up to rotation and scale."""

    title = "linear CKA to step 0"
    range = (0, 1)
    estimator = "‖yᵀx‖² / (‖xᵀx‖ ‖yᵀy‖), both centred, on the same sample of tokens"
    source = "Kornblith et al., Similarity of Neural Network Representations Revisited (arXiv 1905.00414)"
    of = LinearCka
