"""Phases of claims: the change points at which a quantity turns, and its changes in between. No torch here."""

from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from dynamics.changepoints import ChangePoint, knots_of, phases, places, searched

Pattern = tuple[int, ...]  # `RISE` or `FALL` of each phase: (RISE, FALL) for "rises, then falls"
RISE, FALL = 1, -1
DRAWS = 10_000  # p-values are corrected for the number of claims: they must be small enough to stand it


class Turns(NamedTuple):
    """How curves follow a pattern: `changes` has the shape (seeds, phases), positive where one is as the pattern says.

    `p` is the p-value of as many change points as the pattern has turns; `points` are those of them that are its turns.
    """

    changes: np.ndarray
    points: tuple[ChangePoint, ...]
    p: float


@lru_cache(maxsize=32)
def turns(steps: tuple[int, ...], table: tuple[tuple[float, ...], ...], pattern: Pattern) -> Turns | None:
    """Return how the curves of seeds, a tuple for each, follow a pattern.

    Of the change points, the turns are those between which the curve follows the pattern best. The turns that a seed's
    changes are taken between are those of the mean of the *others*: noise that it does not share with them adds no
    change, and where nothing turns, the changes are not all positive.

    None where there are too few seeds or steps.
    """
    count = len(pattern) - 1
    found = phases(steps, np.array(table), DRAWS, least=count)
    if found is None:
        return None
    at, curves = searched(steps, np.array(table))
    x, signs = places(at), np.array(pattern)

    def ends(curve: np.ndarray) -> list[int]:
        knots = knots_of(x, curve, len(found.points))
        chosen = [[0, *some, len(x) - 1] for some in combinations(knots, count)]
        return max(chosen, key=lambda one: float((np.diff(curve[one]) * signs).sum()))

    changes = [
        np.diff(own[ends(np.delete(curves, seed, axis=0).mean(axis=0))]) * signs for seed, own in enumerate(curves)
    ]
    turning = at[ends(curves.mean(axis=0))[1:-1]]
    points = tuple(point for point in found.points if point.step in turning)
    return Turns(np.array(changes), points, found.p[count - 1])
