"""Phases of a quantity along training: where it turns, and by how much it changes in between. No torch here."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

RISE, FALL = 1, -1
MOST = 60  # steps that turning points are sought among


def phases(curves: np.ndarray, pattern: Sequence[int]) -> np.ndarray:
    """Return the change of every curve in each phase of a pattern, in the direction that the pattern says.

    The turning points of a curve are those at which the mean of the *other* curves follows the pattern best, so that
    noise which a curve does not share with the others adds no change: without phases the changes average 0.

    Args:
        curves: shape (seeds, steps), two seeds at least; the same steps of each, in order.
        pattern: `RISE` or `FALL` of each phase: (RISE, FALL) for "rises, then falls".

    Returns:
        Shape (seeds, phases): positive where a phase is as the pattern says. NaN with too few steps.
    """
    seeds, steps = curves.shape
    turns = len(pattern) - 1
    inner = np.unique(np.linspace(1, steps - 2, min(max(steps - 2, 0), MOST)).round().astype(int)).tolist()
    changes = np.full((seeds, len(pattern)), np.nan)
    places = [(0, *turning, steps - 1) for turning in combinations(inner, turns)]
    if not places or seeds < 2:
        return changes
    at, signs = np.array(places), np.array(pattern)
    for seed in range(seeds):
        others = np.delete(curves, seed, axis=0).mean(axis=0)
        best = at[(np.diff(others[at], axis=1) * signs).sum(axis=1).argmax()]
        changes[seed] = np.diff(curves[seed, best]) * signs
    return changes
