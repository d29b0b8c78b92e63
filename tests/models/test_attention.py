"""Attention in bfloat16 on a CPU, against sdpa in float32: its output, its gradients, and through torch.compile."""

import pytest
import torch

from dynamics.models import attention, transformer
from dynamics.models.transformer import CharTransformerConfig, CharTransformerLM


@pytest.mark.parametrize("is_causal", [True, False])
def test_output_and_gradients_are_those_of_sdpa(is_causal):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 70, 3, 16).bfloat16().transpose(1, 2).requires_grad_() for _ in range(3)]
    exact = [x.detach().float().requires_grad_() for x in inputs]
    gradient = torch.randn(2, 70, 3, 16)
    ours = attention.attend(*inputs, is_causal, 0.2)
    ours.backward(gradient.bfloat16())
    theirs = torch.nn.functional.scaled_dot_product_attention(*exact, is_causal=is_causal, scale=0.2)
    theirs.backward(gradient.transpose(1, 2))
    torch.testing.assert_close(ours.float(), theirs.transpose(1, 2), rtol=0, atol=0.02)
    for x, y in zip(inputs, exact, strict=True):
        assert x.grad.dtype == torch.bfloat16
        torch.testing.assert_close(x.grad.float(), y.grad, rtol=0.02, atol=0.03)


def network():
    torch.manual_seed(0)
    config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 12}
    return CharTransformerLM(CharTransformerConfig(vocab_size=20, **config))


@pytest.mark.parametrize("is_training", [True, False])
def test_it_is_for_training_alone_and_is_one_graph(monkeypatch, is_training):
    calls, attend = [], attention.attend
    monkeypatch.setattr(transformer.attention, "attend", lambda *args: calls.append(1) or attend(*args))
    ids = torch.arange(12)[None]
    model = network().train(is_training)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(ids).logits
    assert bool(calls) == is_training
    monkeypatch.undo()
    compiled = torch.compile(lambda x: model(x).logits, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        got = compiled(ids)
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.01)
    got.sum().backward()
    assert model.model.layers[0].attention.q_proj.weight.grad.isfinite().all()
