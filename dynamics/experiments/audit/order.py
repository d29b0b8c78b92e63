"""Which checkpoints do not lie where their steps say, judged by the distances between all of them. No torch here.

In training, weights move on: two checkpoints are further apart the more steps lie between them, whatever the learning
rate does. So the way through all checkpoints in the order of their steps is short, and each of these is a sign:

- two places where exchanging the weights shortens the (squared) way at both: they were swapped;
- one or more checkpoints in a row through which the way is a detour: they come from elsewhere. A random walk has a
  detour of 1.4, and independent points about one centre, the furthest that training can wander, one of 2;
- an edge far longer than those beside it: what lies on its shorter side comes from elsewhere.

All are comparisons of neighbours, so that warm-up and decay do not matter.
"""

from collections.abc import Mapping, Sequence

import numpy as np

GAIN = 0.05  # least share of the squared way that an exchange must save at both places
DETOUR = 2.2  # the way through a checkpoint over the way past it, from which on it is far off
WIDE = 4  # times as many steps as those beside, beyond which an edge is not judged
MANY = 8  # checkpoints that are tried one by one
BREAK = 10.0  # an edge over those beside it, from which on the series is broken

Reasons = dict[int, str]


def misplaced(squared: np.ndarray, steps: Mapping[int, int], end: int | None = None) -> Reasons:
    """Return the checkpoints that lie elsewhere, each with its reason.

    Args:
        squared: (n, n), squared distances between checkpoints.
        steps: the step of each checkpoint to judge, by its number in `squared`, in the order of the steps.
        end: the checkpoint where the way must end (main); its place is not judged.
    """
    reasons, places = Reasons(), [*steps]
    while True:
        order, moved = _exchanged(squared, places, end)
        strange = [i for i, place in moved.items() if not _fits(squared, order, [steps[k] for k in places], place, end)]
        if not strange and len(moved) > 2:  # rather one from elsewhere than all those that it displaces
            ends = (0,) if end is not None else (0, len(order) - 1)
            single = [i for i, place in moved.items() if len(moved) > 4 or place in ends]
            strange = [i for i in single if _without(squared, places, i, end)[0] <= len(moved) - 3]
        if not strange:
            break
        if len(strange) <= MANY:  # one at a time: what is left decides which
            strange = [min(strange, key=lambda i: _without(squared, places, i, end))]
        reasons |= dict.fromkeys(strange, "the others are in order without it: from another run or place")
        places = [place for place in places if place not in strange]
    for i, place in moved.items():
        reasons[i] = f"its weights fit the place of step {steps[places[place]]}: swapped"
    way = {i: steps[place] for i, place in zip(order, places, strict=True)}  # the step of each that is not ruled out
    while (row := _detour(squared, [*way], end)) is not None:
        strangers, ratio = row
        text = f"the way through {'these in a row' if len(strangers) > 1 else 'it'} is {ratio:.1f} times the way past"
        reasons |= dict.fromkeys(strangers, f"{text}: from another run or place")
        way = {i: step for i, step in way.items() if i not in strangers}
    for i, ratio in _broken(squared, way, end).items():
        reasons[i] = f"it lies beyond a gap {ratio:.0f} times as wide as those beside it: from another run or place"
    return reasons


def fitting(squared: np.ndarray, steps: Mapping[int, int], equal: Sequence[int], end: int | None = None) -> list[int]:
    """Return the one of equal checkpoints that is in its place: with it, fewest of the others are misplaced.

    After that the shortest way counts. All that fit equally well (neighbours) are returned: distances do not tell them
    apart. `steps` are those of all checkpoints that have no equal, and of the `equal` ones.
    """
    scores = {}
    for i in equal:
        way = {k: step for k, step in steps.items() if k == i or k not in equal}
        wrong = misplaced(squared, way, end)
        scores[i] = len(wrong), _way(squared, [k for k in way if k not in wrong], end)
    fewest, shortest = min(scores.values())
    return [i for i, (count, length) in scores.items() if count == fewest and length <= shortest * (1 + 1e-9)]


def _exchanged(squared: np.ndarray, places: Sequence[int], end: int | None) -> tuple[list[int], dict[int, int]]:
    """Return the checkpoints in their order after the exchanges that save most, and the place of each that moved."""
    order = [*places]
    for _ in places:
        savings = _savings(squared, order, end)
        i, j = np.unravel_index(savings.argmax(), savings.shape)
        if savings[i, j] <= 0:
            break
        order[i], order[j] = order[j], order[i]
    return order, {i: place for place, i in enumerate(order) if i != places[place]}


