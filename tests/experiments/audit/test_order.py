"""Places of checkpoints by their distances: no alarm on any way that training can take, and every swap found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.experiments.audit.order import fitting, misplaced

DIMENSIONS = 4096  # of weights: the cosine of two random directions is about .02


def squared(points):
    products = points @ points.T
    own = products.diagonal()
    return np.maximum(own[:, None] + own - 2 * products, 0)


def walk(seed, sizes, drift=0.0, memory=1.0):
    """Weights whose updates have the given sizes: a drift, and noise; both are forgotten (memory < 1) as weights decay.

    Decay takes its share by the learning rate too, as AdamW's does: a pull that outlasts the updates would turn round.
    """
    noise = np.random.default_rng(seed)
    direction = noise.standard_normal(DIMENSIONS)
    points = [noise.standard_normal(DIMENSIONS)]
    for size in sizes:
        update = drift * direction + (1 - drift) * noise.standard_normal(DIMENSIONS)
        points.append((1 - (1 - memory) * size) * points[-1] + size * update)
    return np.stack(points)


def judged(points, steps=None, end=None):
    numbers = range(len(points) - (end is not None))
    return misplaced(squared(points), dict(zip(numbers, steps or numbers, strict=False)), end)


def decay(count, warmup=5):
    """Learning rates: linear warm-up, then a cosine almost to 0."""
    places = np.arange(1, count + 1)
    return np.minimum(places / warmup, 0.01 + np.cos(np.pi / 2 * places / count) ** 2)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(5, 30),
    drift=st.floats(0, 0.9),
    memory=st.floats(0.2, 1),
    decays=st.booleans(),
)
def test_no_way_of_training_is_suspect(seed, count, drift, memory, decays):
    """Not claimed: fewer than six checkpoints whose updates shrink tenfold, weights that no longer move at all."""
    sizes = decay(count) if decays else np.ones(count)
    assert judged(walk(seed, sizes, drift, memory)) == {}


@pytest.mark.parametrize("drift", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (7, 8), (13, 15), (3, 20), (28, 29), (0, 30)])
def test_a_swap_is_found_and_named(drift, first, second):
    points = walk(3, decay(30, warmup=10), drift)
    points[[first, second]] = points[[second, first]]
    reasons = judged(points)
    assert set(reasons) == {first, second}
    assert f"fit the place of step {second}: swapped" in reasons[first]


@pytest.mark.parametrize("place", [0, 1, 12, 29, 30])
def test_a_stranger_is_found_and_named(place):
    points = walk(0, decay(30) * 0.1, 0.5)
    points[place] = walk(1, decay(30) * 0.1, 0.5)[place]
    assert set(judged(points)) == {place}


def test_strangers_in_a_row_are_found():
    points, others = (walk(seed, np.full(20, 0.1), 0.5) for seed in (0, 1))
    points[5:9] = others[5:9]
    reasons = judged(points)
    assert set(reasons) == {5, 6, 7, 8}
    assert "these in a row" in reasons[6]


def test_a_series_that_goes_on_as_another_is_broken():
    points, others = (walk(seed, np.full(20, 0.1), 0.5) for seed in (0, 1))
    points[15:] = others[15:]
    assert set(judged(points)) == {15, 16, 17, 18, 19, 20}
    points = np.concatenate([points, others[-1:]])  # main tells which side is right
    assert set(judged(points, end=21)) == {*range(15)}


def test_steps_far_apart_are_no_gap():
    points = walk(0, np.ones(2000), 0.2)
    steps = [0, 1, 2, 4, 8, 1000, 1001, 2000]
    assert judged(points[steps], steps) == {}
    assert judged(points[[0, 1990, 1991]], [0, 1990, 1991]) == {}


def test_few_checkpoints_are_not_judged():
    points = walk(0, np.ones(3))
    assert judged(points[:1]) == judged(points[:2]) == judged(points[:2][::-1]) == {}


def test_of_equal_checkpoints_the_one_in_its_place_is_kept():
    points = walk(2, np.ones(12), 0.5)
    points[9] = points[4]
    steps = {i: i for i in range(13)}
    assert fitting(squared(points), steps, [4, 9]) == [4]
    points[5] = points[4]
    assert fitting(squared(points), steps, [4, 5, 9]) == [4, 5]  # neighbours: distances do not tell them apart
