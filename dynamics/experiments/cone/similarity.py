"""Similarity of sentences: against human scores, and from which depth on it is the final one.

n sentences, P pairs, R resamples. Spearman correlations throughout; `spearman` against scores is given times 100, as
the literature on sentence embeddings does.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from dynamics.experiments.cone.resampling import Interval, estimate, interval, units
from dynamics.experiments.cone.sentences import Pairs

MOST = 1000  # sentences whose pairs a comparison of depths takes: their number grows with the square


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the Spearman correlation over the last axis, ties sharing a mean rank; NaN where either is constant."""
    a, b = rankdata(x, axis=-1), rankdata(y, axis=-1)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.where(np.isfinite(x).all(-1) & np.isfinite(y).all(-1), correlation, np.nan)


class Scored:
    """Pairs with scores, and resamples of them that all comparisons share."""

    def __init__(self, pairs: Pairs, seed: int = 0, draws: int = 1000) -> None:
        self._pairs, self._scores = pairs, np.asarray(pairs.scores, dtype=float)
        self.n = len(self._scores)
        self._drawn = np.random.default_rng(seed).integers(self.n, size=(draws, self.n))

    def of_vectors(self, x: np.ndarray) -> tuple[Interval, np.ndarray]:
        """Return `spearman` of the vectors (n, d) of the pairs' sentences."""
        u = units(x)
        return self.spearman((u[self._pairs.first] * u[self._pairs.second]).sum(1))

    def spearman(self, cosines: np.ndarray) -> tuple[Interval, np.ndarray]:
        """Return the correlation of cosines (P,) with the scores, times 100, and its resamples (R,)."""
        # A block at a time: ranks of all resamples at once would take memory without need.
        parts = np.array_split(self._drawn, max(1, self._drawn.size // 200_000))
        drawn = np.concatenate([100 * spearman(cosines[part], self._scores[part]) for part in parts])
        return interval(100 * float(spearman(cosines, self._scores)), drawn), drawn


def preservation(layers: Sequence[np.ndarray], last: np.ndarray, weights: np.ndarray) -> list[Interval]:
    """Return the Spearman correlation between the cosines of all pairs at each depth and at the last, (n, d) each.

    Resamples weigh sentences, by weights (R, n), and keep the ranks of the whole.
    """
    n = min(len(last), MOST)
    weights = np.concatenate([np.ones((1, n)), weights[:, :n]])
    upper = np.triu_indices(n, 1)

    def ranks(x: np.ndarray) -> np.ndarray:
        """Return the ranks of the cosines of all pairs, in standard deviations from their mean."""
        u = units(x[:n])
        cosines = (u @ u.T)[upper]
        values = rankdata(cosines) if np.isfinite(cosines).all() else np.full(len(cosines), np.nan)
        centred = values - values.mean()
        return centred / (centred.std() or np.nan)

    def spread(values: np.ndarray) -> np.ndarray:
        """Return the sum over pairs in each resample."""
        matrix = np.zeros((n, n), dtype=np.float32 if n > 400 else float)
        matrix[upper] = values
        return ((weights @ matrix) * weights).sum(1)

    correlations = []
    # A resample that is one sentence alone has no pairs.
    with np.errstate(invalid="ignore", divide="ignore"):
        total = spread(np.ones(len(upper[0])))
        reference = ranks(last)
        mean, square = spread(reference) / total, spread(reference**2) / total
        for layer in map(ranks, layers):
            layer_mean, layer_square = spread(layer) / total, spread(layer**2) / total
            both = spread(layer * reference) / total - mean * layer_mean
            correlations.append(estimate(both / np.sqrt((square - mean**2) * (layer_square - layer_mean**2))))
    return correlations
