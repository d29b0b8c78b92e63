"""The probe against numpy, against analytic values, and against itself."""

import math
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dynamics.capture import AttentionCall
from dynamics.errors import InputError
from dynamics.experiments.probe import sweep
from dynamics.experiments.probe.blocks import SCHEMES, RandomBlocks, direction, draw, generator, ignore
from dynamics.experiments.probe.cells import ProbeSuites, biased
from dynamics.experiments.probe.design import INITIALIZATIONS, INPUTS, NORMS, BlockDesign, ProbeSettings
from dynamics.experiments.probe.within_windows import WithinWindows
from dynamics.metrics.streaming import States
from dynamics.record import with_conditions

CPU = torch.device("cpu")
SMALL = {"width": 32, "heads": 4, "length": 16, "batch": 4, "seeds": 3, "beta": [0.0, 2.0, 8.0], "depth": 2}


def measure(**settings):
    """The rows of random blocks, with a column for every key of the condition."""
    chosen = ProbeSettings(**{**SMALL, **settings})
    suites = ProbeSuites.parse(chosen.metrics, chosen.sample)
    rows = []
    with torch.no_grad():
        for design in chosen.designs():
            blocks = RandomBlocks(design, chosen.depth, CPU)
            for some in sweep.ProbeSweep(blocks, chosen, suites, "run").rows(lambda _: None):
                rows += some
    return with_conditions(pd.DataFrame(rows)).astype({"beta": float, "seed": int})


def pure(name):
    """The function of a quantity."""
    return getattr(import_module(f"dynamics.metrics.{name}"), name)


def parts_of(blocks, seed, x):
    """The states of every part and layer."""
    parts = {}
    blocks.run(seed, x, lambda part, layer, states: parts.update({(part, layer): states}), ignore)
    return parts


def means(frame, metric, **where):
    """A quantity averaged over seeds, by the norm of the bias."""
    for column, value in {"metric": metric, **where}.items():
        frame = frame[frame[column] == value]
    return frame.groupby("beta")["value"].mean()


def cosines(x):
    """Mean cosine of (B, T, D) over all pairs, and over pairs of one sequence; by the pairs themselves."""
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    every = unit.reshape(-1, x.shape[-1])
    pooled = (every @ every.T)[~np.eye(len(every), dtype=bool)].mean()
    apart = ~np.eye(x.shape[1], dtype=bool)
    return pooled, np.mean([(sequence @ sequence.T)[apart].mean() for sequence in unit])


def reference(beta, seed, width=256, heads=4, length=128, batch=8):
    """One draw in numpy: cosines of the input, of attention alone, and after the residual."""
    random = np.random.default_rng([seed, int(beta)])
    bias = random.standard_normal(width)
    x = random.standard_normal((batch, length, width)) + beta * bias / np.linalg.norm(bias)
    query, key, value, out = random.standard_normal((4, width, width)) / np.sqrt(width)
    mixed = np.empty_like(x)
    head = width // heads
    for i in range(heads):
        part = slice(i * head, (i + 1) * head)
        scores = x @ query[:, part] @ (x @ key[:, part]).swapaxes(1, 2) / np.sqrt(head)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed[..., part] = weights / weights.sum(-1, keepdims=True) @ (x @ value[:, part])
    alone = mixed @ out
    return [cosines(x), cosines(alone), cosines(x + alone)]


@pytest.mark.parametrize(("beta", "cosines_"), [(4.0, (0.06, 0.72, 0.11)), (16.0, (0.50, 0.96, 0.65))])
def test_the_cone_is_that_of_an_independent_calculation(beta, cosines_):
    seeds = 16
    frame = measure(
        **{"width": 256, "heads": 4, "length": 128, "batch": 8, "seeds": seeds, "beta": [beta], "depth": 1},
        bias="input",
        metrics=["mean_cosine", "mean_cosine_within_windows"],
    )
    expected = np.mean([reference(beta, seed) for seed in range(seeds)], axis=0)
    for i, part in enumerate(("input", "attention", "residual")):
        pooled = means(frame, "mean_cosine", part=part)[beta]
        within = means(frame, "mean_cosine_within_windows", part=part)[beta]
        assert pooled == pytest.approx(cosines_[i], abs=0.02)
        assert pooled == pytest.approx(expected[i, 0], abs=0.02)
        assert within == pytest.approx(expected[i, 1], abs=0.02)


