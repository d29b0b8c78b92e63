"""A capture is believed where the model itself says the same, and refused where it says otherwise."""

import pytest
import torch
from torch import nn
from transformers import BertModel

from dynamics.capture import AttentionCall, tap
from dynamics.capture.check import REFUSED, UNVERIFIED, VERIFIED, check, sliced
from dynamics.capture.padding import Padding
from dynamics.errors import InputError
from tests.capture.test_function_mode import WIDTH, Block, by_sdpa
from tests.capture.test_tap import encoder_decoder
from tests.capture.zoo import ZOO, build, inputs


@pytest.mark.parametrize("name", ZOO)
def test_every_model_of_the_zoo_is_verified(name):
    verdict = check(build(name), inputs(name))
    assert str(verdict) == VERIFIED, verdict.comparisons
    compared = [row.what for row in verdict.comparisons]
    assert compared[0] == "output"
    assert ("queries, keys, attention" in compared) == bool(ZOO[name].reference)


def test_the_stacks_of_an_encoder_with_a_decoder_are_compared_apart():
    model, batch = encoder_decoder("t5")
    verdict = check(model.eval(), batch)
    assert verdict.word == VERIFIED, str(verdict)
    assert {"encoder states of layers 0 to 2", "decoder states of layers 0 to 1"} <= {
        x.what for x in verdict.comparisons
    }


class Shifted(BertModel):
    """Says that its states are others than those that pass."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        if output.hidden_states:
            output.hidden_states = (*output.hidden_states[:1], *(x + 0.01 for x in output.hidden_states[1:]))
        return output


def test_states_that_disagree_are_refused_by_layer():
    model = Shifted(build("bert").config).eval()
    verdict = check(model, inputs("bert"))
    assert verdict.word == REFUSED
    assert "layer 1 differs by" in str(verdict)
    with pytest.raises(InputError, match=r"what is captured of Bert is not what the model computes .*layer 1 differs"):
        verdict.refuse("Bert")


def test_attention_that_disagrees_is_refused(monkeypatch):
    logits = AttentionCall.logits
    monkeypatch.setattr(AttentionCall, "logits", lambda call, *args: 1.1 * logits(call, *args))
    verdict = check(build("gpt2"), inputs("gpt2"))
    assert verdict.word == REFUSED
    assert "queries, keys, attention: layer 1 differs by" in str(verdict)


def test_padding_that_counts_is_refused(monkeypatch):
    monkeypatch.setattr(Padding, "valid", lambda self, model, b, t, device: torch.ones(b, t, dtype=torch.bool))
    verdict = check(build("bert"), inputs("bert"))
    assert "tokens: 7 are not marked as by attention_mask" in str(verdict)


def test_a_capture_that_changes_the_model_is_refused(monkeypatch):
    model = build("bert")
    held_still = tap.held_still

    def other(model, **options):
        model.encoder.layer[0].output.LayerNorm.weight.data += 0.01
        return held_still(model, **options)

    monkeypatch.setattr(tap, "held_still", other)
    verdict = check(model, inputs("bert"))
    assert "output: it differs by" in str(verdict)


def test_a_module_that_lists_nothing_is_compared_with_itself():
    model = nn.Sequential(Block(by_sdpa), Block(by_sdpa))
    verdict = check(model, {"input": torch.randn(2, 4, WIDTH)})
    assert verdict.word == VERIFIED
    assert [row.against for row in verdict.comparisons][1:] == [
        "what enters the next layer",
        "the weights of its kernels",
    ]


class Between(nn.Module):
    """Changes the states between its layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Block(by_sdpa), Block(by_sdpa)])

    def forward(self, x):
        return self.layers[1](2 * self.layers[0](x))


def test_states_that_nothing_confirms_are_unverified_with_the_reason():
    verdict = check(Between(), {"x": torch.randn(2, 4, WIDTH)})
    assert verdict.word == UNVERIFIED
    assert (
        str(verdict)
        == "unverified: states of layers 0 to 2: the model lists 0 for 2 layers, and nothing confirms layer 1"
    )


def test_the_model_is_left_as_it_was():
    model = build("llama", "eager").train()
    before, random = {name: x.clone() for name, x in model.state_dict().items()}, torch.get_rng_state()
    check(model, inputs("llama"))
    assert model.training
    assert model.config._attn_implementation == "eager"
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_slice_holds_the_most_and_the_least_padded_rows():
    mask = (torch.arange(300)[None] < torch.tensor([200, 300, 40, 100])[:, None]).long()
    part = sliced({"input_ids": torch.arange(1200).view(4, 300), "attention_mask": mask})
    assert part["input_ids"][:, 0].tolist() == [600, 300]
    assert part["attention_mask"].shape == (2, 128)
    assert part["attention_mask"].sum(1).tolist() == [40, 128]
