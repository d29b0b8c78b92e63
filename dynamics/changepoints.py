"""Change points of a quantity along training: where its rate of change breaks, tested over seeds. No torch here.

The mean curve of the seeds is a broken line over log2(step), continuous, with its knots at measured steps (joinpoint
regression, Kim et al. 2000, Statistics in Medicine 19). All sets of knots are searched. How many there are is tested in
sequence, k against more than k, by the greatest fall of the sum of squares for each knot (Bai and Perron 1998,
Econometrica 66: UDmax for the first, then one after the other), so that one level bounds the rate of all false alarms.

The null distribution takes no model of the noise. Seeds are what repeats: the mean curve is uncertain by Student's t
process, whose covariance is that of the seeds' deviations from their mean (the posterior of a mean under Jeffreys's
prior). Noise may depend on the step, be correlated along steps, or be a slope of each seed's own: for one given
contrast of steps the test is Student's, with as many degrees of freedom as there are seeds less one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

SEEDS = 3  # that a test takes
MOST = 3  # change points that are looked for
APART = 2  # intervals between measured steps that a phase has at least
LEVEL = 0.04  # of the tests: with 3 seeds and the worst noise, 4 % give false alarms in 4.9 % (3000 draws)
SHARE = 0.02  # of the variation that a change point explains at least; a rate that halves midway explains 2.7 %
POINTS = 40  # steps that are searched; of more, as many that are evenly spaced on the log axis
DRAWS = 1000
CHUNK = 100  # draws that are searched at once, which bounds the memory


class ChangePoint(NamedTuple):
    """A step at which a phase ends and the next begins, with its 95 % interval."""

    step: int
    low: int
    high: int

    @property
    def text(self) -> str:
        """The step with its interval: `96 [64, 128]`."""
        return f"{self.step} [{self.low}, {self.high}]"


@dataclass(frozen=True)
class Phases:
    """The phases of a quantity that seeds share.

    `p[k]` is the p-value of more than k change points (the greatest of the tests up to it). `changes` are those of the
    mean curve in each phase, not of the broken line: that of a curve which grows ever faster falls at first.
    """

    points: tuple[ChangePoint, ...]
    p: tuple[float, ...]
    changes: tuple[float, ...]
    seeds: int


def places(steps: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return log2 of steps; step 0 stands one doubling before the first step after it.

    >>> places([0, 4, 8, 32]).tolist()
    [1.0, 2.0, 3.0, 5.0]
    """
    x = np.asarray(steps, dtype=float)
    return np.log2(np.where(x == 0, x[x > 0].min(initial=np.inf) / 2, x))


def fewest(points: int) -> int:
    """Return how many steps a search for so many change points takes: phases last `APART` intervals at least.

    >>> fewest(1), fewest(2)
    (5, 7)
    """
    return APART * (points + 1) + 1


