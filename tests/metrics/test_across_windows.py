"""Quantities of the covariance without the bias that few, dependent tokens have; and how few they count for."""

import numpy as np
import pytest
import torch

from dynamics import metrics
from dynamics.metrics.streaming.base import Pair, States
from tests.metrics import streams

SCALE = torch.linspace(1.0, 0.4, 12, dtype=torch.float64)
TRUE = float(SCALE.square().sum() ** 2 / SCALE.pow(4).sum())


def sequences(seed, windows=24, tokens=30, memory=0.9):
    """Windows of tokens that remember the one before."""
    x = torch.randn(windows, tokens, 12, generator=streams.generator(seed), dtype=torch.float64)
    for i in range(1, tokens):
        x[:, i] = memory * x[:, i - 1] + (1 - memory**2) ** 0.5 * x[:, i]
    return States((SCALE * x).flatten(0, 1)[:, None], torch.arange(windows).repeat_interleave(tokens))


def measured(name, batch):
    metric = metrics.resolve(name)
    metric.update(batch)
    return metric.compute()


@pytest.mark.parametrize("name", ["participation_ratio", "isoscore"])
def test_dependence_within_windows_biases_the_plain_form_alone(name):
    true = TRUE if name == "participation_ratio" else (TRUE - 1) / 11
    draws = [sequences(seed) for seed in range(60)]
    plain, across = ([measured(n, batch) for batch in draws] for n in (name, f"{name}_across_windows"))
    assert np.mean([e.value for e in plain]) < 0.95 * true
    values = np.array([e.value[0] for e in across])
    assert values.mean() == pytest.approx(true, abs=3 * values.std() / 60**0.5 + 0.03 * true)
    assert np.mean([e.low <= true <= e.high for e in across]) >= 0.88


def test_the_pairs_are_those_of_different_windows():
    x, windows = sequences(0, windows=9, tokens=4)
    z = (x - x.mean(0))[:, 0]
    products = torch.stack([z[windows == w].T @ z[windows == w] for w in range(9)])
    pairs = [(v, w) for v in range(9) for w in range(9) if v != w]
    traces = sum(products[v].trace() * products[w].trace() for v, w in pairs)
    squares = sum((products[v] * products[w]).sum() for v, w in pairs)
    value = measured("participation_ratio_across_windows", States(x, windows)).value
    np.testing.assert_allclose(value, float(traces / squares), rtol=1e-9)


def test_dependent_tokens_count_for_fewer():
    independent, dependent = (measured("isoscore", sequences(3, memory=m)) for m in (0.0, 0.9))
    assert independent.n == dependent.n == 720
    assert independent.n_effective > 500
    assert dependent.n_effective < 200
    assert dependent.windows == 24


def two_layers(related, windows=15, tokens=8):
    g = streams.generator(7)
    x = torch.randn(windows * tokens, 1, 20, generator=g, dtype=torch.float64)
    y = torch.randn(windows * tokens, 1, 14, generator=g, dtype=torch.float64)
    if related:
        y = y + x @ torch.randn(20, 14, generator=g, dtype=torch.float64)
    return Pair(x, y, torch.arange(windows).repeat_interleave(tokens))


@pytest.mark.parametrize("related", [True, False])
def test_linearity_on_held_out_windows_fits_the_map_without_them(related):
    x, y, windows = two_layers(related)
    x, y = ((part - part.mean(0))[:, 0] for part in (x, y))
    missed = torch.zeros_like(y)
    for window in windows.unique():
        held = windows == window
        missed[held] = y[held] - x[held] @ torch.linalg.lstsq(x[~held], y[~held]).solution
    value = measured("procrustes_linearity_held_out", two_layers(related)).value
    np.testing.assert_allclose(value, float(1 - missed.square().sum() / y.square().sum()), rtol=1e-8)


def test_debiased_similarity_of_unrelated_states_is_about_0():
    plain, debiased = (
        measured(name, two_layers(related=False)).value for name in ("linear_cka", "linear_cka_debiased")
    )
    assert plain > 0.1
    assert abs(debiased) < 0.04


def test_debiased_similarity_is_that_of_pairs_of_windows():
    x, y, windows = two_layers(related=True)
    x, y = ((part - part.mean(0))[:, 0] for part in (x, y))

    def across(a, b):
        products = [a[windows == w].T @ b[windows == w] for w in windows.unique()]
        return sum((p * q).sum() for i, p in enumerate(products) for j, q in enumerate(products) if i != j)

    expected = across(y, x) / (across(x, x) * across(y, y)).sqrt()
    np.testing.assert_allclose(measured("linear_cka_debiased", two_layers(True)).value, float(expected), rtol=1e-8)
