"""Every metric: batches, their order and ranks change nothing beyond rounding, and the function agrees."""

import importlib

import numpy as np
import pytest
import torch

from dynamics import metrics
from dynamics.metrics.streaming import base
from dynamics.metrics.streaming.base import STATE_SITES, Attention, Group, Pair, States, groups
from tests.metrics import streams
from tests.operations import Nondeterministic

NAMES = [name for name in metrics.names() if metrics.resolve(name).sites]
STATES = [name for name in NAMES if "residual" in metrics.resolve(name).sites]
ATTENTION = [name for name in NAMES if "attention" in metrics.resolve(name).sites]
HEADS = [name for name in NAMES if "query" in metrics.resolve(name).sites]
TO_START = ["cka_to_start", "linearity_to_start"]
VARIANTS = ["intrinsic_dimension_lowest_20", "intrinsic_dimension_mle", "local_anisotropy_random"]


def fresh(name):
    metric = metrics.resolve(name)
    if name == "drift":
        metric.reference = torch.randn(13, 3, 8, generator=streams.generator(5), dtype=torch.float64)
    elif name in TO_START:
        start = metrics.resolve(name)
        start.update(at_start())
        metric.reference = start.reference_state()
    return metric


def at_start():
    """What the tokens of `clustered()` were at step 0."""
    x, windows = streams.clustered()
    return States(x + torch.randn(x.shape, generator=streams.generator(5), dtype=x.dtype), windows)


def input_of(name):
    if name in ATTENTION:
        return streams.attention()
    if name in HEADS and name not in STATES:
        return streams.clustered(heads=3)
    return streams.clustered()


def stream(name, batches):
    metric = fresh(name)
    for batch in batches:
        metric.update(batch)
    return metric


def assert_same(a, b):
    for field in ("value", "low", "high"):
        np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-9, atol=1e-12)
    assert (a.n, a.reason) == (b.n, b.reason)
    assert a.arrays.keys() == b.arrays.keys()
    for name, array in a.arrays.items():
        np.testing.assert_allclose(array, b.arrays[name], rtol=1e-9)


@pytest.mark.parametrize("name", [*STATES, *ATTENTION, "drift", *VARIANTS])
def test_batches_their_order_and_ranks_change_nothing(name):
    batch = input_of(name)
    windows = batch.windows.unique().tolist()
    whole = stream(name, [batch]).compute()
    assert np.isfinite(whole.value).all()
    assert np.isfinite(whole.low).all() or whole.reason

    one_by_one = stream(name, streams.by_windows(batch, [[w] for w in reversed(windows)]))
    assert_same(one_by_one.compute(), whole)

    half = len(windows) // 3
    ranks = [stream(name, streams.by_windows(batch, [part])) for part in (windows[:half], windows[half:])]
    ranks[0].merge_state(ranks[1])
    assert_same(ranks[0].compute(), whole)


@pytest.mark.parametrize("name", ["entropy", "max_probability", "normalized_entropy", "score_variance"])
def test_a_window_that_comes_in_several_calls_is_one_window(name):
    """Local attention gives the queries of a window chunk by chunk."""
    call, windows = streams.attention(padded=False, causal=False)
    chunks = [Attention(streams.Call(query, call.key, causal=False), windows) for query in call.query.split(32, dim=2)]
    assert_same(stream(name, chunks).compute(), stream(name, [Attention(call, windows)]).compute())


@pytest.mark.parametrize("name", [*STATES, *ATTENTION])
def test_states_gathered_from_ranks_reduce_to_the_whole(name):
    """As torch.distributed does it: every state of every rank gathered, then the state's own reduction."""
    batch = input_of(name)
    windows = batch.windows.unique().tolist()
    ranks = [stream(name, streams.by_windows(batch, [part])) for part in (windows[:5], windows[5:])]
    gathered = {}
    for rank in ranks:
        for state in rank._reductions:
            value = getattr(rank, state)
            gathered.setdefault(state, []).append(torch.cat(value) if isinstance(value, list) else value)
    synced = fresh(name)
    for state, reduce in synced._reductions.items():
        parts = gathered[state]
        setattr(synced, state, reduce(parts if isinstance(getattr(synced, state), list) else torch.stack(parts)))
    assert_same(Group([synced]).compute()[name], stream(name, [batch]).compute())