@pytest.mark.parametrize("inputs", INPUTS)
def test_the_inputs_cosine_and_norm_follow_from_the_bias(inputs):
    beta = [0.0, 4.0, 16.0, 64.0]
    frame = measure(
        inputs=inputs,
        width=256,
        length=64,
        batch=8,
        beta=beta,
        bias="input",
        depth=1,
        metrics=["mean_cosine", "mean_norm"],
    )
    cosine, norm = (means(frame, metric, part="input") for metric in ("mean_cosine", "mean_norm"))
    for b in beta:
        assert cosine[b] == pytest.approx(b**2 / (b**2 + 256), abs=0.01)
        assert norm[b] == pytest.approx(math.sqrt(b**2 + 256), rel=0.02)


@pytest.mark.parametrize("kind", INPUTS)
def test_every_input_has_mean_0_and_variance_1(kind):
    x = draw(kind, (200_000,), generator(0, "x"))
    assert x.isfinite().all()
    assert float(x.mean()) == pytest.approx(0, abs=0.01)
    assert float(x.var()) == pytest.approx(1, abs=0.02)


def test_the_initialisations_are_those_that_can_be_asked_for():
    assert tuple(SCHEMES) == INITIALIZATIONS


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_score_variance_and_entropy_without_a_bias_are_the_analytic_ones(initialization):
    width, heads, length = 192, 3, 256
    frame = measure(
        initialization=initialization,
        **{"width": width, "heads": heads, "length": length, "seeds": 4, "depth": 1},
        beta=[0.0],
        bias="input",
        metrics=["score_variance", "entropy"],
    )
    std = {"gpt2": 0.02, "bert": 0.02, "kaiming": (2 / width) ** 0.5}.get(initialization, width**-0.5)
    variance = (std**2 * width) ** 2 / (width // heads if initialization == "mup" else 1)
    assert means(frame, "score_variance")[0.0] == pytest.approx(variance, rel=0.08)
    # A query's scores are Gaussian, their variance that of the mean times chi^2 / K: so is the entropy drawn.
    random = np.random.default_rng(0)
    scale = random.chisquare(width // heads, (400, 1)) / (width // heads)
    p = np.exp(random.standard_normal((400, length)) * np.sqrt(variance * scale))
    p /= p.sum(-1, keepdims=True)
    entropy = -(p * np.log(p)).sum(-1).mean()
    assert means(frame, "entropy")[0.0] == pytest.approx(entropy, abs=0.03)
    if variance < 0.1:
        assert entropy == pytest.approx(math.log(length) - variance / 2, abs=0.01)


def test_a_bias_on_the_keys_changes_no_probability_and_one_on_the_queries_sharpens():
    frame = measure(beta=[0.0, 4.0, 64.0], metrics=["entropy", "max_probability", "min_probability", "score_variance"])
    curves = {
        bias: {metric: means(frame, metric, bias=bias, layer=1) for metric in frame["metric"].unique()}
        for bias in frame["bias"].unique()
    }
    for metric, values in curves["key"].items():
        assert values[64.0] == pytest.approx(values[0.0], rel=2e-4), metric
    assert curves["query"]["entropy"].is_monotonic_decreasing
    assert curves["query"]["max_probability"].is_monotonic_increasing
    assert curves["query"]["min_probability"].is_monotonic_decreasing
    for bias in ("parallel", "opposed"):
        for metric, values in curves[bias].items():
            np.testing.assert_allclose(values, curves["query"][metric], rtol=2e-3, atol=1e-6)
    # Keys have unit variance in every direction, so a bias of norm b adds b^2 / K to the variance of the scores.
    added = curves["query"]["score_variance"][64.0] - curves["query"]["score_variance"][0.0]
    assert added == pytest.approx(64**2 / 8, rel=0.25)


def test_what_sharpens_is_the_projection_of_the_bias_on_the_spread_of_the_keys():
    """Keys spread along their first axis alone: a bias along it sharpens, one across it does nothing."""
    source = torch.Generator().manual_seed(0)
    spread = torch.tensor([3.0, *[0.0] * 7], dtype=torch.float64)
    key = torch.randn(2, 1, 40, 8, generator=source, dtype=torch.float64) * spread + 5
    query = torch.randn(2, 1, 40, 8, generator=source, dtype=torch.float64)
    call = AttentionCall(1, query, key, 8**-0.5, None, False, torch.ones(2, 40, dtype=torch.bool))
    along, across = 4 * torch.eye(8, dtype=torch.float64)[:2, None]

    nothing = torch.zeros(1, 8, dtype=torch.float64)

    def probabilities(on_query=nothing, on_key=nothing):
        return biased(call, on_query, on_key).logits(0, 40).softmax(-1)

    plain = probabilities()
    torch.testing.assert_close(probabilities(on_query=across), plain)
    torch.testing.assert_close(probabilities(on_key=along), plain)
    torch.testing.assert_close(probabilities(on_query=along, on_key=-along), probabilities(on_query=along))
    assert probabilities(on_query=along).amax(-1).mean() > 1.3 * plain.amax(-1).mean()
    expected = ((query + along[:, None]) @ key.mT * 8**-0.5).softmax(-1)
    torch.testing.assert_close(probabilities(on_query=along), expected)


def test_finished_scores_change_by_what_the_product_changes_by():
    query, key = torch.randn(2, 1, 4, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    key, relative = key[:, :2], torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    valid = torch.ones(1, 5, dtype=torch.bool)
    call = AttentionCall(1, query, key, 0.5, None, False, valid)
    scored = AttentionCall(1, query, key, 0.5, None, False, valid, scores=call.logits(0, 5) + relative)
    unit = torch.eye(8, dtype=torch.float64)
    moved, finished = (biased(part, unit[:4], -unit[:2]) for part in (call, scored))
    torch.testing.assert_close(finished.logits(0, 5), moved.logits(0, 5) + relative)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_every_part_is_that_of_the_formula(norm, causal):
    """Blocks by hand, in float64, sequence by sequence and head by head."""
    design = BlockDesign(24, 3, 10, "normal", initialization="gpt2", norm=norm, causal=causal)
    blocks = RandomBlocks(design, 2, CPU)
    x = torch.randn(2, 2, 2, 10, 24, generator=torch.Generator().manual_seed(0)) + 1

    def layer_norm(y):
        return (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()

    def before(y):
        return layer_norm(y) if norm == "pre" else y

    def after(y):
        return layer_norm(y) if norm == "post" else y

    for s, seed in enumerate((3, 5)):
        parts = parts_of(blocks, seed, x[s])
        stream = x[s].flatten(0, 1).double()
        for layer in (1, 2):
            query, key, value, out, up, down = (w.double() for w in blocks._weights(seed, layer))
            heads = []
            for h in range(3):
                part = slice(8 * h, 8 * h + 8)
                q, k, v = (before(stream) @ w[:, part] for w in (query, key, value))
                scores = q @ k.mT / 8**0.5
                if causal:
                    scores = scores.masked_fill(torch.ones(10, 10).triu(1).bool(), -torch.inf)
                heads.append(scores.softmax(-1) @ v)
            alone = torch.cat(heads, -1) @ out
            middle = after(stream + alone)
            inner = before(middle) @ up
            stream = after(middle + inner * (1 + torch.erf(inner / 2**0.5)) / 2 @ down)
            for part, expected in (("attention", alone), ("residual", middle), ("mlp", stream)):
                states = parts[part, layer].flatten(0, 1).double()
                torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)


def test_weights_have_the_spread_of_their_scheme():
    for name, out_over_query in (("gpt2", 0.5), ("bert", 1.0), ("lecun", 1.0), ("mup", 0.5)):
        design = BlockDesign(128, 2, 4, "normal", initialization=name, norm="none")
        query, _, _, out, up, down = RandomBlocks(design, 2, CPU)._weights(0, 1)
        assert float(out.std() / query.std()) == pytest.approx(out_over_query, rel=0.03)
        assert up.shape == (128, 512)
        assert down.shape == (512, 128)


def test_neither_batching_nor_what_else_is_swept_changes_a_result(monkeypatch):
    whole = measure()
    monkeypatch.setattr(sweep, "BUDGET", 1)  # every cell by itself
    apart = measure()
    keys = ["site", "layer", "metric", "bias", "part", "beta", "seed"]
    both = whole.merge(apart, on=keys, suffixes=("", "_apart"))
    assert len(both) == len(whole) == len(apart)
    np.testing.assert_allclose(both["value"], both["value_apart"], rtol=1e-3, atol=1e-5)
    fewer = measure(beta=[8.0], seeds=1, seed=2, bias=["query", "input"])
    both = whole.merge(fewer, on=keys, suffixes=("", "_fewer"))
    assert len(both) == len(fewer)
    np.testing.assert_allclose(both["value"], both["value_fewer"], rtol=1e-3, atol=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    torch.manual_seed(1)
    first = measure()
    torch.manual_seed(2)
    pd.testing.assert_frame_equal(measure(), first)
    other = measure(seed=7)
    inputs = (first["part"] == "input") & (first["metric"] == "mean_norm")
    assert not np.isin(other.loc[inputs.to_numpy(), "value"], first.loc[inputs, "value"]).any()


def test_rows_tell_where_they_come_from():
    frame = measure(bias=["input", "key"], metrics=["mean_norm", "entropy"], norm=["pre", "none"])
    assert set(frame["norm"]) == {"pre", "none"}
    assert not frame.duplicated(["run", "subject", "condition", "step", "site", "layer", "head", "metric"]).any()
    states = frame[frame["site"] == "residual"]
    assert set(zip(states["part"], states["layer"], strict=True)) == {
        ("input", 0),
        *((part, layer) for part in ("attention", "residual", "mlp") for layer in (1, 2)),
    }
    attention = frame[frame["site"] == "attention"]
    assert set(zip(attention["bias"], attention["layer"], strict=True)) == {
        ("input", 1),
        ("input", 2),
        ("key", 1),
    }
    assert (states["n"] == 4 * 16).all()
    assert len(frame) == 2 * 3 * 3 * (7 + 2 + 1)


def test_spectra_and_neighbours_take_a_sample():
    frame = measure(sample=20, metrics=["anisotropy", "intrinsic_dimension", "mean_norm"], bias="input")
    assert frame.groupby("metric")["n"].unique().map(list).to_dict() == {
        "anisotropy": [20],
        "intrinsic_dimension": [20],
        "mean_norm": [64],
    }


@given(
    width=st.integers(1, 64),
    heads=st.lists(st.integers(1, 8), min_size=1, max_size=3),
    norms=st.lists(st.sampled_from(NORMS), min_size=1, max_size=4),
)
def test_designs_are_all_combinations_or_a_refusal(width, heads, norms):
    if any(width % h for h in heads):
        with pytest.raises(InputError, match="heads"):
            ProbeSettings(width=width, heads=heads, norm=norms)
        return
    designs = list(ProbeSettings(width=width, heads=heads, norm=norms).designs())
    assert len(designs) == len(set(designs)) == len(set(heads)) * len(set(norms))
    conditions = [tuple(design.condition.items()) for design in designs]
    assert len(set(conditions)) == len(designs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": [-1.0]},
        {"beta": [math.inf]},
        {"beta": []},
        {"seeds": 0},
        {"depth": 0},
        {"batch": 0},
        {"length": [8, 1]},
        {"width": 30, "heads": 4},
        {"norm": "middle"},
        {"norm": []},
        {"inputs": "cauchy"},
        {"initialization": ["gpt2", "zeros"]},
        {"bias": ["value"]},
        {"device": "tpu"},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError) as refusal:
        ProbeSettings(**wrong)
    assert str(refusal.value).endswith(".")
    assert any(name in str(refusal.value) for name in wrong)


@pytest.mark.parametrize("name", ["anisotropi", "qk_symmetry", "drift", "entropy_within_windows", "cka_to_start"])
def test_metrics_of_neither_states_nor_attention_are_refused(name):
    with pytest.raises(InputError):
        ProbeSuites.parse(["mean_cosine", name], 512)


def test_rows_are_the_pure_quantities_of_the_states():
    """Every token, or a sample of them, or the mean over sequences; of four windows, without an interval."""
    names = ["mean_cosine", "mean_norm", "norm_of_mean", "mean_cosine_within_windows", "anisotropy_within_windows"]
    sampled = ["anisotropy", "intrinsic_dimension", "isoscore"]
    settings = ProbeSettings(**SMALL, sample=40, bias="input", metrics=[*names, *sampled])
    frame = measure(**SMALL, sample=40, bias="input", metrics=settings.metrics)
    (design,) = settings.designs()
    x = draw("normal", (4, 16, 32), generator(1, "inputs")) + 8 * direction((32,), generator(1, "bias"))
    states = {("input", 0): x[None], **parts_of(RandomBlocks(design, 2, CPU), 1, x[None])}
    rows = frame[(frame["seed"] == 1) & (frame["beta"] == 8)].set_index(["part", "layer", "metric"])
    for (part, layer), (y,) in states.items():
        for name in settings.metrics:
            quantity = pure(name.removesuffix("_within_windows"))
            if name in sampled:
                expected = quantity(y.flatten(0, 1)[torch.arange(40) * 64 // 40])
            elif name.endswith("_within_windows"):
                expected = torch.stack([quantity(sequence) for sequence in y]).mean()
            else:
                expected = quantity(y.flatten(0, 1))
            row = rows.loc[part, layer, name]
            assert row["value"] == pytest.approx(float(expected), rel=1e-6), (part, layer, name)
            assert np.isnan([row["low"], row["high"]]).all()
            assert row["reason"] == "4 windows: an interval needs at least 8"


def test_a_mean_within_windows_streams():
    x, windows = (
        torch.randn(120, 1, 8, generator=torch.Generator().manual_seed(0)) + 1,
        torch.arange(12).repeat_interleave(10),
    )
    metric = WithinWindows("mean_cosine")
    for part in (slice(0, 20), slice(20, 120)):
        metric.update(States(x[part], windows[part]))
    values = [float(pure("mean_cosine")(x[windows == window, 0])) for window in range(12)]
    estimate = metric.estimate(metric)
    assert estimate.value[0] == pytest.approx(np.mean(values), rel=1e-12)
    spread = stats.t.ppf(0.975, 11) * np.std(values, ddof=1) / 12**0.5 / (1 - np.mean(values) ** 2)
    plain = np.tanh(np.arctanh(np.mean(values)) + np.array([-spread, spread]))
    # Wider than Student's on the side to which the windows' values are skewed, and where their tails are heavy.
    assert -1 < estimate.low[0] <= plain[0] + 1e-12
    assert plain[1] - 1e-12 <= estimate.high[0] < 1
    assert estimate.windows == 12
    assert estimate.n == 120
    few = WithinWindows("intrinsic_dimension", most=4)
    few.update(States(x, windows))
    assert few.estimate(few).reason
    assert few.estimate(few).n == 48
