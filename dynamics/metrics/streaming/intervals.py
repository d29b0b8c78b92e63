"""95 % intervals of sampling error whose independent unit is the window.

An estimate is, to first order, a mean over windows of its influence function; so its variance is that of the windows'
contributions, and its interval has Student's t with W - 1 degrees of freedom, taken on a scale where the quantity's
range is unbounded. Intervals that count tokens cover 12-34 % where tokens of a window are alike.

What is covered is the estimator's expectation at this many windows (measured: 93-98 %): another draw of as many
windows. A bias that a finite sample has is not covered; where there is one, the quantity's pitfalls say so.
"""

from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from dynamics.metrics.streaming.base import Estimate, Metric, undefined

Values = Float[np.ndarray, " entries"]
Map = Callable[[np.ndarray], np.ndarray]

SCALES: dict[str, tuple[Map, Map, Map]] = {  # transformation, its inverse, its derivative
    "identity": (lambda v: v, lambda u: u, np.ones_like),
    "log": (np.log, np.exp, lambda v: 1 / v),
    "logit": (lambda v: np.log(v) - np.log1p(-v), lambda u: 1 / (1 + np.exp(-u)), lambda v: 1 / (v * (1 - v))),
    "atanh": (np.arctanh, np.tanh, lambda v: 1 / (1 - v * v)),
}


def t_interval(value: Values, error: Values, freedom: int, scale: str) -> tuple[Values, Values]:
    """Return bounds of `value` with standard `error`, symmetric on `scale`; NaN where none exists.

    >>> low, high = t_interval(np.array([0.5]), np.array([0.1]), freedom=31, scale="logit")
    >>> float(low[0].round(3)), float(high[0].round(3))
    (0.307, 0.693)
    """
    from scipy.special import stdtrit

    there, back, slope = SCALES[scale]
    if freedom < 1:
        return np.full_like(value, np.nan), np.full_like(value, np.nan)
    with np.errstate(all="ignore"):
        middle, half = there(value), stdtrit(freedom, 0.975) * error * slope(value)
        low, high = back(middle - half), back(middle + half)
    bad = ~(np.isfinite(low) & np.isfinite(high))
    return np.where(bad, np.nan, low), np.where(bad, np.nan, high)


def variance_of_sum(
    terms: Float[np.ndarray, " n"], label: Shaped[np.ndarray, " n"], other: Shaped[np.ndarray, " n"]
) -> tuple[float, int]:
    """Return the variance of the sum of `terms`, mean 0, that are dependent where either label agrees, and its freedom.

    Clustered in two ways (Cameron, Gelbach and Miller, 2011): V(label) + V(other) - V(both), V the sum of the squared
    sums over equal labels; no less than V(label) and V(other).

    >>> terms = np.array([1.0, 1.0, -1.0, -1.0])
    >>> variance_of_sum(terms, np.array([7, 7, 3, 3]), np.arange(4))
    (8.0, 1)
    """
    label, other = (np.unique(labels, return_inverse=True)[1] for labels in (label, other))
    both = np.unique(label * (other.max() + 1) + other, return_inverse=True)[1]
    a, b, ab = (float((np.bincount(labels, terms) ** 2).sum()) for labels in (label, other, both))
    return max(a, b, a + b - ab), int(min(label.max(), other.max()))


def with_layer(per_head: Shaped[Tensor, "*rest heads"]) -> Float[np.ndarray, "*rest entries"]:
    """Append the mean over heads where there are several heads."""
    values = per_head.double().cpu().numpy()
    return values if values.shape[-1] == 1 else np.concatenate([values, values.mean(-1, keepdims=True)], axis=-1)


def estimate(
    value: Float[Tensor, " heads"],
    n: int,
    *,
    influence: Float[Tensor, "w heads"] | None = None,
    windows: int = 0,
    scale: str = "identity",
    reason: str = "the states leave it undefined",
    arrays: dict[str, np.ndarray] | None = None,
) -> Estimate:
    """Return an `Estimate` from a value for each head and the windows' contributions to its error.

    Over all `windows` windows, value - truth is, to first order, the mean of the `influence`, which is of a sample of w
    windows. `n` is the number of points that the value is of, `scale` a key of `SCALES`, `reason` why a value is NaN.
    """
    values = with_layer(value)
    low = high = np.full_like(values, np.nan)
    if influence is not None and len(influence) > 1:
        error = with_layer(influence).std(axis=0, ddof=1) / np.sqrt(windows)
        low, high = t_interval(values, error, len(influence) - 1, scale)
    sound = np.isfinite(values)
    return Estimate(np.where(sound, values, np.nan), low, high, n, "" if sound.all() else reason, arrays or {})


class Windowed(Metric):
    """A metric whose interval comes from the influence of each window on its value (the delta method).

    An accumulator has `budget` (its option), `heads` and `n` (the numbers of heads and of points that the value is of),
    `windows` and `trouble` (why nothing can be computed from the states; empty where all is well).
    """

    nan_reason: ClassVar[str] = "the states leave it undefined"  # why a head's value is NaN, should it be
    refuses: ClassVar[str] = "trouble"  # what of an accumulator says why the metric is undefined for it
    budget: int
    windows: Tensor

    @property
    def accumulator(self) -> Hashable:
        """The class that fills the states, and its option."""
        return next(base for base in type(self).__mro__ if "update" in vars(base)), self.budget

    @property
    def interval_scale(self) -> str:
        """The key of `SCALES` on which the interval is symmetric: where the metric's `range` is unbounded."""
        low, high = self.range
        if (low, high) == (-1, 1):
            return "atanh"
        if low is None or low < 0 or high not in (1, None):
            return "identity"
        return "log" if high is None else "logit"

    def value_and_influence(self, states: Any) -> tuple[Float[Tensor, " heads"], Float[Tensor, "w heads"]]:
        """Return the value of each head, and the influence on it of each window in a sample (see `estimate`)."""
        raise NotImplementedError

    def estimate(self, states: Any) -> Estimate:
        if trouble := getattr(states, self.refuses):
            return undefined(states.heads, states.n, trouble)
        value, influence = self.value_and_influence(states)
        windows, scale = int(states.windows), self.interval_scale
        return estimate(value, states.n, influence=influence, windows=windows, scale=scale, reason=self.nan_reason)
