"""Activation checkpointing: the same training to the bit, with less kept for the gradients."""

import pytest
import torch

from dynamics.errors import InputError
from dynamics.measure.measurement import measure
from dynamics.models.checkpointing import checkpoint_activations
from dynamics.models.regularizers import CosReg
from tests.models.test_architectures import model
from tests.models.test_language import batch
from tests.models.test_language import model as our_model

SETTINGS = {
    "decoder": {"objective": "clm"},
    "encoder": {"objective": "mlm", "is_causal": False},
    "dropout and rope": {"dropout": 0.3, "positions": "rope", "bias": True},
    "compiled": {"compile": True},
    "llama": {"architecture": "llama"},
    "gpt2, dropout": {"architecture": "gpt2", "dropout": 0.3},
    "bert": {"architecture": "bert", "objective": "mlm", "is_causal": False},
}


def train(settings, is_measured=False, autocast=False):
    """Take two steps; return the losses, the weights and the entries that a loss kept for its gradient."""
    settings = {"architecture": "char_transformer", **settings}
    module = (our_model if settings["architecture"] == "char_transformer" else model)(**settings)
    torch.manual_seed(1)
    optimizer, losses, kept = torch.optim.SGD(module.network.parameters(), 0.1), [], []

    def keep(x):
        kept.append(x)  # itself, so that no other takes its place in memory
        return x

    for step in range(2):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", enabled=autocast):
            loss = module.training_step(batch(step), step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        if is_measured:
            ids = {"input_ids": batch().windows[:, :-1]}
            losses += [torch.tensor(row.value) for row in measure(module.network, [ids], ["mean_norm"]).recorded]
    return [*losses, *module.network.parameters()], sum(
        {x.untyped_storage().data_ptr(): x.numel() for x in kept}.values()
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_training_is_the_same_to_the_bit(monkeypatch, name):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **_: compile(*args, fullgraph=True, backend="aot_eager"))
    whole, all_kept = train(SETTINGS[name])
    torch._dynamo.reset()
    again, kept = train({**SETTINGS[name], "activation_checkpointing": True})
    assert all(map(torch.equal, whole, again))
    assert kept < 0.7 * all_kept


@pytest.mark.parametrize("architecture", ["char_transformer", "llama", "gpt2"])
def test_states_are_regularised_and_measured_once(architecture):
    def trained(is_kept):
        settings = {"architecture": architecture, "regularizers": [CosReg(1.0)], "activation_checkpointing": is_kept}
        return train(settings, is_measured=True)[0]

    assert all(map(torch.equal, trained(False), trained(True)))


def test_half_precision_is_the_same_to_the_bit():
    whole, again = (train({"activation_checkpointing": on}, autocast=True)[0] for on in (False, True))
    assert all(map(torch.equal, whole, again))


def test_a_network_without_it_is_refused():
    network = model("llama").network
    type(network).supports_gradient_checkpointing, before = False, type(network).supports_gradient_checkpointing
    try:
        with pytest.raises(InputError, match="transformers has none for LlamaForCausalLM"):
            checkpoint_activations(network)
    finally:
        type(network).supports_gradient_checkpointing = before
