"""Anisotropy about the origin: the share of the mean square that lies along one direction."""

from torch import Tensor

from dynamics.metrics.spectrum import Spectral, gram, largest, trace


def anisotropy_uncentered(x: Tensor) -> Tensor:
    """The share of the states' mean square that lies along one direction, the mean included.

    Formula: sigma_1^2 / sum_i sigma_i^2, sigma the singular values of the states (n, d) as they are.
    Range: 1 / min(n, d) to 1; no unit.
    Source: `anisotropy` without its centring; the uncentred first direction of the sentence-cone experiments.
    Pitfalls: a mean far from the origin makes it near 1 whatever the shape of the cloud about it.
    Interval: windows' influence functions, Student's t on the logit scale; sampling error only.

    Args:
        x: states, shape (..., n, d).

    Returns:
        Shape (...), float64. NaN for fewer than two states, zero states, or states that are not finite.

    >>> import torch
    >>> anisotropy_uncentered(torch.diag(torch.tensor([10.0, 2.0, 1.0])))  # 100 / 105
    tensor(0.9524, dtype=torch.float64)
    """
    matrix = gram(x, centered=False)
    return largest(matrix) / trace(matrix)


class AnisotropyUncentered(Spectral):
    """Streams `anisotropy_uncentered`."""

    name = "anisotropy_uncentered"
    centered = False
    scale = "logit"

    @staticmethod
    def of_eigenvalues(values: Tensor) -> Tensor:
        return values[..., 0] / values.sum(-1)
