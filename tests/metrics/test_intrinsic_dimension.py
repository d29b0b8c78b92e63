import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics import metrics
from dynamics.errors import InputError
from dynamics.metrics.duplicate_share import duplicate_share
from dynamics.metrics.intrinsic_dimension import DRAWING, ESTIMATORS, intrinsic_dimension
from dynamics.metrics.local_anisotropy import local_anisotropy
from dynamics.metrics.scale_dependence import scale_dependence
from dynamics.metrics.streaming.base import States
from tests.metrics import streams


def gaussian(dimension, n=1500, width=64, seed=0):
    """A Gaussian of this many dimensions, in a wider space."""
    g = streams.generator(seed)
    return torch.randn(n, dimension, generator=g) @ streams.rotation(width, seed)[:dimension].float()


def released_twonn(x, reduction_factor=5):
    """LLM-Microscope's `intrinsic_dimension`, the released code of arXiv 2311.05928, for states without duplicates."""
    x = x - x.mean(axis=0)
    x = x / np.sqrt((x**2).sum(axis=1)).mean()
    first, second = [], []
    for i, row in enumerate(x):
        apart = np.sort(np.sqrt(((np.delete(x, i, axis=0) - row) ** 2).sum(axis=1)))
        first.append(apart[0])
        second.append(apart[1])
    mu = np.sort(np.array(second) / np.array(first))
    n = len(mu)
    log_mu = np.log(mu)[: n // reduction_factor]
    log_f = -np.log(1 - np.arange(1, n + 1) / n)[: n // reduction_factor] if reduction_factor > 1 else None
    return (log_mu * log_f).sum() / (log_mu * log_mu).sum()


def test_against_llm_microscope():
    x = gaussian(8, n=500)
    assert intrinsic_dimension(x, keep=0.2).item() == pytest.approx(released_twonn(x.double().numpy()), rel=1e-9)


def test_against_scikit_dimension():
    import skdim

    x = gaussian(8)
    expected = skdim.id.TwoNN().fit(x.double().numpy()).dimension_
    assert intrinsic_dimension(x).item() == pytest.approx(expected, rel=1e-9)
    assert intrinsic_dimension(x, keep=0.2).item() != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("true", "expected"), [(1, 1), (2, 2), (5, 4.95), (10, 9.8), (20, 17.4), (50, 33.4)])
def test_gaussians_of_known_dimension(true, expected):
    """The shortfall in many dimensions is the estimator's own."""
    assert intrinsic_dimension(gaussian(true, n=4096)).item() == pytest.approx(expected, rel=0.05)


def test_a_curved_manifold():
    """A sphere's surface, bent into 30 dimensions."""
    x = torch.randn(3000, 4, generator=streams.generator(), dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    bent = torch.cat([x, x.square(), (3 * x).sin()], dim=1) @ streams.rotation(30)[:12]
    assert intrinsic_dimension(bent).item() == pytest.approx(3, rel=0.08)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 99))
def test_invariances(seed):
    x = gaussian(4, n=300, width=16, seed=seed).double()
    value = intrinsic_dimension(x)
    g = streams.generator(seed)
    order = torch.randperm(300, generator=g)
    shift = torch.randn(16, generator=g, dtype=torch.float64)
    for changed in (x @ streams.rotation(16, seed + 1), x + shift, 7 * x, x[order], torch.cat([x, x[:50]])):
        assert streams.close(intrinsic_dimension(changed), value, 1e-6)


def test_duplicates_are_dropped_and_their_share_told():
    x = gaussian(10)
    doubled = torch.cat([x, x[:150]])
    assert intrinsic_dimension(doubled) == intrinsic_dimension(x)
    assert duplicate_share(doubled).item() == pytest.approx(150 / 1650)
    metric = metrics.resolve("duplicate_share")
    metric.update(States(doubled[:, None], torch.arange(len(doubled))))
    assert metric.compute().value == pytest.approx(150 / 1650)
    metric = metrics.resolve("intrinsic_dimension")
    metric.update(States(doubled[:, None], torch.arange(len(doubled))))
    assert metric.compute().n == 1500


@pytest.mark.parametrize("x", [torch.ones(50, 3), torch.arange(9.0)[:, None], torch.full((20, 2), float("nan"))])
def test_no_dimension(x):
    assert intrinsic_dimension(x).isnan()
    assert local_anisotropy(x).isnan()
    assert scale_dependence(x).isnan()


def test_a_lattice_has_no_ratio():
    """Both neighbours of every state are equally far: log mu = 0."""
    grid = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0))
    metric = metrics.resolve("intrinsic_dimension")
    metric.update(States(grid[:, None], torch.arange(100)))
    estimate = metric.compute()
    assert np.isnan(estimate.value).all()
    assert estimate.reason
    assert intrinsic_dimension(grid).isnan()


def test_the_sample_is_seeded():
    x = gaussian(5)

    def estimate(**options):
        metric = metrics.resolve("intrinsic_dimension", **options)
        metric.update(States(x[:, None], torch.arange(len(x))))
        return metric.compute()

    assert estimate(size=500).n == 500
    assert estimate(size=500).value == estimate(size=500).value
    assert estimate(size=500).value != estimate(size=500, seed=1).value


