"""Resampled sentences: how far a value would move, had other sentences been drawn.

Weights are (R, n): how often each of n sentences is in each of R resamples (Efron, 1979). Pairs of a sentence with its
own copy do not count: they would add cosines of 1 that no sample has.
"""

from typing import NamedTuple

import numpy as np

DRAWS = 1000  # resamples for an interval


class Interval(NamedTuple):
    """A value and the middle 95 % of its resamples."""

    value: float
    low: float = np.nan
    high: float = np.nan


def weights(n: int, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Return resamples of n, as weights (draws, n), float64.

    >>> weights(5, draws=3).sum(1)
    array([5., 5., 5.])
    """
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(float)


def weights_with_sample(n: int, seed: int) -> np.ndarray:
    """Return the weights of the sample itself (all ones), then those of its resamples, (1 + R, n)."""
    return np.concatenate([np.ones((1, n)), weights(n, seed)])


def interval(value: float, resampled: np.ndarray) -> Interval:
    """Return the value between the 2.5th and 97.5th percentile of its resamples; NaN bounds where none is finite."""
    finite = resampled[np.isfinite(resampled)]
    if not finite.size or not np.isfinite(value):
        return Interval(float(value))
    low, high = np.percentile(finite, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def estimate(values: np.ndarray) -> Interval:
    """Return the value of the sample, the first of `values`, with the interval of its resamples, the others."""
    return interval(float(values[0]), values[1:])


def units(x: np.ndarray) -> np.ndarray:
    """Return rows of unit length, float64; NaN where a row is zero."""
    x = np.asarray(x, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return x / np.linalg.norm(x, axis=1, keepdims=True)


def mean_cosine(vectors: np.ndarray, weighted: np.ndarray) -> np.ndarray:
    """Return the mean cosine over pairs of different sentences: vectors (n, d), weights (R, n) -> (R,).

    Formula: (|sum_i w_i u_i|^2 - sum_i w_i^2) / ((sum_i w_i)^2 - sum_i w_i^2), u_i = x_i / |x_i|. NaN without pairs.
    """
    squares = np.square(weighted).sum(1)
    pairs = weighted.sum(1) ** 2 - squares
    return (np.square(weighted @ units(vectors)).sum(1) - squares) / np.where(pairs > 0, pairs, np.nan)


def token_mean_cosine(sums: np.ndarray, counts: np.ndarray, weighted: np.ndarray) -> np.ndarray:
    """Return the mean cosine over pairs of different tokens, those of one sentence included, (R,).

    From the sums (n, d) of the directions of each sentence's tokens, their counts (n,), and weights (R, n).
    """
    squares, square = np.square(sums).sum(1), np.square(weighted)
    total = np.square(weighted @ sums).sum(1) - square @ squares + weighted @ (squares - counts)
    pairs = (weighted @ counts) ** 2 - square @ np.square(counts) + weighted @ (np.square(counts) - counts)
    return total / np.where(pairs > 0, pairs, np.nan)
