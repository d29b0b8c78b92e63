"""What the capture promises of any model: nothing missed, everything restored."""

import gc
import weakref

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoModel, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from dynamics.capture import capture
from dynamics.capture.hearing import NO_SCORES
from dynamics.errors import InputError
from dynamics.models.transformer import CharTransformerConfig, CharTransformerLM
from tests.capture.zoo import build, inputs


def residuals(model, batch):
    states = {}
    with capture(model, ["residual"], lambda site, layer, x, valid: states.update({layer: x})):
        model(**batch)
    return states


class Broken(nn.Module):
    def forward(self, *_, **__):
        raise ZeroDivisionError


def test_everything_is_put_back_when_a_layer_raises():
    model = build("llama", "eager").train()
    model.layers[0].eval()
    model.layers[1].mlp = Broken()
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    for _ in range(2):  # once while the layers are being found, once with all hooks in place
        with (
            pytest.raises(ZeroDivisionError),
            capture(model, ["residual", "attention"], lambda *_: torch.rand(2), lambda _: torch.rand(2)),
        ):
            model(**inputs("llama"))
        assert [module.training for module in model.modules()] == modes
        assert model.config._attn_implementation == "eager"
        assert model.config.use_cache is True
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.is_grad_enabled()
        assert torch.backends.mha.get_fastpath_enabled()
        assert torch.overrides._get_current_function_mode() is None
        model.layers[1].mlp = nn.Identity()
        residuals(model, inputs("llama"))
        model.layers[1].mlp = Broken()


def test_a_consumer_that_raises_is_heard_and_leaves_nothing_behind():
    model = build("bert")
    with pytest.raises(ZeroDivisionError), capture(model, ["attention"], on_attention=lambda _: 1 / 0):
        model(**inputs("bert"))
    assert torch.overrides._get_current_function_mode() is None
    assert len(residuals(model, inputs("bert"))) == 3


def squared(module, query, key, value, mask, scaling=None, dropout=0.0, **_):
    """Attention of its own: logits times their absolute value."""
    logits = (query @ key.transpose(-1, -2)) * scaling
    logits = logits * logits.abs()
    weights = (logits if mask is None else logits + mask).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def unheard(*args, **kwargs):
    with torch._C.DisableTorchFunction():
        return sdpa_attention_forward(*args, **kwargs)


def test_an_attention_function_of_ones_own_is_measured_as_it_runs():
    AttentionInterface.register("squared", squared)
    AttentionMaskInterface.register("squared", eager_mask)
    model, calls, states = build("gpt_neox"), [], {}
    model.set_attn_implementation("squared")
    with torch.no_grad():
        true = model(**inputs("gpt_neox"), output_attentions=True, output_hidden_states=True)
    with capture(model, ["attention", "residual"], lambda site, at, *x: states.update({at: x}), calls.append):
        model(**inputs("gpt_neox"))
    assert model.config._attn_implementation == "squared"
    for call, weights in zip(calls, true.attentions, strict=True):
        error = (call.logits(0, 11).softmax(-1) - weights).abs().amax((1, 3))
        assert error[call.valid].max() < 1e-5
    x, valid = states[1]
    torch.testing.assert_close(x[valid], true.hidden_states[1][valid])


def test_an_attention_function_that_hides_its_scores_is_named_and_not_replaced():
    AttentionInterface.register("unheard", unheard)
    AttentionMaskInterface.register("unheard", sdpa_mask)
    model, layers = build("whisper"), []
    model.set_attn_implementation("unheard")
    with (
        pytest.raises(InputError, match="no softmax over products"),
        capture(model, ["attention"], on_attention=print),
    ):
        model(**inputs("whisper"))
    with capture(model, ["attention", "residual"], lambda *x: layers.append(x[1]), print) as tap:
        model(**inputs("whisper"))
    assert layers == [0, 1, 2]
    assert tap.unheard == dict.fromkeys([("", 1), ("", 2)], NO_SCORES)
    assert model.config._attn_implementation == "unheard"


@pytest.mark.parametrize("name", ["flex_attention", "flash_attention_2"])
def test_kernels_that_compute_the_same_are_replaced_for_the_time(name, monkeypatch):
    model, calls = build("llama"), []
    with capture(model, ["attention"], on_attention=calls.append):
        model(**inputs("llama"))
    monkeypatch.setattr(model.config, "_attn_implementation_internal", name)
    with capture(model, ["attention"], on_attention=calls.append):
        model(**inputs("llama"))
    assert model.config._attn_implementation == name
    assert torch.equal(calls[0].logits(0, 11), calls[2].logits(0, 11))


