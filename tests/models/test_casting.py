"""The matrices of a training step: cast together, they give the loss and the gradients that autocast gives."""

import pytest
import torch

from dynamics.models import architectures, casting
from dynamics.models.transformer import CharTransformerConfig

IDS = torch.arange(36).view(3, 12) % 30


def gradients(settings, is_training=True):
    """The loss of a network of one block more than are cast together, and the gradients of its weights."""
    shape = {"vocab_size": 30, "hidden_size": 32, "num_attention_heads": 2, "max_position_embeddings": 16}
    config = CharTransformerConfig(**shape, num_hidden_layers=casting.TOGETHER + 1, **settings)
    network = architectures.draw(config, 0).train(is_training)
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(network(IDS).logits.float().flatten(0, 1), IDS.flatten())
    loss.backward()
    return loss, {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("settings", [{}, {"bias": True}, {"positions": "rope", "is_causal": False}])
def test_loss_and_gradients_equal_those_of_autocast_to_the_bit(settings, monkeypatch):
    calls, apply = [], casting._Cast.apply
    monkeypatch.setattr(casting._Cast, "apply", lambda *args: calls.append(1) or apply(*args))
    loss, ours = gradients(settings)
    assert len(calls) == 2
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)  # then autocast casts
        expected, theirs = gradients(settings)
    assert len(calls) == 2
    assert torch.equal(loss, expected)
    assert all(torch.equal(gradient, theirs[name]) for name, gradient in ours.items())
    assert {gradient.dtype for gradient in ours.values()} == {torch.float32}


def test_nothing_is_cast_outside_of_training(monkeypatch):
    monkeypatch.setattr(casting._Cast, "apply", None)
    gradients({}, is_training=False)
