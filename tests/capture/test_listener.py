"""States captured while training are those that are measured, with gradients, and nothing else changes."""

import pytest
import torch
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel

from dynamics.capture import capture
from dynamics.capture.listener import Listener
from dynamics.errors import InputError

SIZES = {
    **{"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2},
    **{"intermediate_size": 16, "max_position_embeddings": 16},
}


@pytest.fixture(params=["bert", "albert"], ids=["own layers", "one layer, shared"])
def model(request):
    torch.manual_seed(0)
    if request.param == "bert":
        return BertModel(BertConfig(**SIZES))
    return AlbertModel(AlbertConfig(embedding_size=4, **SIZES))


IDS = torch.arange(10).view(2, 5)


def test_hears_what_the_metrics_see(model):
    model.eval()
    listener = Listener(model, lambda: model(input_ids=IDS))
    with listener.open() as take:
        model(input_ids=IDS)
    states = take()
    seen = {}
    with capture(model, ["residual"], lambda site, layer, x, valid: seen.update({layer: x.clone()})):
        model(input_ids=IDS)
    assert len(states) == listener.layers == 3
    for layer, x in enumerate(states, start=1):
        assert torch.equal(x, seen[layer])
    states[0].sum().backward()
    assert any(p.grad is not None for p in model.parameters())


def test_finding_the_layers_leaves_no_trace(model):
    model.train()
    before = torch.get_rng_state()
    Listener(model, lambda: model(input_ids=IDS))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_network_that_did_not_run_is_refused(model):
    listener = Listener(model, lambda: model(input_ids=IDS))
    with listener.open() as take:
        pass
    with pytest.raises(InputError, match="0 layers of"):
        take()