def test_parts_with_implementations_of_their_own_get_them_back():
    wrapper = nn.ModuleDict({"first": build("bert", "eager"), "second": build("bert", "sdpa")})
    wrapper.forward = lambda **batch: [part(**batch) for part in wrapper.values()]
    calls, stacks = [], []
    with capture(wrapper, ["attention"], on_attention=calls.append, on_stack=stacks.append) as tap:
        wrapper(**inputs("bert"))
    assert [call.layer for call in calls] == [1, 2, 1, 2]
    assert stacks == ["first", "first", "second", "second"]
    assert tap.layers == 4
    assert calls[0].valid.sum() == inputs("bert")["attention_mask"].sum()
    assert [part.config._attn_implementation for part in wrapper.values()] == ["eager", "sdpa"]


@pytest.mark.parametrize("how", ["whole", "in place", "children"])
def test_a_compiled_model_is_measured_uncompiled_and_stays_compiled(how):
    frames = []

    def backend(graph, _):
        frames.append(graph)
        return graph.forward

    model, batch = build("llama"), {"input_ids": inputs("llama")["input_ids"]}
    wanted = residuals(build("llama"), batch)
    if how == "whole":
        run = torch.compile(model, backend=backend)
    else:
        run = model
        for module in [model] if how == "in place" else model.layers:
            module.compile(backend=backend)
    with torch.no_grad():
        before = run(**batch).last_hidden_state
        compiled = len(frames)
        states = residuals(run, batch)
        assert torch.equal(run(**batch).last_hidden_state, before)
    assert compiled > 0
    assert len(frames) == compiled
    assert states.keys() == wanted.keys()
    for layer, x in states.items():
        torch.testing.assert_close(x, wanted[layer])


def test_a_head_on_top_changes_nothing():
    config = build("llama").config
    model = LlamaForCausalLM(config)
    states, batch = {}, inputs("llama")
    with capture(model, ["output", "query"], lambda *x: states.update({x[:2]: x[2]}), lambda call: None) as tap:
        model(**batch, labels=batch["input_ids"])
    with torch.no_grad():
        assert torch.equal(states["output", 2], model.model.eval()(**batch).last_hidden_state)
    assert tap.layout.blocks == ("model.layers.0", "model.layers.1")


def test_two_batches_in_one_capture_share_one_search():
    model, shapes = build("gpt2"), []
    ids = torch.randint(5, 60, (2, 9))
    with capture(model, ["residual"], lambda site, layer, x, valid: shapes.append((layer, *x.shape))) as tap:
        model(ids)
        model(input_ids=ids[:1, :5])
    assert tap.passes == 2
    assert shapes == [(layer, b, t, 32) for b, t in ((2, 9), (1, 5)) for layer in range(3)]


def test_unpadded_causal_text_needs_no_mask():
    model, calls = build("qwen3"), []
    with capture(model, ["attention"], on_attention=calls.append):
        model(torch.randint(5, 60, (2, 9)))
    for call in calls:
        assert (call.mask, call.is_causal, call.groups) == (None, True, 4)
        hidden = call.logits(0, 9).isinf()
        assert torch.equal(hidden[0, 0], torch.ones(9, 9).triu(1).bool())


@pytest.mark.parametrize("mask", [None, torch.tensor([[1], [1]]), torch.tensor([[1], [0]])])
def test_one_token_with_shared_key_heads(mask):
    model, calls = build("qwen3"), []
    with capture(model, ["attention"], on_attention=calls.append):
        model(torch.tensor([[7], [9]]), attention_mask=mask)
    assert [(call.query.shape, call.key.shape) for call in calls] == [((2, 4, 1, 8), (2, 1, 1, 8))] * 2
    assert all(call.logits(0, 1).shape == (2, 4, 1, 1) for call in calls)


def encoder_decoder(name):
    if name == "t5":
        config = build("t5").config
        config.is_encoder_decoder, config.num_decoder_layers = True, 1
        model = AutoModel.from_config(config)
        batch = {**inputs("t5"), "decoder_input_ids": torch.randint(5, 60, (3, 4))}
    else:
        config = build("whisper").config
        model = AutoModel.from_config(config)
        batch = {**inputs("whisper"), "decoder_input_ids": torch.randint(5, 60, (2, 4))}
    return model, batch


@pytest.mark.parametrize("name", ["t5", "whisper"])
def test_encoder_and_decoder_are_numbered_apart(name):
    model, batch = encoder_decoder(name)
    states, current = {}, []

    def on_states(site, layer, x, valid):
        states[current[-1], site, layer] = x

    with capture(model, ["residual", "output"], on_states, on_stack=current.append) as tap:
        model(**batch)
    assert tap.layout.depths == {"encoder": 2, "decoder": 1}
    with torch.no_grad():
        hidden = model.eval()(**batch, output_hidden_states=True)
    for layer in range(2):
        torch.testing.assert_close(states["encoder", "residual", layer], hidden.encoder_hidden_states[layer])
    torch.testing.assert_close(states["encoder", "output", 2], hidden.encoder_last_hidden_state)
    torch.testing.assert_close(states["decoder", "residual", 0], hidden.decoder_hidden_states[0])
    torch.testing.assert_close(states["decoder", "output", 1], hidden.last_hidden_state)
    assert len(states) == 7


