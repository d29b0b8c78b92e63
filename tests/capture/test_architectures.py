"""Every architecture gives its exact attention and states, and is left as it was."""

import copy

import pytest
import torch
import torch.nn.functional as F

from dynamics.capture import ATTENTION_SITES, STATE_SITES, AttentionCall, capture
from dynamics.errors import InputError
from tests.capture.zoo import ZOO, build, inputs

WITH_ATTENTION = [name for name, tiny in ZOO.items() if tiny.reference]
WITHOUT = [name for name, tiny in ZOO.items() if not tiny.reference]


def weights(call: AttentionCall) -> torch.Tensor:
    return call.logits(0, call.query.shape[2]).softmax(-1)


def listen(name, model=None):
    """The calls, the states by (site, layer), the output and the tap of one captured pass."""
    model = build(name) if model is None else model
    calls, states = [], {}
    sites = STATE_SITES | (ATTENTION_SITES if ZOO[name].reference else set())
    with capture(model, sites, lambda site, layer, *x: states.update({(site, layer): x}), calls.append) as tap:
        output = model(**inputs(name))
    return calls, states, output, tap


def true_weights(name, monkeypatch):
    """The attention weights that the model itself uses, in the order of its calls."""
    reference, batch, true = ZOO[name].reference, inputs(name), []
    if reference == "attentions":
        with torch.no_grad():
            return list(build(name, "eager")(**batch, output_attentions=True).attentions)
    softmax, sdpa = F.softmax, F.scaled_dot_product_attention

    def spy_softmax(*args, **kwargs):
        true.append(softmax(*args, **kwargs))
        return true[-1]

    def spy_sdpa(query, key, value, **kwargs):
        # what is attended to is told by attending to one-hot values
        keys = torch.eye(key.shape[2]).expand(*key.shape[:2], -1, -1)
        true.append(sdpa(query, key, keys, **kwargs))
        return sdpa(query, key, value, **kwargs)

    monkeypatch.setattr(F, "softmax", spy_softmax)
    if reference == "sdpa":
        monkeypatch.setattr(F, "scaled_dot_product_attention", spy_sdpa)
    with torch.no_grad():
        build(name, "eager" if name == "swin" else None)(**batch)
    monkeypatch.undo()
    return true


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_attention_is_exact(name, monkeypatch):
    calls, _, _, _ = listen(name)
    true = true_weights(name, monkeypatch)
    assert len(calls) == len(true)
    for call, weight in zip(calls, true, strict=True):
        ours = weights(call)
        assert ours.shape == weight.shape
        error = (ours - weight).abs().amax((1, 3))[call.valid]
        assert call.valid.any()
        assert error.max() < 1e-5


def additive(mask):
    """A mask as it is added to the logits: what a boolean one hides is -inf."""
    return mask if mask.dtype != torch.bool else torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_logits_are_made_of_queries_keys_and_bias(name):
    for call in listen(name)[0]:
        assert call.query.shape[:2] == (call.valid.shape[0], ZOO[name].heads[call.layer - 1])
        product = call.scaling * call.query @ call.expanded_key().transpose(-1, -2)
        logits = call.logits(0, call.query.shape[2])
        if call.scores is None:
            rebuilt = product if call.mask is None else product + additive(call.mask)
        elif name in ("bloom", "mpt"):
            # alibi: the same for all queries up to a constant, which softmax does not see
            rebuilt = product + (logits - product)[:, :, -1:]
        else:
            rebuilt = product
        seen = logits.isfinite() & call.valid[:, None, :, None]
        assert seen.any()
        torch.testing.assert_close(rebuilt[seen], logits[seen], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["opt", "whisper", "bert", "t5"])
def test_queries_are_what_the_projection_gives(name):
    """Models that scale their queries beforehand are brought to the form of the others."""
    model, projected = build(name), []
    for module in model.modules():
        for attribute in ("q_proj", "query", "q"):
            if hasattr(module, attribute):
                getattr(module, attribute).register_forward_hook(lambda module, x, y: projected.append(y))
    calls = []
    with capture(model, ["query"], on_attention=calls.append):
        model(**inputs(name))
    for call, query in zip(calls, projected[-2:], strict=True):
        torch.testing.assert_close(call.query.transpose(1, 2).flatten(2), query)
        assert call.scaling == pytest.approx(1.0 if name == "t5" else 8**-0.5)


