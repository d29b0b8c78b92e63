"""95 % intervals of sampling error whose independent unit is the window.

An estimate is, to first order, a mean over windows of its influence function; so its variance is that of the
windows' contributions, and its interval has Student's t with W - 1 degrees of freedom, taken on a scale where the
quantity's range is unbounded. Intervals that count tokens cover 12-34 % where tokens of a window are alike.

What is covered is the estimator's expectation at this many windows (measured: 93-98 %): another draw of as many
windows. A bias that a finite sample has is not covered; where there is one, the quantity's pitfalls tell.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from dynamics.metrics.streaming.base import Estimate

Map = Callable[[np.ndarray], np.ndarray]

SCALES: dict[str, tuple[Map, Map, Map]] = {  # transformation, its inverse, its derivative
    "identity": (lambda v: v, lambda u: u, np.ones_like),
    "log": (np.log, np.exp, lambda v: 1 / v),
    "logit": (lambda v: np.log(v) - np.log1p(-v), lambda u: 1 / (1 + np.exp(-u)), lambda v: 1 / (v * (1 - v))),
    "atanh": (np.arctanh, np.tanh, lambda v: 1 / (1 - v * v)),
}


def t_interval(value: np.ndarray, error: np.ndarray, freedom: int, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of `value` (heads,) with standard `error` (heads,), symmetric on `scale`; NaN where none exists.

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


def variance_of_sum(terms: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    """Variance of the sum of `terms` (n,), mean 0, that hang together where either label agrees, and its freedom.

    Clustered in two ways (Cameron, Gelbach and Miller, 2011): V(one) + V(other) - V(both), V the sum of the squared
    sums over equal labels (n,); no less than V(one) and V(other).

    >>> terms = np.array([1.0, 1.0, -1.0, -1.0])
    >>> variance_of_sum(terms, np.array([7, 7, 3, 3]), np.arange(4))
    (8.0, 1)
    """
    one, other = (np.unique(label, return_inverse=True)[1] for label in (one, other))
    both = np.unique(one * (other.max() + 1) + other, return_inverse=True)[1]
    a, b, ab = (float((np.bincount(label, terms) ** 2).sum()) for label in (one, other, both))
    return max(a, b, a + b - ab), int(min(one.max(), other.max()))


def with_layer(per_head: Tensor) -> np.ndarray:
    """Append the mean over heads, the last axis, where there are several heads."""
    values = per_head.double().cpu().numpy()
    return values if values.shape[-1] == 1 else np.concatenate([values, values.mean(-1, keepdims=True)], axis=-1)


def estimate(
    value: Tensor,
    n: int,
    *,
    influence: Tensor | None = None,
    windows: int = 0,
    scale: str = "identity",
    reason: str = "the states leave it undefined",
    arrays: dict[str, np.ndarray] | None = None,
) -> Estimate:
    """An `Estimate` from a value for each head and the windows' contributions to its error.

    Args:
        value: shape (heads,).
        n: points behind the value.
        influence: shape (W, heads), of a sample of W windows: value - truth is, to first order, the mean of the
            windows' influence over all `windows` windows.
        windows: number of windows behind the value.
        scale: a key of `SCALES`.
        reason: why a value is NaN, should one be.
        arrays: passed on.
    """
    values = with_layer(value)
    low = high = np.full_like(values, np.nan)
    if influence is not None and len(influence) > 1:
        error = with_layer(influence).std(axis=0, ddof=1) / np.sqrt(windows)
        low, high = t_interval(values, error, len(influence) - 1, scale)
    sound = np.isfinite(values)
    return Estimate(np.where(sound, values, np.nan), low, high, n, "" if sound.all() else reason, arrays or {})