@pytest.mark.parametrize("estimator", ["CorrInt", "GRIDE", "MLE", "MOM"])
def test_other_estimators_are_scikit_dimensions(estimator):
    import skdim

    x = gaussian(3, n=200)
    metric = metrics.resolve(f"intrinsic_dimension_{estimator.lower()}")
    metric.update(States(x[:, None], torch.arange(len(x))))
    expected = getattr(skdim.id, estimator)().fit(x.double().numpy()).dimension_
    estimate = metric.compute()
    assert estimate.value == pytest.approx(expected, rel=1e-6)
    assert np.isnan(estimate.low).all()


def test_every_estimator_exists():
    import skdim.id

    assert all(hasattr(skdim.id, estimator) for estimator in ESTIMATORS.values())
    with pytest.raises(InputError, match="got MLEE"):
        metrics.resolve("intrinsic_dimension", estimator="MLEE")
    with pytest.raises(InputError, match="keep"):
        metrics.resolve("intrinsic_dimension", keep=1.5)


@pytest.mark.parametrize("name", DRAWING)
def test_estimators_that_draw_subsets_agree_for_the_same_order_and_seed_alone(name):
    """The sample of a stream has an order of its own: scikit-dimension draws other subsets of the points as given."""
    import skdim.id

    x = gaussian(3, n=120, width=6)
    metric = metrics.resolve(f"intrinsic_dimension_{name.lower()}")
    metric.update(States(x[:, None], torch.arange(120) // 10))
    value = metric.compute().value[0]
    assert sorted(map(tuple, metric.different.tolist())) == sorted(map(tuple, x.tolist()))
    assert value == getattr(skdim.id, name)(random_state=0).fit(metric.different.double().numpy()).dimension_
    assert "another order or seed gives another value" in metric.description()["estimator"]


def test_noise_adds_dimensions_at_small_scales():
    line = torch.linspace(0, 50, 2000)[:, None] * torch.ones(1, 6)
    noise = 0.02 * torch.randn(2000, 6, generator=streams.generator())
    order = torch.randperm(2000, generator=streams.generator())
    assert scale_dependence((line + noise)[order]).item() < 0.9
    metric = metrics.resolve("scale_dependence")
    metric.update(States((line + noise)[:, None], torch.arange(2000)))
    estimate = metric.compute()
    dimensions, scales, points = (estimate.arrays[name][0] for name in ("dimensions", "scales", "points"))
    assert estimate.value[0] == dimensions[-1] / dimensions[0]
    assert list(points) == [2000, 1000, 500, 250]
    assert (np.diff(scales) > 0).all()


def test_local_anisotropy_of_a_bent_line_is_high_and_global_is_not():
    t = torch.linspace(0, 2 * np.pi, 1001)[:-1, None]
    circle = torch.cat([t.cos(), t.sin()], dim=1)
    assert local_anisotropy(circle).item() > 0.99
    assert local_anisotropy(circle, random=True).item() == pytest.approx(0.55, abs=0.05)


def test_local_anisotropy_of_clusters_is_low_and_global_is_high():
    g = streams.generator()
    clusters = torch.cat([torch.randn(500, 8, generator=g), torch.randn(500, 8, generator=g) + 50])
    assert local_anisotropy(clusters).item() < 0.35
    assert local_anisotropy(clusters, random=True).item() > 0.95
    with_copies = torch.cat([clusters, clusters[:100]])
    assert local_anisotropy(with_copies) == local_anisotropy(clusters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_equal_but_for_rounding_are_equal(dtype):
    """One rule for all: what anisotropy calls equal has no dimension, and such duplicates are dropped and counted."""
    g = torch.Generator().manual_seed(5)
    noise = torch.finfo(dtype).eps / 2 * torch.randn(300, 24, generator=g, dtype=dtype)
    same = (7 + torch.randn(1, 24, generator=g, dtype=dtype)) * (1 + noise)
    windows = torch.arange(300) // 20
    for name in ("anisotropy", "intrinsic_dimension", "local_anisotropy"):
        metric = metrics.resolve(name)
        metric.update(States(same[:, None], windows))
        assert np.isnan(metric.compute().value).all()
    x = torch.randn(300, 24, generator=g, dtype=dtype)
    copied = x.clone()
    copied[:40] = x[60] * (1 + noise[:40])
    share, dimension, without = (metrics.resolve(n) for n in ("duplicate_share", *["intrinsic_dimension"] * 2))
    for metric, states in ((share, copied), (dimension, copied), (without, x[40:])):
        metric.update(States(states[:, None], windows[-len(states) :]))
    assert share.compute().value == pytest.approx(40 / 300)
    assert "40 states" in share.compute().reason
    assert "40 states" in dimension.compute().reason
    assert dimension.compute().n == 260
    assert dimension.compute().value == pytest.approx(without.compute().value, rel=1e-6)