@pytest.mark.parametrize("name", ZOO)
def test_layers_and_states(name):
    tiny = ZOO[name]
    model = build(name)
    _, states, output, tap = listen(name, model)
    depth = len(tiny.heads)
    assert (tap.layers, tap.heads, tap.passes) == (depth, tiny.heads, 1)
    assert tap.has_attention == bool(tiny.reference)
    assert {type(model.get_submodule(block)).__name__ for block in tap.layout.blocks} == {tiny.block}
    assert set(states) == {("residual", layer) for layer in range(depth + 1)} | {("output", depth)}

    def near(site, layer, wanted):
        x, valid = states[site, layer]
        wanted = wanted.flatten(2).transpose(1, 2) if wanted.ndim == 4 else wanted
        assert x.shape == wanted.shape
        assert valid.shape == x.shape[:2]
        torch.testing.assert_close(x[valid], wanted[valid], rtol=2e-6, atol=2e-6)

    near("output", depth, output.last_hidden_state)
    if tiny.hidden != "none":
        with torch.no_grad():
            hidden = model(**inputs(name), output_hidden_states=True).hidden_states
        assert len(hidden) == depth + 1
        for layer in range(depth + (tiny.hidden == "all")):
            near("residual", layer, hidden[layer])


@pytest.mark.parametrize("name", ZOO)
def test_padding_reaches_every_layer(name):
    """What a state of a real token is does not depend on how far its batch was padded."""
    batch = inputs(name)
    _, states, _, _ = listen(name)
    mask = batch.get("attention_mask")
    x, valid = states["residual", 0]
    if mask is None:
        assert valid.all()
    elif mask.shape == valid.shape:
        assert torch.equal(valid, mask.bool())
    else:
        # speech: two strided convolutions, or one of stride 2
        lengths = mask.sum(1)
        lengths = ((lengths - 8) // 4 + 1 - 4) // 4 + 1 if "input_values" in batch else (lengths + 1) // 2
        assert torch.equal(valid.sum(1), lengths)
        assert torch.equal(valid, torch.arange(x.shape[1])[None] < lengths[:, None])


@pytest.mark.parametrize("name", ZOO)
def test_the_model_is_left_as_it_was(name):
    model = build(name)
    with torch.no_grad():
        before = model(**inputs(name)).last_hidden_state
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.train()
    next(iter(model.children())).eval()
    modes = [module.training for module in model.modules()]
    weights = copy.deepcopy(model.state_dict())
    config = copy.deepcopy(model.config.to_dict())
    implementation, random = model.config._attn_implementation, torch.get_rng_state()

    def consumer(*_):
        torch.rand(3)

    with capture(model, ["residual", "output", "attention"], consumer, consumer):
        inside = model(**inputs(name)).last_hidden_state
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert model.config._attn_implementation == implementation
    assert model.config.to_dict() == config
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key]), key
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    torch.testing.assert_close(inside, before, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", WITHOUT)
def test_a_model_without_attention_is_refused_attention_alone(name):
    model = build(name)
    with (
        pytest.raises(InputError, match=f"{type(model).__name__} computes no attention"),
        capture(model, ["query", "key"], on_attention=print),
    ):
        model(**inputs(name))
    captured = []
    with capture(model, ["residual", "attention"], lambda *x: captured.append(x), captured.append) as tap:
        model(**inputs(name))
    assert len(captured) == tap.layers + 1


def test_falcon_is_never_measured_on_its_eager_path():
    """It adds its alibi twice there."""
    eager, sdpa = (listen("falcon", build("falcon", implementation)) for implementation in ("eager", "sdpa"))
    for ours, true in zip(eager[0], sdpa[0], strict=True):
        assert torch.equal(weights(ours), weights(true))