def _without(squared: np.ndarray, places: Sequence[int], i: int, end: int | None) -> tuple[int, float]:
    """Return how many checkpoints are to be moved, and how long the squared way then is, without one of them."""
    order, moved = _exchanged(squared, [k for k in places if k != i], end)
    return len(moved), _way(squared, order, end)


def _way(squared: np.ndarray, order: Sequence[int], end: int | None) -> float:
    way = [*order, *([] if end is None else [end])]
    return float(squared[way[:-1], way[1:]].sum())


def _savings(squared: np.ndarray, order: Sequence[int], end: int | None) -> np.ndarray:
    """Return what exchanging any two places saves of the squared way, (n, n); 0 unless it saves enough at both."""
    way = [*order, *([] if end is None else [end])]
    between = squared[np.ix_(way, way)]
    cost = np.zeros_like(between)  # of the checkpoint at the place j, at the place i
    cost[1:] += between[:-1]
    cost[:-1] += between[1:]
    here = cost.diagonal()
    saved, is_clear = here[:, None] - cost, cost < (1 - GAIN) * here[:, None]
    total = np.where(is_clear & is_clear.T, saved + saved.T, 0.0)
    k = np.arange(len(way) - 1)  # neighbours share an edge, and are judged together
    before, after = here[k] + here[k + 1] - 2 * between[k, k + 1], cost[k, k + 1] + cost[k + 1, k]
    total[k, k + 1] = np.where(after < (1 - GAIN) * before, before - after, 0.0)
    return np.triu(total)[: len(order), : len(order)]


def _fits(squared: np.ndarray, order: Sequence[int], steps: Sequence[int], place: int, end: int | None) -> bool:
    """Whether a checkpoint lies on the way past its place; at an open end, whether its edge is like the one beside."""
    way = [*order, *([] if end is None else [end])]
    distance = np.sqrt(squared[np.ix_(way, way)])
    if 0 < place < len(way) - 1:
        through = distance[place - 1, place] + distance[place, place + 1]
        return bool(through <= DETOUR * distance[place - 1, place + 1])
    if len(order) < 3:
        return False
    first, second, third = (0, 1, 2) if place == 0 else (place, place - 1, place - 2)
    scale = max(1.0, abs(steps[first] - steps[second]) / max(1, abs(steps[second] - steps[third])))
    return bool(distance[first, second] <= DETOUR * scale * distance[second, third])


def _detour(squared: np.ndarray, way: Sequence[int], end: int | None) -> tuple[list[int], float] | None:
    """Return the checkpoints of the shortest and then greatest detour, and its ratio; None where there is none."""
    judged, way = len(way), [*way, *([] if end is None else [end])]
    distance = np.sqrt(squared[np.ix_(way, way)])
    for length in range(1, judged // 2 + 1):
        starts = np.arange(1, min(judged, len(way) - 1) - length + 1)
        through = distance[starts - 1, starts] + distance[starts + length - 1, starts + length]
        past = distance[starts - 1, starts + length]
        ratios = np.divide(through, past, out=np.full(len(starts), np.inf), where=past > 0)
        if len(starts) and ratios.max() > DETOUR:
            start = int(starts[ratios.argmax()])
            return way[start : start + length], float(ratios.max())
    return None


def _broken(squared: np.ndarray, way: Mapping[int, int], end: int | None) -> dict[int, float]:
    """Return the checkpoints on the shorter side of every gap, each with the ratio of its edge to those beside it.

    A longer edge of more steps is no gap: what is beside an edge is scaled up to its number of steps. One of far more
    steps is not judged, for the learning rate may have changed. With an `end`, the side towards it is right.
    """
    order, spans = [*way], np.maximum(np.diff([*way.values()]), 1)
    edges, broken = np.sqrt(squared[order[:-1], order[1:]]), dict[int, float]()
    for k, edge in enumerate(edges):
        beside = [i for i in (k - 1, k + 1) if 0 <= i < len(edges)]
        scale = max((edges[i] * max(1.0, spans[k] / spans[i]) for i in beside), default=np.inf)
        if beside and spans[k] > WIDE * max(spans[i] for i in beside):
            continue
        if edge > BREAK * scale:
            is_first = end is not None or 2 * (k + 1) <= len(order)
            for i in order[: k + 1] if is_first else order[k + 1 :]:
                broken.setdefault(i, float(edge / scale) if scale else np.inf)
    return broken
