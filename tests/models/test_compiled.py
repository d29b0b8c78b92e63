"""The compiled training step: one graph, compiled once. What a graph holds matters here, not the code made of it."""

import functools

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from dynamics.measure.measurement import measure
from dynamics.models.regularizers import CosReg
from tests.models.test_language import batch, model


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are compiled, in the place of their code."""
    torch._dynamo.reset()
    counters.clear()
    backend = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    yield backend
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "clm"},
        {"objective": "mlm", "is_causal": False},
        {"objective": "mlm", "is_causal": True},
        {"objective": "clm", "positions": "rope", "dropout": 0.1},
    ],
    ids=["decoder", "encoder", "causal-mlm", "rope"],
)
def test_a_step_is_one_graph_which_neither_steps_nor_measuring_compile_again(graphs, settings):
    module = model(compile=True, **settings)
    together = torch.stack([batch(step).windows for step in range(5)])  # as a device makes them
    for step in range(3):
        module.training_step(batch(step)._replace(windows=together[step]), step).backward()
    assert graphs.frame_count == 1
    measure(module.network, [{"input_ids": batch().windows[:, :-1]}], ["mean_norm", "entropy"])
    with torch.no_grad():
        module.eval()
        module.validation_step(batch(rows=2), 0)
        module.train()
    for step in range(3, 5):
        module.training_step(batch(step)._replace(windows=together[step]), step).backward()
    assert graphs.frame_count == 1
    assert not counters["graph_break"]


def test_a_regularised_step_is_not_compiled_again(graphs):
    module = model(objective="clm", regularizers=[CosReg(1.0)], compile=True)
    compiled = []
    for step in range(4):
        module.training_step(batch(step), step).backward()
        compiled.append(graphs.frame_count)
    assert compiled[0] == compiled[-1]
