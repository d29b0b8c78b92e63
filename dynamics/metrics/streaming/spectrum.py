"""Eigenvalues of the covariance of states, and the base of the metrics that are functions of them."""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming.arithmetic import (
    above_rounding,
    floating,
    multiplies_in_full,
    precise,
    self_product,
    unresolved,
)
from dynamics.metrics.streaming.base import Estimate
from dynamics.metrics.streaming.intervals import shape_of_mean, t_interval, with_layer
from dynamics.metrics.streaming.moments import Moments

NEAR = 0.85  # of the first direction's value: a rival that may overtake it, by calibration


def gram(
    x: Float[Tensor, "*batch n d"], centered: bool = True, precision: torch.dtype | None = None
) -> Float64[Tensor, "*batch e e"]:
    """Return the smaller Gram matrix of `x` about its mean: x^T x (d <= n) or x x^T (d > n).

    The product is taken in `precision` (default: that of x). NaN where a state is not finite, where there are fewer
    than two of them, or where all are equal.
    """
    n, d = x.shape[-2:]
    if not n:
        return x.new_full((*x.shape[:-2], 1, 1), torch.nan, dtype=torch.float64)
    x = floating(x)
    mean = x.mean(-2, keepdim=True, dtype=torch.float64) * centered
    if precision is None:
        precision = x.dtype if multiplies_in_full(x.device) else torch.float64
    moved = x.to(precision) - mean.to(precision)
    rest = moved.mean(-2, keepdim=True, dtype=torch.float64) * centered  # what rounding left of the mean
    moved = moved - rest.to(precision)
    product = self_product(moved if n >= d else moved.mT).double()
    power = trace(product)
    floor = n * unresolved(mean.square().sum((-2, -1)), x.dtype)
    sound = product.isfinite().all(-1).all(-1) & (power > floor) & (n > 1)
    return product.where(sound[..., None, None], torch.nan)


def eigenvalues(
    x: Float[Tensor, "*batch n d"], centered: bool = True, precision: torch.dtype | None = torch.float64
) -> Float64[Tensor, "*batch e"]:
    """Return the eigenvalues of the `gram` matrix (squared singular values of x), descending, e = min(n, d).

    >>> eigenvalues(torch.diag(torch.tensor([2.0, 10.0, 1.0])), centered=False)
    tensor([100.,   4.,   1.], dtype=torch.float64)
    """
    matrix = gram(x, centered, precision)
    values = above_rounding(torch.linalg.eigvalsh(matrix.nan_to_num()).flip(-1))
    return values.where(matrix.isfinite().all(-1).all(-1)[..., None], torch.nan)


def top(matrix: Float64[Tensor, "d d"], place: int = 0) -> tuple[Float64[Tensor, ""], Float64[Tensor, " d"]]:
    """Return the largest eigenvalue of a finite symmetric matrix, or one some places after it, and its eigenvector."""
    if len(matrix) > 64 and matrix.device.type == "cpu" and not matrix.requires_grad:
        from scipy.sparse.linalg import ArpackError, eigsh

        start = np.random.default_rng(0).normal(size=len(matrix))
        try:  # Lanczos to machine precision: a few milliseconds where all eigenvalues take many
            values, vectors = eigsh(matrix.numpy(), 1 + place, v0=start, tol=0)
            return matrix.new_tensor(values[0]), torch.from_numpy(vectors[:, 0])
        except ArpackError:
            pass
    values, vectors = torch.linalg.eigh(matrix)
    return values[-1 - place], vectors[:, -1 - place]


def top_share(matrix: Float64[Tensor, "*batch d d"]) -> Float64[Tensor, "*batch"]:
    """Return the largest eigenvalue of symmetric matrices over their trace; NaN where not finite."""
    sound = matrix.isfinite().all(-1).all(-1)
    if matrix.ndim == 2:
        value = top(matrix)[0] if sound else matrix.new_tensor(torch.nan)
    elif matrix.device.type == "cpu":
        value = torch.linalg.eigvalsh(matrix.nan_to_num())[..., -1]
    else:
        value = by_squaring(matrix.nan_to_num())
    return (value / trace(matrix)).where(sound, torch.nan)


def by_squaring(matrix: Float64[Tensor, "*batch d d"]) -> Float64[Tensor, "*batch"]:
    """Return the largest eigenvalue of positive semidefinite matrices: the mean weighted by the 2^25th powers.

    A power iteration that takes few launches for any number of matrices. The weights are taken in float32, whose
    rounding changes the mean in the second order; eigenvalues closer than its resolution are not told apart.

    >>> by_squaring(torch.diag(torch.tensor([1.0, 4.0, 3.0], dtype=torch.float64))[None])
    tensor([4.], dtype=torch.float64)
    """
    power = (matrix / trace(matrix)[..., None, None]).float()
    with precise(power):
        for number in range(25):
            power = power @ power
            if number % 3 == 0:  # before the powers of 1 / d underflow
                power = power / trace(power)[..., None, None]
    return (matrix * power).sum((-2, -1)) / trace(power.double())


def trace(matrix: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch"]:
    """Return the trace of matrices."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


class OfDirections(Moments):
    """A metric of directions; where it is of the first alone, `rivals` others may overtake it in another draw."""

    rivals = 0

    def value_and_influence(
        self, states: Moments, first: int = 0
    ) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        """Return the value and its influence when the direction `first` stands in the place of the first."""
        raise NotImplementedError

    def estimate(self, states: Moments) -> Estimate:
        """Estimate the quantity; its upper bound is the highest of those of the directions that may come first."""
        estimate = super().estimate(states)
        if np.isfinite(estimate.high).any():
            for first in range(1, min(1 + self.rivals, states.mean.shape[-1])):
                value, influence = map(with_layer, self.of_layer(states, first))
                shape = shape_of_mean(influence, int(states.windows))
                bound = t_interval(value, shape.error, shape.freedom, self.interval_scale, shape.skewness / 2)[1]
                bound = np.where(value > NEAR * estimate.value, bound, np.nan)  # what lies far below overtakes nothing
                estimate = estimate._replace(high=np.fmax(estimate.high, bound))
        return estimate


class Spectral(OfDirections):
    """A metric that is a smooth function of the covariance's eigenvalues, unchanged when they are all scaled."""

    refuses = "flat"

    @staticmethod
    def of_eigenvalues(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """Return the quantity for eigenvalues, descending."""
        raise NotImplementedError

    def value_and_influence(
        self, states: Moments, first: int = 0
    ) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        values, influence = states.spectrum
        if first:
            order = [first, *(place for place in range(values.shape[-1]) if place != first)]
            values, influence = values[..., order], influence[..., order]
        # Without a window: its eigenvalues to first order, the quantity of them exactly.
        others = states.windows - 1
        value = self.of_eigenvalues(values)
        without = (values - influence / others).clamp(min=0).where(values > 0, 0)
        return value, (value - self.of_eigenvalues(without)) * others
