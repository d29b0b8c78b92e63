"""Measuring on the simulated device: the rows of the CPU, and what they cost."""

from functools import partial

import pytest
import torch
from torch.utils._pytree import tree_map

from dynamics.measure import checked, unfinished
from dynamics.measure.compare import compare
from dynamics.measure.difference import differences
from dynamics.measure.measurement import measure
from dynamics.measure.meter import Meter
from dynamics.metrics import names
from dynamics.models.transformer import CharTransformerConfig, CharTransformerLM
from tests.capture.zoo import build, inputs
from tests.gpu.device import Device

METRICS = ["anisotropy", "mean_cosine_across_windows", "intrinsic_dimension", "linear_cka", "drift", "entropy"]
METRICS += ["score_variance", "qk_alignment", "qk_symmetry"]


def rows(model, batches, metrics):
    result = measure(model, batches, metrics, dtype=None, references={})
    return {row[4:8]: (row.value, row.low, row.high, row.n) for row in result.recorded}


def assert_equal(plain, others):
    assert others.keys() == plain.keys()
    for key, values in plain.items():
        assert others[key] == pytest.approx(values, rel=1e-4, abs=1e-5, nan_ok=True), key


def spread(model):
    """Put all but the first layer on a second device, inputs and outputs carried along, as accelerate does."""
    model = model.to("cuda:0")
    for module in [*model.layers[1:], model.norm]:
        module.to("cuda:1")
        module.register_forward_pre_hook(partial(carry, "cuda:1"), with_kwargs=True)
    model.register_forward_hook(lambda module, args, output: carry("cuda:0", module, output))
    return model


def carry(device, module, *values):
    moved = tree_map(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, values)
    return moved[0] if len(moved) == 1 else moved


def test_a_model_on_two_devices_has_the_rows_of_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    monkeypatch.setattr(checked, "_VERDICTS", {})
    model, batches = build("llama"), [inputs("llama")]
    plain = rows(model, batches, sorted(names()))
    apart = [row.value for row in differences(model, None, batches, ["isoscore"])]
    with Device(count=2):
        model = spread(build("llama"))
        assert_equal(plain, rows(model, batches, sorted(names())))
        assert str(checked.checked(model, batches[0], "it", dtype=None)) == "verified"
        assert [row.value for row in differences(model, None, batches, ["isoscore"])] == pytest.approx(apart, rel=1e-4)
        pairs = compare(model, build("llama").to("cuda:0"), batches, ["procrustes_linearity"])
        assert [row.value for row in pairs] == pytest.approx([1.0] * 3, abs=1e-5)


def test_every_metric_has_the_rows_of_the_cpu_and_keeps_tensors_on_the_device(monkeypatch):
    elsewhere, compute = set(), Meter.compute

    def look(meter, *args, **kwargs):
        for *_, group in meter.groups:
            for name in group.states._defaults:
                value = getattr(group.states, name)
                tensors = value if isinstance(value, list) else [value]
                # Numbers may be counted on the host.
                elsewhere.update((type(group.states).__name__, name) for x in tensors if x.ndim and not x.is_cuda)
        return compute(meter, *args, **kwargs)

    plain = rows(build("llama"), [inputs("llama")], sorted(names()))
    with Device() as device:
        assert_equal(plain, rows(build("llama").to("cuda"), [inputs("llama")], sorted(names())))
    assert device.count("nondeterministic") == 0
    # As on several ranks: what a rank alone feeds together is never reduced.
    made = lambda suite, device, batched, share: Meter(suite, device)  # noqa: E731
    monkeypatch.setattr("dynamics.measure.measurement.Meter", made)
    monkeypatch.setattr(Meter, "compute", look)
    with Device():
        assert_equal(plain, rows(build("llama").to("cuda"), [inputs("llama")], sorted(names())))
    assert elsewhere == set()


@pytest.mark.parametrize("name", ["modernbert", "t5", "swin"])
def test_architectures_have_the_rows_of_the_cpu(name):
    plain = rows(build(name), [inputs(name)], METRICS)
    with Device():
        assert_equal(plain, rows(build(name).to("cuda"), [inputs(name)], METRICS))


def test_one_default_measurement_at_tiny():
    shape = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "max_position_embeddings": 128}
    torch.manual_seed(0)
    batches = [{"input_ids": torch.randint(205, (32, 128))}]
    with Device() as device:
        model = CharTransformerLM(CharTransformerConfig(**shape)).to("cuda")
        references = measure(model, batches, references={}).references
        with device.phase("second"):
            measure(model, batches, step=1, references=references)
    counts = {kind: device.count(kind, "second") for kind in ("kernel", "wait", "float64")}
    assert counts["kernel"] <= 1_000
    assert counts["wait"] <= 20
    assert counts["float64"] <= 350


def test_a_measurement_that_was_stopped_goes_on_on_the_device(monkeypatch, tmp_path):
    ids = torch.randint(60, (18, 12), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": part} for part in ids.split(3)]
    shape = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    metrics = {name: {} for name in METRICS} | {"entropy": {"windows": 8}, "intrinsic_dimension": {"size": 40}}
    load = torch.load  # a simulated tensor is saved as one of the CPU, a real one comes back to its GPU
    move = partial(tree_map, lambda x: x.to("cuda") if isinstance(x, torch.Tensor) and x.ndim else x)
    monkeypatch.setattr(torch, "load", lambda *args, **options: move(load(*args, **options)))
    monkeypatch.setattr(unfinished, "LEAST", 0)
    monkeypatch.setattr(unfinished, "REST", 0)

    def stopping():
        yield from batches[:4]
        raise InterruptedError

    class Stopping:
        def __iter__(self):
            return stopping()

    with Device():
        torch.manual_seed(0)
        model = CharTransformerLM(CharTransformerConfig(**shape)).to("cuda")
        whole = measure(model, batches, metrics, references={})
        with pytest.raises(InterruptedError):
            measure(model, Stopping(), metrics, references={}, unfinished=tmp_path / "states.pt")
        monkeypatch.setattr(unfinished, "LEAST", 1e9)
        again = measure(model, batches, metrics, references={}, unfinished=tmp_path / "states.pt")
    assert repr(again.recorded) == repr(whole.recorded)
