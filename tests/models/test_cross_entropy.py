"""Cross-entropy in parts: the loss and gradients of all logits at once, which are never there."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynamics.models import cross_entropy
from tests.models.test_architectures import SWITCHED, model
from tests.models.test_language import batch
from tests.models.test_language import model as our_model


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that is computed."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        self.entries = max([self.entries, *(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))])
        return out


def small_parts(monkeypatch, positions=16):
    monkeypatch.setattr(cross_entropy, "LARGE", 0)
    monkeypatch.setattr(cross_entropy, "POSITIONS", positions)


def loss_and_gradients(head, states, targets):
    states = states.clone().requires_grad_()
    loss = cross_entropy.cross_entropy(head, states, targets)
    return loss, torch.autograd.grad(3 * loss, [states, *head.parameters()])


@pytest.mark.parametrize("has_bias", [False, True])
def test_parts_give_loss_and_gradients_of_the_whole(monkeypatch, has_bias):
    torch.manual_seed(0)
    head, states, targets = nn.Linear(8, 300, has_bias), 4 * torch.randn(2, 25, 8), torch.randint(300, (2, 25))
    whole, expected = loss_and_gradients(head, states, targets)
    small_parts(monkeypatch)
    with Largest() as largest:
        loss, gradients = loss_and_gradients(head, states, targets)
    assert largest.entries == 16 * 300
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    for gradient, other in zip(gradients, expected, strict=True):
        assert (gradient - other).abs().max() <= 1e-5 * other.abs().max()
    with torch.no_grad():
        assert cross_entropy.cross_entropy(head, states, targets).item() == pytest.approx(whole.item(), rel=1e-6)


def test_under_autocast_products_are_in_half_precision(monkeypatch):
    torch.manual_seed(0)
    head, states, targets = nn.Linear(8, 300), torch.randn(2, 25, 8), torch.randint(300, (2, 25))
    with torch.autocast("cpu", torch.bfloat16):
        whole, expected = loss_and_gradients(head, states, targets)
        small_parts(monkeypatch)
        loss, gradients = loss_and_gradients(head, states, targets)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
    for gradient, other in zip(gradients, expected, strict=True):
        assert gradient.dtype == other.dtype
        assert (gradient - other).abs().max() <= 0.02 * other.abs().max()


@pytest.mark.parametrize(
    ("architecture", "objective"),
    [("ours", "clm"), ("ours, compiled", "mlm"), *((name, "clm") for name in SWITCHED), ("llama", "mlm")],
)
def test_training_is_the_same_in_parts(monkeypatch, architecture, objective):
    def train():
        torch._dynamo.reset()
        is_ours, settings = architecture.startswith("ours"), {"objective": objective}
        compiled = {"compile": True} if "compiled" in architecture else {}
        module = our_model(**settings, **compiled) if is_ours else model(architecture, **settings)
        loss = module.training_step(batch(), 0)
        loss.backward()
        return loss, [p.grad for p in module.network.parameters()]

    if "compiled" in architecture:
        compile = torch.compile
        monkeypatch.setattr(torch, "compile", lambda *args, **_: compile(*args, fullgraph=True, backend="aot_eager"))
    whole, expected = train()
    small_parts(monkeypatch)
    applied, part = [], cross_entropy._InParts.apply
    monkeypatch.setattr(cross_entropy._InParts, "apply", lambda *args: applied.append(1) or part(*args))
    loss, gradients = train()
    assert len(applied) == (0 if "compiled" in architecture else 1)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    for gradient, other in zip(gradients, expected, strict=True):
        # A key bias has a gradient of rounding noise.
        assert gradient is other or (gradient - other).abs().max() <= 1e-5 * other.abs().max() + 1e-9


def test_logits_that_are_changed_after_the_head_are_made_whole():
    assert all(cross_entropy.ends_in_head(model(name).network) for name in SWITCHED)
    assert not cross_entropy.ends_in_head(model("gemma2").network)  # which caps them
