"""Scales on which an interval is symmetric: where the range of a quantity is unbounded. No torch here."""

from collections.abc import Callable

import numpy as np

Map = Callable[[np.ndarray], np.ndarray]

SCALES: dict[str, tuple[Map, Map, Map]] = {  # transformation, its inverse, its derivative
    "identity": (lambda v: v, lambda u: u, np.ones_like),
    "log": (np.log, np.exp, lambda v: 1 / v),
    "logit": (lambda v: np.log(v) - np.log1p(-v), lambda u: 1 / (1 + np.exp(-u)), lambda v: 1 / (v * (1 - v))),
    "atanh": (np.arctanh, np.tanh, lambda v: 1 / (1 - v * v)),
}


def bounds(value: np.ndarray, half: np.ndarray, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of `value` whose interval has the half width `half` to first order, symmetric on `scale`.

    NaN where the scale has no place for the value, or for a bound.

    >>> low, high = bounds(np.array([0.5, 1.0]), np.array([0.2, 0.2]), "logit")
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.31, nan], [0.69, nan])
    """
    there, back, slope = SCALES[scale]
    with np.errstate(all="ignore"):
        middle, half = there(value), half * slope(value)
        low, high = back(middle - half), back(middle + half)
    bad = ~(np.isfinite(low) & np.isfinite(high))
    return np.where(bad, np.nan, low), np.where(bad, np.nan, high)


def bounds_within(
    value: np.ndarray, half: np.ndarray, least: np.ndarray, greatest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return `bounds` that stay within the range of each value, from `least` to `greatest` (NaN: unbounded there).

    On the logit of the place within the range (between -1 and 1 this is Fisher's z), or the log of the distance from
    its lower end.
    """
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    is_above, is_closed = np.isfinite(least), np.isfinite(least) & np.isfinite(greatest)
    shift, unit = np.where(is_above, least, 0.0), np.where(is_closed, greatest - least, 1.0)
    for scale, chosen in (("identity", ~is_above), ("log", is_above & ~is_closed), ("logit", is_closed)):
        inside, width = (value - shift)[chosen] / unit[chosen], half[chosen] / unit[chosen]
        for ends, end in zip((low, high), bounds(inside, width, scale), strict=True):
            ends[chosen] = shift[chosen] + unit[chosen] * end
    return low, high