def test_nccl_is_given_nothing_of_the_host(monkeypatch):
    """Some states are counted on the host, whatever the device of what they count."""
    places, x = [], torch.ones(3)
    monkeypatch.setattr(base, "gather_all_tensors", lambda sent, group: places.append(sent.device.type) or [x, x])
    monkeypatch.setattr(base, "_gpu", lambda: torch.device("meta"))
    for backend in ("nccl", "gloo"):
        monkeypatch.setattr(base.dist, "get_backend", lambda group, backend=backend: backend)
        assert [part.device.type for part in base.gathered(x)] == ["cpu", "cpu"]
    assert places == ["meta", "cpu"]


def test_ranks_gather_states_in_our_way(monkeypatch):
    metric, names = stream("mean_norm", [streams.clustered()]), []
    monkeypatch.setattr(base, "gathered", lambda x, group=None: names.append(x.shape) or [x, x])
    whole = metric.compute()
    metric.distributed_available_fn = lambda: True
    (estimate,) = Group([metric]).compute().values()
    assert len(names) == len(metric._reductions)
    assert estimate.n == 2 * whole.n


@pytest.mark.parametrize("name", [*STATES, *VARIANTS])
def test_states_agree_with_the_function(name):
    x, windows = input_of(name)
    module = next(stem for stem in sorted(NAMES, key=len, reverse=True) if name.startswith(stem))
    function = getattr(importlib.import_module(f"dynamics.metrics.{module}"), module)
    if name == "intrinsic_dimension_mle":
        import skdim

        expected = skdim.id.MLE().fit(x[:, 0].numpy()).dimension_
    elif name == "mean_cosine_across_windows":
        expected = function(x[:, 0], windows)
    elif name in TO_START:
        expected = function(x[:, 0], at_start().x[:, 0])
    elif name in ("scale_dependence", "local_anisotropy", "local_anisotropy_random"):
        sample = stream(name, [States(x, windows)]).different  # what they give depends on the order
        expected = function(sample, random=True) if name.endswith("random") else function(sample)
    else:
        options = {"keep": 0.2} if name.endswith("20") else {}
        expected = function(x[:, 0], **options)
    assert streams.close(stream(name, [States(x, windows)]).compute().value[-1], expected)


@pytest.mark.parametrize("name", [*STATES, *ATTENTION])
def test_a_group_reads_the_same_off_shared_states(name):
    batch = input_of(name)
    members = groups(fresh(other) for other in (STATES if name in STATES else ATTENTION))
    assert len(members) < 4
    (group,) = (g for g in members if name in [metric.name for metric in g.metrics])
    group.update(batch)
    assert_same(group.compute()[name], stream(name, [batch]).compute())


@pytest.mark.parametrize("name", HEADS)
def test_each_head_is_measured_alone_and_the_last_entry_is_their_mean(name):
    batch = streams.clustered(heads=3)
    whole = stream(name, [batch]).compute()
    assert whole.value.shape == whole.low.shape == whole.high.shape == (4,)
    for head in range(3):
        metric = fresh(name)
        if name == "drift":
            metric.reference = metric.reference[:, head : head + 1]
        metric.update(States(batch.x[:, head : head + 1], batch.windows))
        assert streams.close(metric.compute().value[-1], whole.value[head])
    assert streams.close(whole.value[-1], whole.value[:-1].mean())


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_computed_in_float32_or_better(name, dtype):
    x, windows = input_of(name)
    exact = stream(name, [States(x.to(dtype).double(), windows)]).compute()
    assert_close = np.testing.assert_allclose
    assert_close(stream(name, [States(x.to(dtype), windows)]).compute().value, exact.value, rtol=1e-5)


@pytest.mark.parametrize("name", [*STATES, *VARIANTS])
@pytest.mark.parametrize("case", ["nan", "inf", "one", "none"])
def test_degenerate_states_give_nan_and_a_reason(name, case):
    x, windows = input_of(name)
    if case == "one":
        x, windows = x[:1], windows[:1]
    elif case in ("nan", "inf"):
        x = x.clone()
        x[17, 0, 3] = float(case)
    metric = fresh(name)
    if case != "none":
        metric.update(States(x, windows))
    estimate = metric.compute()
    if name == "duplicate_share" and case == "one":
        assert estimate.value == 0
    else:
        assert np.isnan(estimate.value).all()
        assert estimate.reason


OF_SHAPE = (
    *("anisotropy", "singular_value_share", "isoscore", "participation_ratio", "effective_rank"),
    *("intrinsic_dimension", "scale_dependence", "local_anisotropy", *TO_START, *VARIANTS),
)


