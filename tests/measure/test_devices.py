"""Models whose layers lie on several devices, or are offloaded; devices without float64."""

import copy

import pytest
import torch
from torch import nn

from dynamics.capture import AttentionCall, input_device
from dynamics.capture.reference import difference, nearest
from dynamics.errors import InputError
from dynamics.measure import checked, measure, measurement
from dynamics.measure.checked import checked as check
from dynamics.measure.compare import compare
from dynamics.measure.measurement import exact
from dynamics.measure.meter import Meter
from dynamics.measure.suite import Suite
from tests.measure.test_measurement import batches, model, table

META = torch.device("meta")  # stands for any other device: it takes part in no operation with the CPU
METRICS = ["anisotropy", "mean_norm", "entropy", "qk_alignment", "drift", "linear_cka", "intrinsic_dimension"]


def offloaded(network, names):
    """A copy of a network as accelerate offloads it: some weights exist while their module runs, and not before."""
    network = copy.deepcopy(network)
    for name, module in network.named_modules():
        if not name.startswith(names):
            continue
        weights = dict(module.named_parameters(recurse=False))
        if not weights:
            continue

        def show(module, *_, weights=weights):
            module._parameters.update(weights)

        def hide(module, *_, weights=weights):
            module._parameters.update({key: nn.Parameter(value.to(META)) for key, value in weights.items()})

        hide(module)
        module.register_forward_pre_hook(show)
        module.register_forward_hook(hide)
    return network


@pytest.fixture
def fed(monkeypatch):
    """What a meter is fed with, by site and layer."""
    calls = {}
    monkeypatch.setattr(Meter, "feed", lambda meter, site, layer, batch: calls.update({(site, layer): batch}))
    return calls


def test_window_numbers_and_pairs_are_where_the_states_are(fed):
    meter = Meter(Suite.parse(["mean_norm", "linear_cka", "entropy", "drift"]))
    ids = torch.arange(12).view(3, 4)
    meter.begin_batch({"input_ids": ids})
    valid = torch.ones(3, 4, dtype=torch.bool)
    for layer, device in enumerate(("cpu", "meta", "meta")):
        meter.on_states("residual", layer, torch.ones(3, 4, 8, device=device), valid)
        x = torch.ones(3, 2, 4, 8, device=device)
        if layer:
            meter.on_attention(AttentionCall(layer, x, x, 1.0, None, False, valid))
    assert {part.device.type for part in fed["residual", 0]} == {"cpu"}
    elsewhere = [fed["residual", 1], fed["pair", 1], fed["pair", 2], fed["query", 1], fed["key", 2]]
    assert {part.device for batch in elsewhere for part in batch} == {META}
    assert fed["attention", 1].windows.device == META


def test_references_are_taken_from_the_host():
    network, inputs = model(), batches()
    references = measure(network, inputs, ["drift", "cka_to_start"], references={}).references
    assert references
    assert {x.device.type for x in references.values()} == {"cpu"}


def test_captured_tensors_are_compared_with_the_models_own_wherever_these_are(monkeypatch):
    x, to, moves = torch.ones(2, 3, 4), torch.Tensor.to, []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args: moves.append(args) or to(self, *args))
    assert difference(x, x + 1) == 0.5
    assert nearest(x, torch.ones(2, 3, dtype=torch.bool), x) == 0
    assert moves.count((x.device,)) >= 3


@pytest.mark.parametrize("names", ["model.layers.1", "model.embed_tokens", ("model.layers", "model.final_norm")])
def test_offloaded_weights_change_no_row(names):
    network, inputs = model(), batches()
    away = offloaded(network, names)
    assert any(x.is_meta for x in away.parameters())
    rows = table(measure(away, inputs, METRICS, references={}))
    assert rows == table(measure(network, inputs, METRICS, references={}))
    assert [row.value for row in compare(away, network, inputs)] == pytest.approx([1.0] * 8)


def test_offloaded_weights_are_checked_as_others(monkeypatch, tmp_path):
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    monkeypatch.setattr(checked, "_VERDICTS", {})
    assert str(check(offloaded(model(), "model.layers"), batches()[0], "it")) == "verified"


def test_weights_that_are_not_there_are_named_as_missing():
    result = measure(offloaded(model(), "model.layers"), batches(), ["qk_symmetry", "mean_norm"])
    (missing,) = result.missing
    assert (missing.metric, missing.layers, missing.reason) == (
        "qk_symmetry",
        (1, 2, 3),
        "the model's weights are offloaded",
    )


def test_offloaded_weights_are_not_converted():
    away = offloaded(model().to(torch.bfloat16), "model.layers.1")
    with pytest.raises(InputError, match=r"offloaded and not in torch\.float32: load it in that precision"):
        measure(away, batches(), ["mean_norm"])
    assert measure(away, batches(), ["mean_norm"], dtype=None).rows


def test_inputs_go_to_the_first_weight_that_is_there():
    network = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2))
    assert input_device(network) == torch.device("cpu")
    assert input_device(network[0]) == input_device(nn.Identity()) == torch.device("cpu")


def test_a_device_without_float64_is_measured_on_the_cpu(monkeypatch):
    network, inputs = model(), batches()
    rows = table(measure(network, inputs, ["anisotropy", "qk_symmetry"]))
    monkeypatch.setattr(measurement, "WITHOUT_FLOAT64", {"cpu"})
    with exact(network, None) as other:
        assert other is not network
        assert input_device(other) == torch.device("cpu")
    assert table(measure(network, inputs, ["anisotropy", "qk_symmetry"])) == rows


def test_autocast_is_off_on_every_device_of_the_model():
    with torch.autocast("cpu", dtype=torch.bfloat16), exact(offloaded(model(), ""), None):
        assert not torch.is_autocast_enabled("cpu")
