"""Intervals and tests of an effect whose independent units are seeds or models. No torch here.

The standard error is that of a hierarchical bootstrap: units are drawn with replacement, and each drawn value moves by
its own sampling error (that of its windows, where the record has one). Interval and test take Student's t: the
percentiles of a bootstrap never leave the range of the values, which covers the mean of 3 units in 75 % of the cases at
most, and so does not make a 95 % interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

UNITS = 3  # seeds or models that an interval takes
DRAWS = 4000  # bootstrap resamples
LEVEL = 0.05  # of wrong verdicts among all verdicts, after correction
FAMILY = "Benjamini-Yekutieli"  # holds however the claims depend on one another
SEED = 0


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


@dataclass(frozen=True)
class Effects:
    """The effect in every unit, by the unit's name; with `against`, units of another group whose mean is taken off."""

    units: dict[str, Measured]
    against: dict[str, Measured] | None = None

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

    Two groups have Welch's degrees of freedom. Where no unit differs from another and none has a sampling error,
    there is no spread to judge by: the p-values are those of the sign test.

    >>> outcome(Effects({"0": Measured(1.0), "1": Measured(2.0), "2": Measured(3.0)}), 0.0).effect
    2.0
    """
    from scipy import stats

    groups = [_arrays(units) for units in (effects.units, effects.against) if units is not None]
    generator = np.random.default_rng(seed)
    variances = np.array([_variance(values, errors, draws, generator) for values, errors in groups])
    sizes = np.array([len(values) for values, _ in groups])
    effect = float(groups[0][0].mean() - (groups[1][0].mean() if len(groups) > 1 else 0.0))
    standard_error = float(np.sqrt(variances.sum()))
    scale = max(abs(effect), abs(threshold), 1e-300)
    if standard_error <= 1e-12 * scale:
        certain, side = 0.5 ** int(sizes.min()), np.sign(effect - threshold)
        above, below = (certain, 1.0) if side > 0 else (1.0, certain) if side < 0 else (1.0, 1.0)
        return Outcome(effect, effect, effect, effects.n, above, below)
    freedom = float(variances.sum() ** 2 / (variances**2 / (sizes - 1)).sum())
    half = float(stats.t.ppf(0.975, freedom)) * standard_error
    t = (effect - threshold) / standard_error
    p_above, p_below = float(stats.t.sf(t, freedom)), float(stats.t.cdf(t, freedom))
    return Outcome(effect, effect - half, effect + half, effects.n, p_above, p_below)


def _arrays(units: dict[str, Measured]) -> tuple[np.ndarray, np.ndarray]:
    """Return values and errors in the order of the units' names: results do not depend on the order of runs."""
    ordered = [units[name] for name in sorted(units)]
    return np.array([v.value for v in ordered]), np.nan_to_num([v.error for v in ordered])


def _variance(values: np.ndarray, errors: np.ndarray, draws: int, generator: np.random.Generator) -> float:
    """Return the variance of the mean over units: of the hierarchical bootstrap, times n / (n - 1).

    Without the factor, a bootstrap of n units has the variance of samples whose mean is known: too small.
    """
    n = len(values)
    chosen = generator.integers(0, n, (draws, n))
    means = (values[chosen] + errors[chosen] * generator.standard_normal((draws, n))).mean(axis=1)
    return float(means.var()) * n / (n - 1)


def corrected(p_values: Sequence[float]) -> list[float]:
    """Return p-values that bound the rate of false discoveries among all of them, however they depend on one another.

    >>> corrected([0.001, 0.5])
    [0.003, 0.75]
    """
    from scipy import stats

    if not p_values:
        return []
    return [float(p) for p in stats.false_discovery_control(p_values, method="by")]
