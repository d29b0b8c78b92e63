"""MLM masks: how many positions are chosen and what becomes of them, and that integers alone decide."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynamics.metrics.streaming.sampling import GAMMA
from dynamics.models.masking import choose, corrupt, draws

CHARACTERS, MASK = 20, 20
WORD = 2**64


def drawn(step=0, rows=400, context=200, seed=0):
    places = torch.arange(rows * context).view(rows, context)
    return draws(seed, 1, [step], places)[0]


def masked(ids, bits):
    return corrupt(ids, choose(bits, MASK, CHARACTERS))


def is_near(share, expected, n):
    return abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


@given(seed=st.integers(0, 1000), step=st.integers(0, 1000), rows=st.integers(1, 8), context=st.integers(4, 200))
def test_exactly_fifteen_per_cent_of_every_window_is_chosen(seed, step, rows, context):
    ids = torch.randint(CHARACTERS, (rows, context), generator=torch.Generator().manual_seed(0))
    corrupted, positions, kept = masked(ids, drawn(step, rows, context, seed))
    assert positions.shape == (rows, round(0.15 * context))
    assert all(len(set(row)) == len(row) for row in positions.tolist())
    assert torch.equal(corrupted.scatter(1, positions, kept), ids)
    assert ((corrupted < CHARACTERS) | (corrupted == MASK)).all()


def test_fates_are_eighty_ten_ten():
    corrupted, positions, _ = masked(torch.zeros(400, 200, dtype=torch.int64), drawn())
    chosen = corrupted.gather(1, positions)
    counts = torch.bincount(chosen.flatten(), minlength=CHARACTERS + 1) / chosen.numel()
    assert is_near(counts[MASK], 0.8, chosen.numel())
    assert is_near(counts[0], 0.1 + 0.1 / CHARACTERS, chosen.numel())
    assert all(is_near(share, 0.1 / CHARACTERS, chosen.numel()) for share in counts[1:CHARACTERS])


def test_every_position_is_chosen_as_often_and_says_nothing_of_its_neighbours():
    rows, context = 4000, 40
    _, positions, _ = masked(torch.zeros(rows, context, dtype=torch.int64), drawn(3, rows, context))
    chosen = torch.zeros(rows, context).scatter(1, positions, 1.0)
    assert all(is_near(share, 6 / 40, rows) for share in chosen.mean(0).tolist())
    both = 6 / 40 * 5 / 39  # drawn without replacement
    assert is_near((chosen[:, 1:] * chosen[:, :-1]).mean().item(), both, rows * (context - 1))
    # Windows, and steps, are drawn apart.
    later = torch.zeros(rows, context).scatter(
        1, masked(torch.zeros(rows, context, dtype=torch.int64), drawn(4, rows, context))[1], 1.0
    )
    for other in (chosen.roll(1, 0), later):
        assert is_near((chosen * other).mean().item(), (6 / 40) ** 2, rows * context)


def test_draws_are_those_of_splitmix64():
    def reference(state):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ state >> shift) * factor % WORD
        return state ^ state >> 31

    # The first number of a generator that begins at 1234567, as its authors publish it.
    assert reference((1234567 + GAMMA) % WORD) == 6457827717110365317
    places = torch.arange(-3, 50)
    got = [z % WORD for z in draws(7, 1, [9], places)[0].tolist()]
    start = int(np.random.SeedSequence((7, 1, 9)).generate_state(1, "uint64")[0])
    assert got == [reference((place * GAMMA + start) % WORD) for place in places.tolist()]


@pytest.mark.parametrize("other", [(8, 1, 9), (7, 2, 9), (7, 1, 10)])
def test_seed_stream_and_step_each_change_the_draws(other):
    places = torch.arange(1000)
    seed, stream, step = other
    assert (draws(7, 1, [9], places) != draws(seed, stream, [step], places)).all()


def test_steps_drawn_together_are_those_drawn_alone():
    places = torch.arange(64).view(4, 16)
    bits = draws(7, 1, range(5, 8), places)
    assert all(torch.equal(draws(7, 1, [step], places)[0], part) for step, part in zip(range(5, 8), bits, strict=True))
    together = choose(bits, MASK, CHARACTERS)
    assert all(torch.equal(x[1], y) for x, y in zip(together, choose(bits[1], MASK, CHARACTERS), strict=True))


class Dtypes(TorchDispatchMode):
    """Collects the dtypes of all tensors that are computed."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        self.dtypes |= {x.dtype for x in tree_leaves(out) if isinstance(x, torch.Tensor)}
        return out


def test_no_rounding_takes_part_so_that_all_devices_agree():
    ids = torch.randint(CHARACTERS, (4, 64))
    with Dtypes() as seen:
        masked(ids, drawn(0, 4, 64))
    assert seen.dtypes == {torch.int64, torch.bool}
