"""Measuring on the simulated device: the rows of the CPU, and what they cost."""

import pytest
import torch

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


def both(name, metrics):
    """Rows of the CPU and of the device."""
    plain = rows(build(name), [inputs(name)], metrics)
    with Device() as device:
        return plain, rows(build(name).to("cuda"), [inputs(name)], metrics), device


def assert_equal(plain, others):
    assert others.keys() == plain.keys()
    for key, values in plain.items():
        assert others[key] == pytest.approx(values, rel=1e-4, abs=1e-5, nan_ok=True), key


def test_every_metric_has_the_rows_of_the_cpu():
    plain, others, device = both("llama", sorted(names()))
    assert_equal(plain, others)
    # Drawn for the bound alone, `kthvalue` has no deterministic kernel.
    assert {event.name for event in device.events if event.kind == "nondeterministic"} <= {"kthvalue"}


@pytest.mark.parametrize("name", ["bert", "modernbert", "t5", "swin", "falcon"])
def test_architectures_have_the_rows_of_the_cpu(name):
    assert_equal(*both(name, METRICS)[:2])


def test_states_of_metrics_are_on_the_device(monkeypatch):
    devices, compute = {}, Meter.compute

    def look(meter, *args, **kwargs):
        for *_, group in meter.groups:
            for name in group.states._defaults:
                value = getattr(group.states, name)
                for x in value if isinstance(value, list) else [value]:
                    if not x.ndim:  # counts may stay on the host: `gathered` takes them to the device of NCCL
                        continue
                    devices[type(group.states).__name__, name] = x.device.type
        return compute(meter, *args, **kwargs)

    monkeypatch.setattr(Meter, "compute", look)
    with Device():
        measure(build("llama").to("cuda"), [inputs("llama")], sorted(names()), dtype=None, references={})
    assert devices
    assert {place for place, device in devices.items() if device != "cuda"} == set()


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
    assert counts["kernel"] <= 15_500  # wanted: 1,500
    assert counts["wait"] <= 2_200  # wanted: 20
    assert counts["float64"] <= 8_700