@lru_cache(maxsize=64)
def _bases(x: tuple[float, ...], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all sets of `count` knots, (sets, count), and what they add to a line, directions (steps, sets, count).

    The directions of a set are orthonormal, and orthogonal to lines: their squared products with a curve sum up to what
    the set takes off the sum of squares about a straight line.
    """
    inner = range(APART, len(x) - APART)
    sets = [knots for knots in combinations(inner, count) if min(np.diff(knots), default=APART) >= APART]
    at, place = np.array(sets, dtype=int).reshape(len(sets), count), np.array(x)
    hinges = np.maximum(place[None, :, None] - place[at][:, None, :], 0.0)
    line = np.broadcast_to(np.stack([np.ones_like(place), place], axis=1), (len(sets), len(x), 2))
    directions = np.linalg.qr(np.concatenate([line, hinges], axis=2))[0][:, :, 2:]
    return at, np.ascontiguousarray(directions.transpose(1, 0, 2))


def _search(x: np.ndarray, curves: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best knots of every curve, (curves, count), and what they take off its sum of squares."""
    at, directions = _bases(tuple(x.tolist()), count)
    best, gains = [], []
    for part in np.split(curves, range(CHUNK, len(curves), CHUNK)):
        gain = np.einsum("csk,csk->cs", *[np.tensordot(part, directions, 1)] * 2)
        best.append(at[gain.argmax(axis=1)])
        gains.append(gain.max(axis=1))
    return np.concatenate(best), np.concatenate(gains)


def _gains(x: np.ndarray, curves: np.ndarray, most: int) -> np.ndarray:
    """Return what the best 0, 1, ... `most` knots take off the sum of squares of every curve, (curves, most + 1)."""
    return np.stack([np.zeros(len(curves)), *(_search(x, curves, k)[1] for k in range(1, most + 1))], axis=1)


def _more(gains: np.ndarray, count: int) -> np.ndarray:
    """Return the greatest fall of the sum of squares for each knot beyond `count`."""
    beyond = gains[:, count + 1 :] - gains[:, [count]]
    return np.asarray((beyond / np.arange(1, beyond.shape[1] + 1)).max(axis=1))


def _lines(x: np.ndarray, curve: np.ndarray, knots: Sequence[int], draws: int) -> np.ndarray:
    """Return broken lines near a curve, (draws, steps), whose knots lie anywhere up to half way to the next steps.

    A knot between measured steps bends the curve at both of them: the second bend is no change point of its own.
    """
    at = x[list(knots)]
    design = np.stack([np.ones_like(x), x, *(np.maximum(x - place, 0.0) for place in at)], axis=1)
    level, slope, *bends = np.linalg.lstsq(design, curve, rcond=None)[0]
    shifts = np.random.default_rng(1).uniform(-0.5, 0.5, (draws, len(at)))
    gaps = np.where(shifts < 0, at - x[np.array(knots, dtype=int) - 1], x[np.array(knots, dtype=int) + 1] - at)
    hinges = np.maximum(x - (at + shifts * gaps)[:, :, None], 0.0)
    return np.asarray(level + slope * x + np.einsum("k,dkt->dt", np.array(bends), hinges))


def deviations(curves: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """Return draws of the error of the mean curve, (draws, steps): Student's t process of the seeds' deviations.

    A seed's offset has no part in it. The order of the seeds does not matter.
    """
    own = curves - curves.mean(axis=1, keepdims=True)
    own = own[np.lexsort(own.T)]
    count, generator = len(own), np.random.default_rng(seed)
    scale = np.sqrt(count * generator.chisquare(count - 1, draws))
    return np.asarray(generator.standard_normal((draws, count)) @ (own - own.mean(axis=0)) / scale[:, None])


def phases(steps: Sequence[float], curves: np.ndarray, draws: int = DRAWS, least: int = 0) -> Phases | None:
    """Return the phases that seeds share.

    Args:
        steps: the measured steps, ascending, none negative.
        curves: shape (seeds, steps). Steps at which a seed has no finite value are left out.
        draws: of the mean curve, for p-values and intervals.
        least: change points that are returned at least, whether the test finds so many or not.

    Returns:
        None with fewer than `SEEDS` seeds, or too few steps for one change point, or `least`.

    >>> steps = [0, 1, 2, 4, 8, 16, 32]
    >>> curves = np.array([[0, 1, 2, 3, 2, 1, 0]]) + 0.01 * np.random.default_rng(0).standard_normal((4, 7))
    >>> found = phases(steps, curves)
    >>> found.points[0].text, np.round(found.changes).tolist()
    ('4 [3, 6]', [3.0, -3.0])
    """
    at, curves = searched(steps, curves)
    if len(curves) < SEEDS or len(at) < fewest(max(least, 1)):
        return None
    most = min(MOST, (len(at) - 1) // APART - 1)
    x, mean, errors = places(at), curves.mean(axis=0), deviations(curves, draws)
    gains, variation = _gains(x, mean[None], most), float(((mean - mean.mean()) ** 2).sum())
    p, found = [1.0] * most, 0
    for count in range(most):
        more = _more(gains, count)[0]
        lines = _lines(x, mean, knots_of(x, mean, count), draws)
        by_chance = int((_more(_gains(x, lines + errors, most), count) >= more).sum())
        p[count] = max([*p[:count], (1 + by_chance) / (1 + draws)])
        if p[count] >= LEVEL or not more > 0:
            break
        found += found == count and more >= SHARE * variation
    knots = knots_of(x, mean, max(found, least))
    ends = [0, *knots, len(x) - 1]
    points = _points(at, x, mean + errors, knots)
    return Phases(points, tuple(p), tuple(np.diff(mean[ends]).tolist()), len(curves))


def searched(steps: Sequence[float] | np.ndarray, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps that are searched, and the curves there: at most `POINTS` at which all seeds are finite."""
    at = np.asarray(steps, dtype=float)
    shared = np.flatnonzero(np.isfinite(curves).all(axis=0))
    x = places(at[shared])
    if len(x) > POINTS:
        even = np.linspace(x[0], x[-1], POINTS)
        shared = shared[np.unique(np.abs(x[:, None] - even).argmin(axis=0))]
    return at[shared], curves[:, shared]


def knots_of(x: np.ndarray, curve: np.ndarray, count: int) -> list[int]:
    """Return the knots, as indices, of the broken line with so many that is nearest to a curve at `x`."""
    return [int(knot) for knot in _search(x, curve[None], count)[0][0]] if count else []


def _points(at: np.ndarray, x: np.ndarray, curves: np.ndarray, knots: Sequence[int]) -> tuple[ChangePoint, ...]:
    """Return knots with the 95 % intervals that draws of the mean curve give.

    A knot between two measured steps looks like one at the nearer: intervals reach half way to the next measured step.
    """
    if not knots:
        return ()
    drawn = _search(x, curves, len(knots))[0]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0, method="nearest").astype(int)
    steps = np.round(np.exp2([(x[low - 1] + x[low]) / 2, (x[high] + x[high + 1]) / 2])).astype(int)
    return tuple(ChangePoint(int(at[k]), int(a), int(b)) for k, a, b in zip(knots, *steps, strict=True))
