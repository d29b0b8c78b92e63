"""95 % intervals of sampling error whose independent unit is the window.

An estimate is, to first order, a mean over windows of its influence function; so its variance is that of the windows'
contributions. The interval is taken on a scale where the quantity's range is unbounded. Its quantiles allow for
contributions that are not normal: the degrees of freedom of Student's t fall with their kurtosis (Satterthwaite), and
the bounds reach as far as those corrected for their skewness (Hall, 1992). Fewer than `FEWEST` windows give none.

What is covered is the estimator's expectation at this many windows: another draw of as many windows. How often it holds
is measured, see docs/calibration.md. A bias that a finite sample has is not covered; where there is one, the quantity's
pitfalls say so.
"""

from collections.abc import Hashable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from dynamics.metrics.streaming.base import Estimate, Metric, undefined
from dynamics.scales import SCALES

Values = Float[np.ndarray, " entries"]

FEWEST = 8  # windows below which no interval is given
DOMINATES = 0.5  # share of the variance from which one window is said to dominate


def t_interval(
    value: Values,
    error: Values,
    freedom: Values | float,
    scale: str,
    skewness: Values | float = 0.0,
    tails: tuple[Values | float, Values | float] = (0.0, 0.0),
) -> tuple[Values, Values]:
    """Return bounds of `value` with standard `error`, of some `skewness`, on `scale`; NaN where none exists.

    `tails`: a further error of the lower and of the upper bound.

    >>> low, high = t_interval(np.array([0.5]), np.array([0.1]), freedom=31.0, scale="logit")
    >>> float(low[0].round(3)), float(high[0].round(3))
    (0.307, 0.693)
    """
    from scipy.special import stdtrit

    there, back, slope = SCALES[scale]
    with np.errstate(all="ignore"):
        middle, t = there(value), stdtrit(freedom, 0.975)
        below, above = (np.hypot(error, tail) * slope(value) for tail in tails)
        low = back(middle - below * np.maximum(t, unskewed(t, skewness)))
        high = back(middle + above * np.maximum(t, -unskewed(-t, skewness)))
    bad = ~(np.isfinite(low) & np.isfinite(high)) | (np.asarray(freedom) < 1)
    return np.where(bad, np.nan, low), np.where(bad, np.nan, high)


def unskewed(
    t: Float[np.ndarray, "..."] | float, skewness: Float[np.ndarray, "..."] | float
) -> Float[np.ndarray, "..."]:
    """Return the quantile of a skewed t statistic that corresponds to the quantile `t` of Student's.

    The inverse of Hall's cubic transformation (On the removal of skewness by transformation, 1992).

    >>> float(unskewed(2.0, 0.0)), float(unskewed(-2.0, 0.5).round(2))
    (2.0, -8.08)
    """
    third = np.where(np.abs(skewness) < 1e-6, 1e-6, skewness) / 3
    rooted = (np.cbrt(1 + 3 * third * (t - third / 2)) - 1) / third
    return np.where(np.abs(skewness) < 1e-6, t, rooted)


class Shape(NamedTuple):
    """What the contributions of windows say of the mean's distribution, for each entry."""

    error: Values  # the mean's standard error
    freedom: Values  # degrees of freedom of the variance
    skewness: Values  # the mean's
    largest: Values  # share of the sum of squares that one window makes
    tails: tuple[Values, Values]  # error by a window as far out as the farthest, below and above; 0 against the skew


def shape_of_mean(influence: Float[np.ndarray, "w entries"], windows: int) -> Shape:
    """Return how a mean over `windows` windows is distributed, from the influence of w >= 4 of them.

    The variance's own variance is sigma^4 (2 / (w - 1) + k / w), k the excess kurtosis (by its unbiased estimate).
    """
    w = len(influence)
    apart = influence - influence.mean(0)
    with np.errstate(all="ignore"):
        second, third, fourth = ((apart**power).mean(0) for power in (2, 3, 4))
        excess = (w - 1) / ((w - 2) * (w - 3)) * ((w + 1) * (fourth / second**2 - 3) + 6)
        skewness = third / second**1.5 * np.sqrt(w * (w - 1)) / (w - 2)
        largest = (apart**2).max(0) / (apart**2).sum(0)
    freedom = 2 / (2 / (w - 1) + np.maximum(np.nan_to_num(excess), 0) / w)
    error = np.sqrt(second * w / (w - 1) / windows)
    below, above = np.maximum(-apart.min(0), 0) * (skewness < 0), np.maximum(apart.max(0), 0) * (skewness > 0)
    tails = below / np.sqrt(w * windows), above / np.sqrt(w * windows)
    return Shape(error, freedom, np.nan_to_num(skewness) / np.sqrt(windows), np.nan_to_num(largest), tails)


def with_layer(per_head: Shaped[Tensor, "*rest heads"]) -> Float[np.ndarray, "*rest entries"]:
    """Append the mean over heads where there are several heads."""
    values = per_head.double().cpu().numpy()
    return values if values.shape[-1] == 1 else np.concatenate([values, values.mean(-1, keepdims=True)], axis=-1)