def test_several_stacks_are_refused_by_consumers_that_would_chain_them():
    model, batch = encoder_decoder("t5")
    with pytest.raises(InputError, match=r"several stacks of layers \(encoder, decoder\)"):
        residuals(model, batch)


@pytest.mark.parametrize("name", ["t5", "whisper"])
def test_cross_attention_is_heard_only_on_demand(name):
    model, batch = encoder_decoder(name)
    self_attention, everything, stacks = [], [], []
    with capture(model, ["attention"], on_attention=self_attention.append, on_stack=stacks.append) as tap:
        model(**batch)
    with capture(model, ["attention"], on_attention=everything.append, on_stack=stacks.append, cross=True):
        model(**batch)
    assert tap.layers == 3
    assert [(call.layer, call.cross) for call in self_attention] == [(1, False), (2, False), (1, False)]
    assert [(call.layer, call.cross) for call in everything] == [(1, 0), (2, 0), (1, 0), (1, 1)]
    last = everything[-1]
    assert last.key.shape[2] != last.query.shape[2]
    assert last.valid.all()
    assert last.valid.shape == (len(batch["decoder_input_ids"]), 4)


def test_local_attention_comes_in_chunks_that_cover_the_layer():
    model, calls = build("canine"), []
    with capture(model, ["attention"], on_attention=calls.append):
        model(**inputs("canine"))
    first = [call for call in calls if call.layer == 1]
    assert len(first) == 4
    assert torch.equal(torch.cat([call.valid for call in first], 1), inputs("canine")["attention_mask"].bool())


def test_refusals_say_what_is_wrong():
    model, linear = build("bert"), nn.Linear(2, 2)

    def run(module, sites, *consumers, x=None):
        with capture(module, sites, *consumers):
            return None if x is None else module(x)

    with pytest.raises(InputError, match="got atention"):
        run(model, ["atention"], print)
    with pytest.raises(InputError, match="need on_states"):
        run(model, ["residual"])
    with pytest.raises(InputError, match="BertModel was not run"):
        run(model, ["residual"], print)
    with pytest.raises(InputError, match="No layers were found in Linear"):
        run(linear, ["output"], print, x=torch.randn(1, 3, 2))


def test_a_hidden_attention_is_named():
    """A layer whose attention the capture cannot see after the search."""
    model = build("bert")
    residuals(model, inputs("bert"))
    attention = model.encoder.layer[1].attention.self
    visible = attention.forward

    def hidden(*args, **kwargs):
        with torch._C.DisableTorchFunction():
            return visible(*args, **kwargs)

    attention.forward = hidden
    with (
        pytest.raises(InputError, match="no attention of BertModel was captured in layers 2"),
        capture(model, ["attention"], on_attention=lambda _: None),
    ):
        model(**inputs("bert"))


def test_a_pass_that_runs_other_layers_is_refused():
    model = build("albert")
    residuals(model, inputs("albert"))
    model.config.num_hidden_layers = 2
    with pytest.raises(InputError, match="2 layers of AlbertModel ran where 3"):
        residuals(model, inputs("albert"))
    assert len(residuals(model, inputs("albert"))) == 3


def test_measured_models_can_be_freed():
    model = build("gpt2")
    residuals(model, inputs("gpt2"))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_our_own_transformer(is_causal, padded):
    config = CharTransformerConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        positions="rope",
        qk_norm=True,
        is_causal=is_causal,
    )
    model = CharTransformerLM(config).train()
    batch = inputs("bert") if padded else {"input_ids": inputs("bert")["input_ids"]}
    calls, states, true = [], {}, []

    def on_states(site, layer, x, valid):
        states[site, layer] = x

    with capture(model, ["residual", "output", "attention"], on_states, calls.append) as tap:
        model(**batch)
    model.eval().set_attn_implementation("eager")
    for layer in model.model.layers:
        layer.attention.register_forward_hook(lambda module, args, output: true.append(output[1]))
    with torch.no_grad():
        hidden = model(**batch, output_hidden_states=True).hidden_states
        last = model.model(**batch).last_hidden_state
    assert tap.heads == (4, 4)
    for call, weights in zip(calls, true[:2], strict=True):
        error = (call.logits(0, 11).softmax(-1) - weights).abs().amax((1, 3))
        assert error[call.valid].max() < 1e-6
        assert call.valid.sum() == (23 if padded else 33)
        assert call.is_causal == (is_causal and not padded)
    real = calls[0].valid
    for layer in range(3):
        torch.testing.assert_close(states["residual", layer][real], hidden[layer][real], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(states["output", 2][real], last[real], rtol=1e-5, atol=1e-5)