@pytest.mark.parametrize("name", OF_SHAPE)
@pytest.mark.parametrize("value", [0.1, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_states_have_no_shape(name, value, dtype):
    x = torch.full((300, 1, 8), value, dtype=dtype) * torch.linspace(1, 2, 8, dtype=dtype)
    estimate = stream(name, [States(x, torch.arange(300) // 10)]).compute()
    assert np.isnan(estimate.value).all()
    assert estimate.reason


@pytest.mark.parametrize("name", ["mean_norm", "norm_of_mean", "mean_cosine", "anisotropy_uncentered", "kurtosis"])
def test_what_equal_states_leave_defined_agrees_with_the_function(name):
    x = torch.linspace(1, 2, 8, dtype=torch.float64).expand(30, 1, 8)
    function = getattr(importlib.import_module(f"dynamics.metrics.{name}"), name)
    assert streams.close(stream(name, [States(x, torch.arange(30))]).compute().value[0], function(x[:, 0]))


@pytest.mark.parametrize("name", ["anisotropy_uncentered", "kurtosis"])
def test_zero_states_have_neither(name):
    estimate = stream(name, [States(torch.zeros(30, 1, 8), torch.arange(30))]).compute()
    assert np.isnan(estimate.value).all()
    assert estimate.reason


@pytest.mark.parametrize("name", ["mean_cosine", "mean_cosine_across_windows"])
def test_a_zero_state_has_no_direction(name):
    x, windows = streams.clustered()
    x[3] = 0
    estimate = stream(name, [States(x, windows)]).compute()
    assert np.isnan(estimate.value).all()
    assert "zero" in estimate.reason


@pytest.mark.parametrize("name", STATES)
def test_one_window_gives_no_interval(name):
    x, _ = streams.clustered()
    estimate = stream(name, [States(x, torch.zeros(len(x), dtype=torch.long))]).compute()
    if name != "intrinsic_dimension":  # whose units are neighbourhoods
        assert np.isnan(estimate.low).all()
        assert np.isnan(estimate.high).all()


@pytest.mark.parametrize("name", ["linear_cka", "procrustes_linearity"])
def test_pairs_stream(name):
    x, windows = streams.clustered()
    y = x.square() + 0.1 * streams.clustered(seed=1).x
    function = getattr(importlib.import_module(f"dynamics.metrics.{name}"), name)
    parts = [metrics.resolve(name) for _ in range(2)]
    for part, rows in zip(parts, (windows < 5, windows >= 5), strict=True):
        part.update(Pair(x[rows], y[rows], windows[rows]))
    parts[0].merge_state(parts[1])
    estimate = parts[0].compute()
    assert streams.close(estimate.value[-1], function(x[:, 0], y[:, 0]))
    assert 0 < estimate.value[-1] < 1
    assert np.isnan(metrics.resolve(name).compute().value).all()


def test_every_default_is_a_metric_of_its_site():
    for site, names in metrics.default().items():
        assert len(set(names)) == len(names)
        for name in names:
            assert site in metrics.resolve(name).sites, (site, name)
    assert set(metrics.default()) >= {*STATE_SITES, "query", "key", "attention", "weight"}


def test_metrics_can_be_reset_and_used_again():
    batch = streams.clustered()
    metric = stream("anisotropy", [streams.clustered(seed=5)])
    metric.compute()
    metric.reset()
    metric.update(batch)
    assert_same(metric.compute(), stream("anisotropy", [batch]).compute())


@pytest.mark.parametrize("name", [*STATES, *ATTENTION, "drift", *TO_START, *VARIANTS])
def test_every_operation_has_a_deterministic_kernel_on_every_device(name):
    metric, batch = fresh(name), input_of(name)
    with Nondeterministic() as operations:
        metric.update(batch)
        metric.compute()
    assert operations.count
    assert operations.names == set()


@pytest.mark.parametrize("name", ["isoscore", "mean_cosine", "intrinsic_dimension", "qk_alignment", "drift"])
def test_what_a_group_computes_is_dropped_once_it_is_read(name):
    """At the end of a measurement all groups are there together: states are kept, what is made of them is not."""
    (group,) = groups([fresh(name)])
    group.update(input_of(name))
    (metric,), held, computed = group.metrics, bytes_of(group.states), []
    estimate = metric.estimate
    metric.estimate = lambda states: (estimate(states), computed.append(bytes_of(states)))[0]
    group.compute()
    metric.compute()
    assert min(computed) > held
    assert bytes_of(group.states) == held


def bytes_of(metric):
    """Bytes of all tensors that a metric holds."""
    sizes, waiting = {}, [vars(metric)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict | list | tuple):
            waiting += value.values() if isinstance(value, dict) else value
    return sum(sizes.values())