def too_few(windows: int) -> str:
    """Return why that many windows give no interval; empty where they do.

    >>> too_few(5)
    '5 windows: an interval needs at least 8'
    """
    return f"{windows} window{'s' * (windows != 1)}: an interval needs at least {FEWEST}" if windows < FEWEST else ""


def estimate(
    value: Float[Tensor, " heads"],
    n: int,
    *,
    influence: Float[Tensor, "w heads"] | None = None,
    windows: int = 0,
    scale: str = "identity",
    reason: str = "the states leave it undefined",
    without: str = "",
    n_effective: float = float("nan"),
    tail: float = 0.0,
) -> Estimate:
    """Return an `Estimate` from a value for each head and the windows' contributions to its error.

    Over all `windows` windows, value - truth is, to first order, the mean of the `influence`, which is of a sample of w
    windows. `n` is the number of points that the value is of, `scale` a key of `SCALES`, `reason` why a value is NaN,
    `without` why there is no interval. Where contributions have heavy tails, most draws lack the largest of them: the
    bound on the side of the skew reaches as if `tail` windows more were as far out as the farthest.
    """
    values = with_layer(value)
    sound = np.isfinite(values)
    values = np.where(sound, values, np.nan)
    without = without or too_few(windows)
    if influence is None or without or not sound.any():
        nan = np.full_like(values, np.nan)
        return Estimate(values, nan, nan, n, without if sound.all() else reason, {}, windows, n_effective)
    shape = shape_of_mean(with_layer(influence), windows)
    below, above = (np.sqrt(tail) * error for error in shape.tails)
    low, high = t_interval(values, shape.error, shape.freedom, scale, shape.skewness, (below, above))
    if not sound.all():
        without = reason
    elif not np.isfinite(low).all():
        without = "no interval: the value lies at the end of its range, or no window moves it"
    elif (largest := shape.largest.max()) > DOMINATES:
        without = f"one window makes {largest:.0%} of the variance behind the interval"
    return Estimate(values, low, high, n, without, {}, windows, n_effective)


class Windowed(Metric):
    """A metric whose interval comes from the influence of each window on its value (the delta method).

    An accumulator has `budget` (its option), `heads` and `n` (the numbers of heads and of points that the value is of),
    `windows` and `trouble` (why nothing can be computed from the states; empty where all is well).
    """

    nan_reason: ClassVar[str] = "the states leave it undefined"  # why a head's value is NaN, should it be
    tail: ClassVar[float] = 0.0  # windows that the interval adds for heavy tails, by calibration (see `estimate`)
    heads_apart: ClassVar[bool] = False  # whether a head's value and influence depend on no other head; by class
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
        return "logit" if high == 1 else "log above 1" if low == 1 else "log"

    def value_and_influence(self, states: Any) -> tuple[Float[Tensor, " heads"], Float[Tensor, "w heads"]]:
        """Return the value of each head, and the influence on it of each window in a sample (see `estimate`)."""
        raise NotImplementedError

    def no_interval(self, value: Float[Tensor, " heads"]) -> str:
        """Return why this value has no interval; empty where it has one."""
        return ""

    def estimate(self, states: Any) -> Estimate:
        if trouble := getattr(states, self.refuses):
            return undefined(states.heads, states.n, trouble)
        return self.with_interval(states, *self.of_layer(states))

    def of_layer(self, states: Any, *which: int) -> tuple[Float[Tensor, " heads"], Float[Tensor, "w heads"]]:
        """Return `value_and_influence`; of a layer of several with all of them where the class treats heads apart."""
        if states.whole is None or not vars(type(self)).get("heads_apart"):
            return self.value_and_influence(states, *which)
        whole, number = states.whole
        parts: list[tuple[Tensor, Tensor]] = whole.by_layer(
            f"{self.name} {which}", lambda: self.value_and_influence(whole, *which), (0, 1)
        )
        return parts[number]

    def difference(self, states: Any, other: Any) -> Estimate:
        """Estimate the value of `states` less that of `other`, of the same windows, with a paired interval."""
        with states.reading(), other.reading():
            for part in (states, other):
                if trouble := getattr(part, self.refuses):
                    return undefined(part.heads, part.n, trouble)
            value, influence = self.value_and_influence(states)
            before, influence_before = (x.to(value.device) for x in self.value_and_influence(other))
        if influence.shape != influence_before.shape or int(states.windows) != int(other.windows):
            return undefined(states.heads, states.n, "the two are of different windows")
        windows, change = int(states.windows), influence - influence_before
        return estimate(value - before, states.n, influence=change, windows=windows, reason=self.nan_reason)

    def with_interval(
        self, states: Any, value: Float[Tensor, " heads"], influence: Float[Tensor, "w heads"]
    ) -> Estimate:
        """Return the estimate from a value and the influence on it."""
        return estimate(
            value,
            states.n,
            influence=influence,
            windows=int(states.windows),
            scale=self.interval_scale,
            reason=self.nan_reason,
            without=self.no_interval(value),
            n_effective=getattr(states, "n_effective", float("nan")),
            tail=self.tail,
        )
