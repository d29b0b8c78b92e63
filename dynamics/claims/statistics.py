"""Intervals and tests of an effect whose independent units are seeds or models. No torch here.

The standard error is that of a hierarchical bootstrap: units are drawn with replacement, and each drawn value moves by
its own sampling error (that of its windows, where the record has one). Interval and test take Student's t: the
percentiles of a bootstrap never leave the range of the values, which covers the mean of 3 units in 75 % of the cases at
most, and so does not make a 95 % interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dynamics.changepoints import ChangePoint

UNITS = 3  # seeds or models that an interval takes
DRAWS = 4000  # bootstrap resamples
LEVEL = 0.05  # of wrong verdicts among all verdicts, after correction
FAMILY = "Benjamini-Yekutieli"  # holds however the claims depend on one another
SEED = 0
HALF_WIDTH = 1.959964  # of a 95 % interval of sampling error, in standard errors
MANY = 1e6  # degrees of freedom: a normal distribution


class Measured(NamedTuple):
    """A value with the standard error of its sampling (its windows); 0 where that is not known."""

    value: float
    error: float = 0.0

    def __sub__(self, other: "Measured") -> "Measured":
        """Return the difference; errors add as if they were independent, which is too wide for shared windows."""
        return Measured(self.value - other.value, float(np.hypot(self.error, other.error)))


def mean_of(values: Sequence[Measured]) -> Measured:
    """Return the mean; its error holds however the errors go together."""
    return Measured(float(np.mean([v.value for v in values])), float(np.mean([v.error for v in values])))


def directed(units: dict[str, Measured]) -> dict[str, Measured]:
    """Return every unit's value in the direction of the mean of the others: where there is none, they average 0.

    The size of a value alone is never negative, and so would take noise for an effect.

    >>> directed({"0": Measured(-2.0), "1": Measured(-3.0)})["0"].value
    2.0
    """
    total = sum(v.value for v in units.values())
    return {unit: Measured(v.value * float(np.sign(total - v.value)), v.error) for unit, v in units.items()}


@dataclass(frozen=True)
class Effects:
    """The effect in every unit, by the unit's name; with `against`, units of another group whose mean is taken off."""

    units: dict[str, Measured]
    against: dict[str, Measured] | None = None
    p: float = field(default=0.0, kw_only=True)  # of a test that the claimed side takes too: that of change points
    points: tuple[ChangePoint, ...] = field(default=(), kw_only=True)  # where a curve turns, if the effect lies between

    @property
    def n(self) -> int:
        """Number of units."""
        return len(self.units) + len(self.against or {})


class Outcome(NamedTuple):
    """An effect with its 95 % interval, and the one-sided p-values for lying above and below a threshold."""

    effect: float
    low: float
    high: float
    n: int
    p_above: float
    p_below: float


def outcome(effects: Effects, threshold: float, draws: int = DRAWS, seed: int = SEED) -> Outcome:
    """Return the mean effect, its interval, and how sure it lies beyond a threshold.

    Degrees of freedom are Welch's and Satterthwaite's. Where no unit differs from another and none has a sampling
    error, there is no spread to judge by: the p-values are those of the sign test.

    >>> outcome(Effects({"0": Measured(1.0), "1": Measured(2.0), "2": Measured(3.0)}), 0.0).effect
    2.0
    """
    from scipy import stats

    groups = [_arrays(units) for units in (effects.units, effects.against) if units is not None]
    generator = np.random.default_rng(seed)
    over_units, over_both = np.array([_variances(*group, draws, generator) for group in groups]).T
    sizes = np.array([len(values) for values, _ in groups])
    effect = float(groups[0][0].mean() - (groups[1][0].mean() if len(groups) > 1 else 0.0))
    if over_both.sum() <= (1e-12 * max(abs(effect), abs(threshold), 1e-300)) ** 2:
        certain, side = 0.5 ** int(sizes.min()), np.sign(effect - threshold)
        above, below = (certain, 1.0) if side > 0 else (1.0, certain) if side < 0 else (1.0, 1.0)
        return Outcome(effect, effect, effect, effects.n, above, below)
    spread = (over_units**2 / (sizes - 1)).sum()  # sampling errors are known: they add no uncertainty of a variance
    candidates = []
    for variance in (over_units.sum(), over_both.sum()):
        freedom = float(min(variance**2 / spread, MANY)) if spread else MANY
        candidates.append((float(stats.t.ppf(0.975, freedom) * np.sqrt(variance)), freedom, float(np.sqrt(variance))))
    half, freedom, standard_error = max(candidates)  # sampling errors never make an interval over units narrower
    t = (effect - threshold) / standard_error
    p_above, p_below = float(stats.t.sf(t, freedom)), float(stats.t.cdf(t, freedom))
    return Outcome(effect, effect - half, effect + half, effects.n, p_above, p_below)


def _arrays(units: dict[str, Measured]) -> tuple[np.ndarray, np.ndarray]:
    """Return values and errors in the order of the units' names: results do not depend on the order of runs."""
    ordered = [units[name] for name in sorted(units)]
    return np.array([v.value for v in ordered]), np.nan_to_num([v.error for v in ordered])


def _variances(
    values: np.ndarray, errors: np.ndarray, draws: int, generator: np.random.Generator
) -> tuple[float, float]:
    """Return the variance of the mean over units, without and with sampling errors.

    It is that of the bootstrap, n / (n - 1) times: without the factor it would be too small, for the mean of a sample
    lies nearer to its values than the mean of all.
    """
    n = len(values)
    chosen = generator.integers(0, n, (draws, n))
    noise = errors[chosen] * generator.standard_normal((draws, n))
    means, both = values[chosen].mean(axis=1), (values[chosen] + noise).mean(axis=1)
    return float(means.var()) * n / (n - 1), float(both.var()) * n / (n - 1)


def corrected(p_values: Sequence[float]) -> list[float]:
    """Return p-values that bound the rate of false discoveries among all of them, however they depend on one another.

    >>> corrected([0.001, 0.5])
    [0.003, 0.75]
    """
    from scipy import stats

    if not p_values:
        return []
    return [float(p) for p in stats.false_discovery_control(p_values, method="by")]
