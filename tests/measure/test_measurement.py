"""`measure()`: right, invariant to batching, and without a trace."""

import copy
import math
import sys

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel

from dynamics.errors import InputError
from dynamics.measure.compare import compare
from dynamics.measure.measurement import measure
from dynamics.measure.meter import OWN_PRODUCT, Meter
from dynamics.measure.suite import Suite
from dynamics.metrics.anisotropy import anisotropy
from dynamics.metrics.mean_cosine import mean_cosine
from dynamics.metrics.streaming import States
from dynamics.models.transformer import CharTransformer, CharTransformerConfig, CharTransformerLM
from tests.capture.zoo import build

CHEAP = ["anisotropy", "mean_cosine", "entropy", "drift", "qk_alignment"]


def model(seed=0, cls=CharTransformerLM, **settings):
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 32}
    return cls(CharTransformerConfig(**{"vocab_size": 60, "initializer_range": 0.1, **shape, **settings}))


def batches(rows=12, size=4, context=32, seed=1):
    ids = torch.randint(60, (rows, context), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": part} for part in ids.split(size)]


def table(result):
    return {row[4:8]: row.value for row in result.rows}


def test_values_are_those_of_the_functions_on_the_hidden_states():
    network = model().eval()
    given = batches(size=12)
    output = network.model(**given[0], output_hidden_states=True)
    values = table(measure(network, given, ["anisotropy", "mean_cosine"]))
    for layer, states in enumerate(output.hidden_states):
        x = states.flatten(0, 1)
        assert values["residual", layer, -1, "anisotropy"] == pytest.approx(anisotropy(x).item(), rel=1e-6)
        assert values["residual", layer, -1, "mean_cosine"] == pytest.approx(mean_cosine(x).item(), abs=1e-6)
    last = output.last_hidden_state.flatten(0, 1)
    assert values["output", 3, -1, "anisotropy"] == pytest.approx(anisotropy(last).item(), rel=1e-6)


def test_queries_and_keys_are_those_that_enter_the_product():
    network = model(cls=CharTransformer).eval()
    (given,) = batches(rows=4)
    block = network.layers[0]
    x = network.embed_tokens(given["input_ids"]) + network.embed_positions.weight
    query = block.attention.q_proj(block.attention_norm(x)).view(4, 32, 4, 8)
    values = table(measure(network, [given], ["norm_of_mean"]))
    norms = query.double().mean((0, 1)).norm(dim=-1)
    for head in range(4):
        assert values["query", 1, head, "norm_of_mean"] == pytest.approx(norms[head].item(), rel=1e-5)
    assert values["query", 1, -1, "norm_of_mean"] == pytest.approx(norms.mean().item(), rel=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_drift_of_values_is_that_of_their_means_where_attention_is_one_call(implementation):
    before, after = (model(seed, CharTransformer, attn_implementation=implementation).eval() for seed in (0, 1))
    (given,), suite = batches(rows=4), {"drift": {"sites": ["query", "value"]}}
    start = measure(before, [given], suite, references={})
    moved = measure(after, [given], suite, step=1, references=start.references)
    if implementation == "eager":
        assert {row.site for row in moved.rows} == {"query"}
        assert [(one.site, one.layers, one.reason) for one in moved.missing] == [("value", (1, 2, 3), OWN_PRODUCT)]
        return
    means = []
    for network in (before, after):
        x = network.layers[0].attention_norm(network.embed_tokens(given["input_ids"]) + network.embed_positions.weight)
        means.append(network.layers[0].attention.v_proj(x).view(-1, 4, 8).double().mean(0))
    expected = (means[1] - means[0]).norm(dim=-1).tolist()
    found = [table(moved)["value", 1, head, "drift"] for head in range(4)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_batching_and_the_order_of_batches_change_nothing():
    network = model()
    whole = measure(network, batches(size=12))
    small = measure(network, batches(size=1))
    turned = measure(network, batches(size=3)[::-1])
    for other in (small, turned):
        expected, got = table(whole), table(other)
        assert expected.keys() == got.keys()
        for key, value in expected.items():
            assert got[key] == pytest.approx(value, rel=2e-4, abs=2e-5, nan_ok=True), key


def padded(lines, size):
    """Batches of lines of different lengths."""
    parts = [lines[start : start + size] for start in range(0, len(lines), size)]
    masks = [[torch.ones_like(line) for line in part] for part in parts]
    return [
        {name: pad_sequence(rows, batch_first=True) for name, rows in (("attention_mask", mask), ("input_ids", part))}
        for mask, part in zip(masks, parts, strict=True)
    ]


@pytest.mark.parametrize(
    ("copies", "metrics"),
    [
        (0, {"intrinsic_dimension": {"size": 150}, "anisotropy": {"tokens": 200}}),
        (5, ["anisotropy", "mean_cosine_across_windows", "entropy", "qk_alignment"]),
    ],
)
def test_neither_padding_nor_copies_make_the_batching_matter(copies, metrics):
    network = model(is_causal=False)
    lines = [ids[: 12 + i] for i, ids in enumerate(batches(rows=16, size=16)[0]["input_ids"])]
    lines += lines[:copies]
    whole, *others = (measure(network, padded(lines, size), metrics).rows for size in (21, 1, 4))
    for other in others:
        for row, expected in zip(other, whole, strict=True):
            assert row[:8] == expected[:8]
            assert row[8:14] == pytest.approx(expected[8:14], rel=1e-3, abs=1e-5, nan_ok=True), row
            assert row.reason == expected.reason


def test_intervals_hold_the_value_and_narrow_with_more_windows():
    network = model()
    few, many = (measure(network, batches(rows=rows), ["anisotropy"]).rows for rows in (8, 128))
    for row in (*few, *many):
        assert row.low <= row.value <= row.high
    assert np.mean([row.high - row.low for row in many]) < np.mean([row.high - row.low for row in few])


def test_the_model_is_left_as_it_was():
    network = model(dropout=0.1).train()
    network(**batches()[0]).logits.sum().backward()
    weights = {name: p.clone() for name, p in network.named_parameters()}
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    measure(network, batches())
    assert torch.equal(before, torch.get_rng_state())
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    for name, p in network.named_parameters():
        assert torch.equal(p, weights[name])
        assert torch.equal(p.grad, gradients[name])


def test_the_precision_of_training_does_not_matter():
    network = model().to(torch.bfloat16)
    values = table(measure(network, batches(), CHEAP))
    exact = table(measure(copy.deepcopy(network).float(), batches(), CHEAP))
    assert values == pytest.approx(exact, nan_ok=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert table(measure(copy.deepcopy(network).float(), batches(), CHEAP)) == pytest.approx(exact, nan_ok=True)
    assert next(network.parameters()).dtype == torch.bfloat16


def test_padding_does_not_count():
    network = model(is_causal=False)
    (given,) = batches(rows=4)
    mask = torch.ones(4, 32, dtype=torch.long)
    mask[2:, 20:] = 0
    noisy = given["input_ids"].clone()
    noisy[mask == 0] = 7
    clean = measure(network, [{"input_ids": given["input_ids"], "attention_mask": mask}], CHEAP)
    other = measure(network, [{"input_ids": noisy, "attention_mask": mask}], CHEAP)
    assert table(clean) == pytest.approx(table(other), abs=1e-6, nan_ok=True)
    assert {row.n for row in clean.rows if row.metric == "anisotropy"} == {int(mask.sum())}


def test_a_batch_of_padding_alone_does_not_count():
    network = model(is_causal=False)
    given = [{**batch, "attention_mask": torch.ones_like(batch["input_ids"])} for batch in batches()]
    padding = {**given[0], "attention_mask": torch.zeros_like(given[0]["input_ids"])}
    spec = {**dict.fromkeys(CHEAP), "intrinsic_dimension": {"max_tokens": 200}}
    expected = table(measure(network, given, spec))
    assert table(measure(network, [*given[:1], padding, *given[1:]], spec)) == pytest.approx(expected, nan_ok=True)


def test_drift_starts_at_zero_and_needs_a_reference():
    network = model()
    first = measure(network, batches(), ["drift"], references={})
    assert {row.value for row in first.rows} == {0.0}
    moved = model(seed=1)
    later = measure(moved, batches(), ["drift"], step=5, references=first.references)
    assert all(row.value > 0 for row in later.rows)
    assert later.references.keys() == first.references.keys()
    alone = measure(moved, batches(), ["drift"], step=5)
    assert all(np.isnan(row.value) for row in alone.rows)


def test_a_token_budget_takes_whole_windows_and_is_blind_to_batching():
    network = model()
    spec = {"anisotropy": {"max_tokens": 100}, "entropy": {"max_tokens": 100}, "mean_cosine": None}
    whole, other = (measure(network, batches(size=size), spec) for size in (12, 1))
    counts = {(row.site, row.metric): row.n for row in whole.rows if row.head == -1}
    assert counts["residual", "anisotropy"] == 128
    assert counts["residual", "mean_cosine"] == 12 * 32
    assert counts["attention", "entropy"] == 128
    assert table(whole) == pytest.approx(table(other), rel=1e-4)


def test_a_budget_keeps_the_local_windows_of_an_image_together():
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows = measure(build("swin"), [{"pixel_values": images}], {"entropy": {"max_tokens": 1}}).rows
    whole = measure(build("swin"), [{"pixel_values": images[:1]}], ["entropy"]).rows
    assert [row.n for row in rows] == [row.n for row in whole]


def test_pairs_of_layers():
    network = model()
    rows = measure(network, batches(), ["linear_cka", "procrustes_linearity"]).rows
    assert sorted((row.site, row.layer) for row in rows if row.metric == "linear_cka") == [
        ("residual", layer) for layer in (1, 2, 3)
    ]
    assert all(0 <= row.value <= 1 for row in rows)


def test_comparing_a_model_with_itself_and_with_another():
    same = compare(model(), model(), batches(rows=24))
    assert [row.value for row in same] == pytest.approx([1.0] * len(same), abs=1e-9)
    assert {row.layer for row in same} == {0, 1, 2, 3}
    other = compare(model(), model(seed=1), batches(rows=24), ["linear_cka"])
    assert all(row.value < 0.9 for row in other)


def test_comparing_models_of_different_depth_is_refused():
    with pytest.raises(InputError, match="cannot be compared"):
        compare(model(), model(num_hidden_layers=2), batches())


OWN_METRIC = '''
import torch
from dynamics.metrics.streaming import STATE_SITES, Sums, estimate


class LargestMean(Sums):
    """The largest entry of the mean state."""

    name = "largest_mean"
    sites = STATE_SITES

    def estimate(self, states):
        return estimate(states.mean[:, : states.width].amax(-1), states.n)
'''


def test_a_metric_of_ones_own_is_named_by_its_class_path(tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(OWN_METRIC)
    monkeypatch.syspath_prepend(tmp_path)
    network = model().eval()
    given = batches(size=12)
    values = table(measure(network, given, ["own_metric.LargestMean"]))
    states = network.model(**given[0], output_hidden_states=True).hidden_states
    expected = states[1].double().flatten(0, 1).mean(0).max().item()
    assert values["residual", 1, -1, "largest_mean"] == pytest.approx(expected, rel=1e-5)
    sys.modules.pop("own_metric")


def test_weights_alone_need_no_states():
    network = model()
    values = table(measure(network, batches(), ["qk_symmetry"]))
    attention = network.model.layers[1].attention
    form = (attention.q_proj.weight.T @ attention.k_proj.weight).double()
    expected = (form @ form).trace() / form.square().sum()
    assert values["weight", 2, -1, "qk_symmetry"] == pytest.approx(expected.item(), rel=1e-5)
    assert {key[1] for key in values} == {1, 2, 3}


def test_the_time_of_every_metric_is_booked():
    result = measure(model(), batches(), CHEAP)
    assert result.seconds.keys() == {"forward", *CHEAP}
    assert all(seconds > 0 for seconds in result.seconds.values())


def test_the_default_suite_measures_every_site():
    rows = measure(model(), batches()).rows
    assert {row.site for row in rows} == {"residual", "output", "query", "key", "attention", "weight"}
    assert len({row[:8] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        (["anisotrpy"], "did you mean anisotropy"),
        ({"anisotropy": {"wings": 2}}, "wings"),
        ({"anisotropy": {"sites": ["query"]}}, "not one of residual"),
        ({"anisotropy": {"sites": "residual"}}, r"must be a list, such as \[residual\]"),
        ({"anisotropy": {"schedule": {"always": 1}}}, "every"),
        ({"anisotropy": {"max_tokens": 0}}, "at least 1"),
        ([], "empty"),
        (["anisotropy", "entropy", "anisotropy"], "metrics names anisotropy twice"),
    ],
)
def test_bad_suites_are_refused(spec, word):
    with pytest.raises(InputError, match=word):
        Suite.parse(spec)


def test_a_model_without_what_is_asked_for_is_refused():
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    with pytest.raises(InputError, match="nothing that these metrics"):
        measure(network, [{"input": torch.randn(2, 3, 4)}], ["qk_symmetry"])


def test_no_batch_is_refused():
    with pytest.raises(InputError, match="no batch"):
        measure(model(), [])


def test_what_is_asked_for_and_not_delivered_has_a_reason(caplog):
    config = AutoConfig.for_model(
        "resnet", embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2], layer_type="basic", num_channels=3
    )
    model = AutoModel.from_config(config)
    batch = {"pixel_values": torch.randn(2, 3, 32, 32)}
    result = measure(
        model,
        [batch],
        {
            "mean_norm": {"sites": ["residual"]},
            **dict.fromkeys(["entropy", "sink_mass", "qk_symmetry", "linear_cka"]),
        },
    )
    missing = {(entry.metric, entry.site): entry for entry in result.missing}
    assert missing.keys() == {
        ("entropy", "attention"),
        ("sink_mass", "attention"),
        ("qk_symmetry", "weight"),
        ("linear_cka", "residual"),
    }
    assert missing["entropy", "attention"].layers == missing["qk_symmetry", "weight"].layers == (1, 2)
    assert "softmax" in missing["entropy", "attention"].reason
    assert missing["linear_cka", "residual"].reason == "it holds other tokens than the layer before"
    nan = {(row.metric, row.layer): row.reason for row in result.recorded if math.isnan(row.value)}
    assert nan == {(x.metric, layer): x.reason for x in result.missing for layer in x.layers}
    messages = [record.getMessage() for record in caplog.records]
    assert [message for message in messages if message.startswith("entropy, sink_mass at attention, layer 1, 2")]
    assert len(messages) == 3


def test_a_site_of_which_no_layer_is_known_is_named_without_one():
    meter = Meter(Suite.parse(["mean_norm"]))
    meter.feed("output", 3, States(torch.ones(2, 1, 4), torch.arange(2)))
    meter.note_absent("residual", -1, "nothing came")
    meter.note_absent("output", -1, "nothing came")
    result = meter.compute("run")
    assert [entry[:5] for entry in result.missing] == [("mean_norm", "residual", (), "nothing came", "")]
    assert not any(math.isnan(row.value) for row in result.rows)
    assert [(row.site, row.layer, row.reason) for row in result.recorded if row.reason == "nothing came"] == [
        ("residual", -1, "nothing came")
    ]
