"""The simulated device: CUDA's rules, and what is counted."""

import copy

import pytest
import torch
from torch import nn

from tests.gpu.device import Device


def counted(kind, function, *tensors):
    """What one call books, by name."""
    with Device() as device:
        function(*(x.to("cuda") for x in tensors))
    return [event.name for event, n in device.events.items() for _ in range(n) if event.kind == kind]


X = torch.arange(6.0).view(2, 3)
MOVED = ["copy to the device"]  # the tensor itself


@pytest.mark.parametrize(
    ("function", "waits"),
    [
        (lambda x: x.sum().item(), ["_local_scalar_dense"]),
        (lambda x: bool(x.any()), ["_local_scalar_dense"]),
        (lambda x: float(x.sum()), ["_local_scalar_dense"]),
        (lambda x: x.tolist(), ["copy to the host"]),
        (lambda x: x.cpu(), ["copy to the host"]),
        (lambda x: x.numpy(force=True), ["copy to the host"]),
        (lambda x: x.to("cpu", non_blocking=True), []),
        (lambda x: x[x > 1], ["boolean index"]),
        (lambda x: x[[0, 1]], ["copy to the device"]),
        (lambda x: x[torch.tensor([0])], ["copy to the device"]),
        (lambda x: x[0, 1], []),
        (lambda x: x.masked_fill(x > 1, 0.0), []),
        (lambda x: x.index_put_((x > 1,), torch.tensor(0.0)), []),
        (lambda x: torch.where(x > 1), ["nonzero"]),
        (lambda x: torch.where(x > 1, x, 0.0), []),
        (lambda x: torch.unique(x), ["_unique2"]),
        (lambda x: torch.linalg.eigh(x @ x.T), ["_linalg_eigh"]),
        (lambda x: torch.equal(x, x), ["equal"]),
        (lambda x: x.repeat_interleave(torch.tensor([1, 2], device="cuda"), 0), [*MOVED, "repeat_interleave"]),
        (lambda x: torch.tensor([1.0], device=x.device), ["copy to the device"]),
        (lambda x: torch.zeros(3, device=x.device), []),
        (lambda x: torch.cuda.synchronize(), ["synchronize"]),
        (lambda x: x.to(torch.float64).sum(), []),
    ],
)
def test_waits_are_those_of_sync_debug_mode(function, waits):
    assert counted("wait", function, X) == [*MOVED, *waits]


def test_a_copy_from_pinned_memory_takes_no_wait_and_from_pageable_memory_is_named():
    with Device() as device:
        X.pin_memory().to("cuda", non_blocking=True)
        assert (device.count("wait"), device.count("copy")) == (0, 0)
        X.to("cuda", non_blocking=True)
        assert (device.count("wait"), device.count("copy")) == (0, 1)


def test_views_launch_nothing_and_operations_one_kernel():
    assert counted("kernel", lambda x: x.T[0].view(-1)[None].expand(2, 2).detach(), X) == ["_to_copy"]
    assert counted("kernel", lambda x: (x * 2).sum(), X) == ["_to_copy", "mul", "sum"]
    assert counted("float64", lambda x: x.double() + 1, X) == ["_to_copy", "add"]


def test_devices_do_not_mix():
    with Device(count=2):
        x = X.to("cuda:0")
        assert (x + torch.tensor(1.0)).sum().item() == 21  # a number of the CPU may stand beside
        for other in (X, X.to("cuda:1")):
            with pytest.raises(RuntimeError, match="same device"):
                x + other
        with pytest.raises(TypeError, match="convert cuda:0"):
            x.numpy()


def test_what_has_no_deterministic_kernel_is_counted_and_refused_where_asked(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert counted("nondeterministic", lambda x: (x.kthvalue(1), x.cumsum(0), x.long().cumsum(0)), X) == [
        *("kthvalue", "cumsum")
    ]
    torch.use_deterministic_algorithms(True)
    try:
        with Device(), pytest.raises(RuntimeError, match="deterministic"):
            X.to("cuda").kthvalue(1)
        with Device():
            assert (X.to("cuda") @ X.T.to("cuda")).sum().item() == 83
    finally:
        torch.use_deterministic_algorithms(False)


def network():
    torch.manual_seed(0)
    embedding, head = nn.Embedding(5, 8), nn.Linear(8, 5, bias=False)
    head.weight = embedding.weight
    return nn.Sequential(embedding, nn.LayerNorm(8), nn.Linear(8, 8), head)


def test_training_gives_the_weights_of_the_cpu_and_ties_stay():
    def train(model, ids):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        for _ in range(2):
            loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach().cpu() for p in model.parameters()]

    ids = torch.arange(10).view(2, 5) % 5
    plain = train(network(), ids)
    with Device() as device:
        model = network().to("cuda")
        assert model[0].weight is model[3].weight
        assert copy.deepcopy(model)[0].weight.device == torch.device("cuda:0")
        weights = train(model, ids.to("cuda"))
        model.cpu()
    assert all(map(torch.equal, plain, weights))
    assert sum(n for event, n in device.events.items() if event.name == "_fused_adamw_") == 2
    assert type(model[0].weight) is nn.Parameter


def test_autocast_runs_products_in_half_precision_and_attention_is_one_kernel():
    with Device() as device, torch.autocast("cuda", torch.bfloat16):
        x = torch.randn(1, 2, 4, 8, device="cuda", requires_grad=True)
        mixed = nn.functional.scaled_dot_product_attention(x @ x.mT @ x, x, x, is_causal=True)
        assert mixed.dtype == torch.bfloat16
        mixed.sum().backward()
    names = [event.name for event, n in device.events.items() for _ in range(n) if "attention" in event.name]
    assert len(names) == 4
    assert names.count("attention") == 1


def test_nothing_is_left_behind():
    is_threaded = torch._C._is_multithreading_enabled()
    with Device():
        with torch.inference_mode():
            torch.ones(2, device="cuda").sum()
        assert torch.cuda.is_available()
        assert not torch._C._is_multithreading_enabled()
    assert torch._C._is_multithreading_enabled() == is_threaded
    torch.ones(2, requires_grad=True).sum().backward()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.ones(2, device="cuda:1")
    assert torch.tensor([1.0], device="cpu").device.type == "cpu"


def test_phases_and_lines_are_named():
    with Device() as device:
        x = X.to("cuda")
        with device.phase("work"):
            nn.utils.get_total_norm([x])
    assert device.count("kernel", "work") == device.count("kernel") - 1
    (line,) = {event.line for event in device.events if event.name == "_foreach_norm"}
    assert line.startswith("torch/nn/utils/clip_grad.py:")
