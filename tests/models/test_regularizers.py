"""I-STAR and the cosine regulariser against the published formulas, and what is refused."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from dynamics.errors import InputError
from dynamics.metrics.streaming.covariance import evenness, mean_and_covariance
from dynamics.models.regularizers import CosReg, IStar
from tests.metrics.streaming.test_spectrum import published_isoscore


def cloud(n, d, seed=0, dtype=torch.float64):
    """States whose variance is spread unevenly, about a mean that is not 0."""
    draws = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -1, d, dtype=dtype)
    return torch.randn(n, d, generator=draws, dtype=dtype) * scale + torch.randn(d, generator=draws, dtype=dtype)


def published(covariance):
    return published_isoscore(np.linalg.eigvalsh(covariance))


def test_equals_the_published_formula_on_two_hundred_clouds():
    draws = np.random.default_rng(0)
    for seed in range(200):
        d = int(draws.integers(2, 40))
        weight = float(draws.uniform())
        batch, stable = cloud(int(draws.integers(2, 80)), d, seed), cloud(3 * d, d, seed + 1000) * 2
        regularizer = IStar(1.0, weight, reference_states=2, renew=10**9)
        regularizer.measure([stable])  # completes the reference
        shrunk = (1 - weight) * np.cov(batch.T) + weight * np.cov(stable.T)
        halves = batch.split(math.ceil(len(batch) / 2))
        assert regularizer.measure(halves).item() == pytest.approx(published(shrunk), abs=1e-6)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_k_equal_directions_of_n(k):
    points = torch.cat([torch.eye(8)[:k], -torch.eye(8)[:k]])
    assert IStar(1.0, 0.0).measure([points]).item() == pytest.approx((k - 1) / 7, abs=1e-6)


def test_shrinkage_removes_the_bias_of_small_batches():
    """64 states in width 256: the raw estimate stands near m / (m + d), the shrunk one near the full data."""
    full = cloud(20_000, 256, dtype=torch.float32)
    truth = published(np.cov(full.T))
    shrunk = IStar(1.0, 0.8, renew=10**9, reference_states=len(full))
    shrunk.measure([full])
    raw = IStar(1.0, 0.0)
    batches = full[torch.randperm(len(full), generator=torch.Generator().manual_seed(1))[:6400]].split(64)
    errors = [
        np.sqrt(np.mean([(float(regularizer.measure([x])) - truth) ** 2 for x in batches]))
        for regularizer in (raw, shrunk)
    ]
    assert errors[1] <= errors[0] / 5
    isotropic = torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
    assert raw.measure([isotropic]).item() == pytest.approx(64 / (64 + 256), abs=0.02)


def test_gradients_are_right_also_for_equal_eigenvalues():
    parts = [x.requires_grad_() for x in cloud(12, 4).split(5)]

    def score(*states):
        regularizer = IStar(1.0, 0.3)
        regularizer.load_state_dict(IStar(1.0).state_dict() | {"reference": torch.eye(4), "gathering": False})
        return regularizer.measure(states)

    assert torch.autograd.gradcheck(score, parts)
    assert torch.autograd.gradcheck(lambda *states: CosReg(1.0).measure(states), parts)
    even = torch.cat([torch.eye(4), -torch.eye(4)]).requires_grad_()
    (gradient,) = torch.autograd.grad(IStar(1.0, 0.0).measure([even]), even)
    assert gradient.isfinite().all()


def test_states_without_spread_give_zero_and_no_gradient():
    for equal in (torch.ones(5, 3), torch.zeros(5, 3)):
        x = equal.requires_grad_()
        for regularizer in (IStar(1.0), IStar(1.0, 0.0)):
            value = regularizer.measure([x])
            (gradient,) = torch.autograd.grad(value, x)
            assert value == 0
            assert (gradient == 0).all()
    zero = torch.zeros(5, 3, requires_grad=True)
    value = CosReg(1.0).measure([zero])
    assert value == 0
    assert (torch.autograd.grad(value, zero)[0] == 0).all()
    assert evenness(torch.full((3, 3), torch.nan)).isnan()


def test_scale_changes_nothing_within_the_range_of_float32():
    x = cloud(50, 6, dtype=torch.float32)
    x = x - x.mean(0)
    values = [evenness(mean_and_covariance([x * scale])[2]).item() for scale in (1e-15, 1, 1e15)]
    assert values == pytest.approx([values[1]] * 3, rel=1e-5)


def test_half_precision_is_summed_in_float32_under_autocast():
    x = (cloud(64, 16) + 3).to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for regularizer in (IStar(1.0, 0.0), CosReg(1.0)):
            value = regularizer.measure([x])
            assert value.dtype == torch.float32
            expected = regularizer.measure([x.detach().double()])
            assert value.item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.autograd.grad(value, x)[0].dtype == torch.bfloat16


def test_the_cosine_is_that_of_the_whole_matrix():
    parts = [cloud(9, 4, 0), cloud(9, 4, 1)]
    wanted = []
    for x in parts:
        units = x / x.norm(dim=1, keepdim=True)
        wanted.append(((units @ units.T).sum() - len(x)) / len(x) ** 2)
    assert CosReg(1.0).measure(parts).item() == pytest.approx(float(sum(wanted) / 2), rel=1e-12)


def test_a_reference_is_gathered_and_renewed():
    batches = [cloud(10, 3, seed) for seed in range(6)]

    def covariance(*chosen):
        return torch.from_numpy(np.cov(torch.cat(chosen).T))

    full = IStar(1.0, reference_states=20)
    for x in batches[:3]:
        full.measure([x])
    torch.testing.assert_close(full._reference, covariance(*batches[:2]))  # two complete one; the third has begun
    full.measure([batches[3]])
    torch.testing.assert_close(full._reference, covariance(*batches[2:4]))

    every = IStar(1.0, reference_states=20, renew=3)
    for x in batches[:5]:
        every.measure([x])
    torch.testing.assert_close(every._reference, covariance(*batches[3:5]))

    epoch = IStar(1.0, renew="epoch")
    epoch.on_epoch()
    assert epoch._reference is None
    for x in batches[:2]:
        epoch.measure([x])
    assert epoch._reference is None
    epoch.on_epoch()
    torch.testing.assert_close(epoch._reference, covariance(*batches[:2]))


def test_the_first_batch_takes_the_place_of_a_reference():
    x = cloud(10, 3)
    assert IStar(1.0).measure([x]).item() == pytest.approx(IStar(1.0, 0.0).measure([x]).item(), rel=1e-12)


@pytest.mark.parametrize("renew", ["full", 1])
def test_a_sample_of_states_is_evenly_spaced_and_moves(renew):
    rows = torch.arange(10.0)[:, None]
    regularizer = IStar(1.0, 0.0, max_states=4, renew=renew)
    taken = []
    for _ in range(3):
        taken.append(regularizer._sample([rows])[0][:, 0].tolist())
        regularizer.measure([cloud(10, 3)])
    assert taken == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IStar(math.nan), "IStar.weight must be a finite number"),
        (lambda: CosReg(math.inf), "CosReg.weight must be a finite number"),
        (lambda: IStar(1.0, 1.2), "reference_weight must lie between 0 and 1"),
        (lambda: IStar(1.0, math.nan), "reference_weight must lie between 0 and 1"),
        (lambda: IStar(1.0, layers=[]), "names no layer"),
        (lambda: IStar(1.0, layers=[0, 1]).wanted(3), "names layer 0"),
        (lambda: CosReg(1.0, layers=[4]).wanted(3), "names layer 4, but the network has layers 1 to 3"),
        (lambda: IStar(1.0, reference_states=1), "at least 2"),
        (lambda: IStar(1.0, renew=0), "renew must be"),
        (lambda: IStar(1.0).measure([torch.randn(1, 3)]), "at least 2 states"),
        (lambda: CosReg(1.0).measure([torch.randn(1, 3)]), "at least 2 states"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_the_reference_of_a_resumed_run_moves_once_to_where_the_states_are(monkeypatch):
    monkeypatch.setattr("dynamics.metrics.streaming.arithmetic.precise", nullcontext)  # `meta` has no autocast
    regularizer = IStar(1.0)
    state = regularizer.state_dict() | {"reference": torch.eye(4, dtype=torch.float64), "gathering": False}
    regularizer.load_state_dict(state)
    regularizer.measure([torch.ones(9, 4, device="meta")])
    assert regularizer.state_dict()["reference"].device.type == "meta"


def test_a_reference_is_gathered_on_the_cpu_where_the_device_has_no_float64(monkeypatch):
    x, moves = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), []
    plain = IStar(1.0).measure([x])
    monkeypatch.setattr("dynamics.metrics.streaming.arithmetic.WITHOUT_FLOAT64", {"cpu"})
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: moves.append(self.shape) or self)
    assert torch.equal(IStar(1.0).measure([x]), plain)
    assert {(4,), (4, 4)} <= set(moves)
