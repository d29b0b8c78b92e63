"""Query and key projections are found in any layout, and only where there are any."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, AutoModel

from dynamics.capture import capture
from dynamics.capture.weights import find_weights, layer_weights
from dynamics.metrics.qk_symmetry import QkSymmetry
from dynamics.metrics.streaming.base import Weights
from dynamics.models.transformer import CharTransformer, CharTransformerConfig
from tests.capture.zoo import ZOO, build, inputs

ROTARY = {"modernbert", "llama", "mistral", "qwen3", "gpt_neox", "gptj", "falcon_rotary"}
WITHOUT = {"segformer": {1}, "pvt_v2": {1}, "cvt": {1, 2, 3}}
"""Layers whose keys are not those of the tokens: pooled, or convolved."""


def captured_calls(model, batch):
    """The first attention call of every layer and what its attention module was given."""
    with capture(model, ["residual"], lambda *_: None) as tap:
        model(**batch)
    calls, latest = {}, []

    def note(module, args, kwargs):
        latest.append(next(x for x in (*args, *kwargs.values()) if x.is_floating_point() and x.ndim == 3))

    attentions = [model.get_submodule(name) for name in tap.layout.attentions]
    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in attentions]
    with capture(model, ["query"], on_attention=lambda call: calls.setdefault(call.layer, (call, latest[-1]))):
        model(**batch)
    for hook in hooks:
        hook.remove()
    return calls


@pytest.mark.parametrize("name", ZOO)
def test_projections_give_the_captured_queries_and_keys(name):
    model, batch = build(name), inputs(name)
    projections = layer_weights(model, batch)
    layers = {layer for layer, heads in enumerate(ZOO[name].heads, start=1) if heads}
    assert set(projections) == layers - WITHOUT.get(name, set())
    if not projections:
        return
    calls = captured_calls(model, batch)
    for layer, weights in projections.items():
        call, x = calls[layer]
        norms = [nn.Identity(), nn.Identity()]
        if name == "qwen3":
            norms = [model.layers[layer - 1].self_attn.q_norm, model.layers[layer - 1].self_attn.k_norm]
        for weight, norm, true in zip(weights, norms, (call.query, call.key), strict=True):
            assert weight.shape == (true.shape[1], true.shape[3], x.shape[2])
            with torch.no_grad():
                ours = norm(torch.einsum("btd,hkd->bhtk", x, weight))
            if name in ROTARY:  # position 0 is not rotated
                ours, true = ours[:, :, :1], true[:, :, :1]
            bias = (true - ours)[:1, :, :1]
            torch.testing.assert_close(ours + bias, true, rtol=1e-5, atol=1e-5 * float(true.abs().max()))


@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon", "canine"])
def test_symmetry_is_that_of_the_form_written_out(name):
    model = build(name)
    for query, key in layer_weights(model, inputs(name)).values():
        metric = QkSymmetry()
        metric.update(Weights(query, key))
        scores, total = metric.compute().value, 0
        for head, w in enumerate(query.double()):
            form = w.T @ key.double()[head * len(key) // len(query)]
            total = total + form
            assert scores[head] == pytest.approx(float((form @ form).trace() / form.norm() ** 2), abs=1e-12)
        assert scores[-1] == pytest.approx(float((total @ total).trace() / total.norm() ** 2), abs=1e-12)


def test_layouts_known_from_their_papers():
    """Apart with shared keys; fused and transposed; by head; many queries before one key."""
    expected = {
        "llama": lambda m: (m.layers[1].self_attn.q_proj.weight, m.layers[1].self_attn.k_proj.weight),
        "gpt2": lambda m: m.h[1].attn.c_attn.weight.T.chunk(3)[:2],
        "gpt_neox": lambda m: m.layers[1].attention.query_key_value.weight.view(4, 3, 8, 32)[:, :2].unbind(1),
        "falcon": lambda m: m.h[1].self_attention.query_key_value.weight[:40].split([32, 8]),
        "t5": lambda m: (
            m.block[1].layer[0].SelfAttention.q.weight,
            m.block[1].layer[0].SelfAttention.k.weight,
        ),
    }
    for name, weights in expected.items():
        model = build(name)
        part = model.encoder if name == "t5" else model
        for ours, true in zip(layer_weights(model, inputs(name))[2], weights(part), strict=True):
            assert torch.equal(ours, true.reshape(ours.shape)), name


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
@pytest.mark.parametrize("positions", ["learned", "rope", "none"])
@pytest.mark.parametrize(("qk_norm", "bias"), [(False, False), (True, False), (True, True)])
def test_our_own_transformer(norm, positions, qk_norm, bias):
    config = CharTransformerConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=8,
        norm=norm, positions=positions, qk_norm=qk_norm, bias=bias,
    )  # fmt: skip
    model = CharTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))  # gains of both signs, biases
    projections = layer_weights(model, {"input_ids": torch.randint(20, (2, 7))})
    assert list(projections) == [1, 2]
    for layer, block in enumerate(model.layers, start=1):
        for ours, linear in zip(projections[layer], (block.attention.q_proj, block.attention.k_proj), strict=True):
            assert torch.equal(ours.flatten(0, 1), linear.weight)


class Odd(nn.Module):
    """A layer with its own layout; `change` does something to queries and keys (B, T, H, d_h)."""

    def __init__(self, heads=2, shared=1, width=8, query=None, key=None, change=None):
        super().__init__()
        self.inputs, self.sizes = 12, (heads, shared, width)
        rows = torch.randperm((heads + 2 * shared) * width)
        self.query = rows[: heads * width] if query is None else query
        self.key = rows[heads * width : (heads + shared) * width] if key is None else key
        self.fused = nn.Linear(self.inputs, len(rows))
        self.change = change

    def forward(self, x):
        y = self.fused(x)
        heads, shared, width = self.sizes
        q, k = y[..., self.query].unflatten(-1, (heads, width)), y[..., self.key].unflatten(-1, (shared, width))
        if self.change is not None:
            q, k = self.change(self, x, q, k)
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        attended = F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
        return x + attended.sum((1, 3))[..., None] / 100


def model_of(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers), {"input": torch.randn(2, 6, layers[0].inputs)}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.integers(1, 3), st.integers(1, 2), st.sampled_from([3, 4, 5, 8]),
    st.sampled_from(["", "rms", "gain", "rotation"]), st.randoms(use_true_random=False),
)  # fmt: skip
def test_any_order_of_rows_is_found(shared, groups, width, how, random):
    torch.manual_seed(random.randrange(10**6))

    def change(module, x, q, k):
        if how == "rms":
            q, k = F.normalize(q, dim=-1), F.rms_norm(k, k.shape[-1:])
        elif how == "gain":
            q, k = q * (torch.arange(width) - 1.5) + 3, k / 7 - 2
        elif how == "rotation":
            angle = torch.arange(q.shape[1])[:, None, None].float()
            q, k = (
                torch.cat([x[..., :1] * angle.cos() - x[..., 1:2] * angle.sin(),
                           x[..., 1:2] * angle.cos() + x[..., :1] * angle.sin(), x[..., 2:]], -1)
                for x in (q, k)
            )  # fmt: skip
        return q, k

    model, batch = model_of(*[Odd(shared * groups, shared, width, change=change) for _ in range(2)])
    projections = layer_weights(model, batch)
    assert list(projections) == [1, 2]
    for layer, (query, key) in zip(model, projections.values(), strict=True):
        assert torch.equal(query.flatten(0, 1), layer.fused.weight[layer.query])
        assert torch.equal(key.flatten(0, 1), layer.fused.weight[layer.key])


def test_heads_of_rows_from_several_matrices():
    odd = Odd(heads=2, width=8, change=lambda module, x, q, k: (module.mix(x, q), k))
    odd.extra = nn.Linear(12, 8)
    odd.mix = lambda x, q: torch.cat([odd.extra(x).unflatten(-1, (2, 4)), q[..., 4:]], -1)
    model, batch = model_of(Odd(), odd)
    with torch.no_grad():
        extra, rows = odd.extra.weight, odd.fused.weight[odd.query].unflatten(0, (2, 8))
    assert torch.equal(layer_weights(model, batch)[2][0], torch.cat([extra.view(2, 4, 12), rows[:, 4:]], 1))


def convolved(module, x, q, k):
    """Of the token before, too."""
    return q + F.pad(q, (0, 0, 0, 0, 1, 0))[:, :-1], k


def pooled(module, x, q, k):
    return q, k[:, ::2] + k[:, 1::2]


def adapted(module, x, q, k):
    return q + 0.1 * module.extra(x).unflatten(-1, q.shape[2:]), k


def of_others(module, x, q, k):
    return module.extra(2 * x).unflatten(-1, q.shape[2:]), k


def rotated_from_the_start(module, x, q, k):
    a, b = q.chunk(2, -1)
    return torch.cat([a * 0.6 - b * 0.8, b * 0.6 + a * 0.8], -1), k


def padded(module, x, q, k):
    return F.pad(q, (0, 1)), F.pad(k, (0, 1))


def squashed(module, x, q, k):
    return q + 0.3 * q.mean(-1, keepdim=True), k


def multiplied(module, x, q, k):
    return q * q.roll(1, -1) * q.roll(2, -1), k


@pytest.mark.parametrize(
    "change", [multiplied, convolved, pooled, adapted, of_others, rotated_from_the_start, padded, squashed]
)
def test_no_form_is_made_up(change):
    odd = Odd(change=change)
    odd.extra = nn.Linear(12, 16, bias=False)
    model, batch = model_of(Odd(), odd, Odd())
    assert list(layer_weights(model, batch)) == [1, 3]
    assert layer_weights(*model_of(odd)) == {}


def test_weights_put_together_at_run_time_are_left_out():
    model, batch = model_of(Odd(), Odd())
    nn.utils.parametrizations.weight_norm(model[1].fused)
    assert list(layer_weights(model, batch)) == [1]


class Products(nn.Module):
    """Queries and keys by every kind of product there is."""

    inputs = 12

    def __init__(self, how):
        super().__init__()
        self.how, self.convolution = how, nn.Conv1d(12, 16, 1)
        self.weights = nn.Parameter(torch.randn(3, 12, 2, 8))
        self.many = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x):
        if self.how == "multihead":
            return self.many(x, x, x)[0]
        if self.how == "transposed":
            q, k = (F.linear(x.mT.contiguous().mT, w.flatten(1).mT) for w in self.weights[:2])
            q, k = q.unflatten(-1, (2, 8)), k.unflatten(-1, (2, 8))
        elif self.how == "einsum":
            q, k = (torch.einsum("bti,ihd->bthd", x, w) for w in self.weights[:2])
        elif self.how == "convolution":
            q = k = self.convolution(x.mT).mT.unflatten(-1, (2, 8))
        else:
            q, k = (x @ w.flatten(1) for w in self.weights[:2])
            q, k = q.unflatten(-1, (2, 8)), k.unflatten(-1, (2, 8))
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        return x + F.scaled_dot_product_attention(q, k, k).sum((1, 3))[..., None]

    def true(self):
        if self.how == "multihead":
            return [w.reshape(3, 4, 12) for w in self.many.in_proj_weight.chunk(3)[:2]]
        if self.how == "convolution":
            return [self.convolution.weight.reshape(2, 8, 12)] * 2
        return [w.permute(1, 2, 0) for w in self.weights[:2]]


@pytest.mark.parametrize("how", ["matmul", "transposed", "einsum", "convolution", "multihead"])
@pytest.mark.parametrize("together", [True, False])
def test_every_product_is_known(how, together):
    model, batch = model_of(Products(how), Products(how))
    if not together:  # as rows of two sizes are: all rows of the batch are used
        forward, model.forward = model.forward, lambda input, more: forward(input)
        batch["more"] = torch.zeros(3, 1)
    for layer, weights in layer_weights(model, batch).items():
        for ours, true in zip(weights, model[layer - 1].true(), strict=True):
            assert torch.equal(ours, true)
    assert layer == 2


@pytest.mark.parametrize("counted", [True, False])
def test_padding_in_front_changes_nothing(counted):
    """Whether positions count the padding, so that the first token is at 0, or do not, so that another is."""
    model, ids = build("llama"), torch.randint(5, 60, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    positions = torch.arange(9).expand(2, 9) if counted else (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    projections = layer_weights(model, batch)
    assert list(projections) == [1, 2]
    for layer, weights in zip(model.layers, projections.values(), strict=True):
        for ours, linear in zip(weights, (layer.self_attn.q_proj, layer.self_attn.k_proj), strict=True):
            assert torch.equal(ours.flatten(0, 1), linear.weight)


def test_what_the_weights_are_does_not_matter():
    """Zero, equal, and in half precision: where they are stored is found all the same."""
    model = build("vit").to(torch.bfloat16)
    with torch.no_grad():
        model.layers[0].attention.q_proj.weight.zero_()
        model.layers[1].attention.k_proj.weight.fill_(1)
    projections = layer_weights(model, inputs("vit"))
    assert not projections[1][0].any()
    assert (projections[2][1] == 1).all()
    assert torch.equal(projections[2][0].flatten(0, 1), model.layers[1].attention.q_proj.weight)


def test_learnt_once_and_read_every_time():
    model, batch = build("bert"), inputs("bert")
    before, runs = layer_weights(model, batch), []
    hook = model.register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        model.encoder.layer[0].attention.self.query.weight.mul_(2)
    after = layer_weights(model, batch)
    assert not runs
    assert torch.equal(after[1][0], 2 * before[1][0])
    assert torch.equal(after[1][1], before[1][1])
    model.encoder.layer[0].attention.self.query = nn.Sequential(nn.Linear(32, 32))
    swapped = layer_weights(model, batch)
    hook.remove()
    assert runs
    assert torch.equal(swapped[1][0].flatten(0, 1), model.encoder.layer[0].attention.self.query[0].weight)


@pytest.mark.parametrize("name", ["llama", "canine", "resnet"])
def test_the_model_is_left_as_it_was(name):
    model, batch = build(name).train(), inputs(name)
    state, kept = copy.deepcopy(model.state_dict()), {key: x.clone() for key, x in batch.items()}
    random = torch.get_rng_state()
    projections = layer_weights(model, batch)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.overrides._get_current_function_mode() is None
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert all(torch.equal(x, kept[key]) for key, x in batch.items())
    for query, key in projections.values():
        query.zero_(), key.zero_()  # the caller's own
        assert not query.requires_grad
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


class Latent(nn.Module):
    """Queries and keys of latents: two, one for both, or parts of one; perhaps with a norm."""

    def __init__(self, form, norm):
        super().__init__()
        self.form = form
        self.down = nn.ModuleList(nn.Linear(20, 7, bias=form == "one") for _ in range(2))
        self.fused = nn.Linear(20, 16, bias=False)
        self.up = nn.ModuleList(nn.Linear(7, 16) for _ in range(2))
        self.norm, self.norm_in = nn.LayerNorm(7) if norm else nn.Identity(), nn.LayerNorm(20)

    def forward(self, x):
        y = self.norm_in(x)
        if self.form == "parts":
            latents = self.fused(y).split([7, 2, 7], -1)[::2]
        else:
            latents = [self.down[0](y), self.down[1 if self.form == "two" else 0](y)]
        query, key = (
            up(self.norm(z)).unflatten(-1, (4, 4)).transpose(1, 2) for up, z in zip(self.up, latents, strict=True)
        )
        return x + F.scaled_dot_product_attention(query, key, key).transpose(1, 2).flatten(2) @ self.fused.weight

    def true(self):
        down = [self.down[0].weight, self.down[1 if self.form == "two" else 0].weight]
        down = [self.fused.weight[:7], self.fused.weight[9:]] if self.form == "parts" else down
        return [(up.weight @ w).unflatten(0, (4, 4)) for up, w in zip(self.up, down, strict=True)]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("form", ["two", "one", "parts"])
def test_latents_are_multiplied_out_unless_a_norm_lies_between(form, norm):
    model = nn.Sequential(*(Latent(form, norm) for _ in range(2)))
    pairs, absent = find_weights(model, {"input": torch.randn(2, 6, 20)})
    if norm:
        assert pairs == {}
        assert {place: "latent" in reason for place, reason in absent.items()} == {("", 1): True, ("", 2): True}
        return
    assert absent == {}
    for (_, layer), pair in pairs.items():
        for ours, true in zip(pair, model[layer - 1].true(), strict=True):
            torch.testing.assert_close(ours, true)


def test_stacks_have_weights_of_their_own():
    model = AutoModel.from_config(AutoConfig.for_model("t5", vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2))
    ids = torch.randint(64, (2, 9))
    pairs, absent = find_weights(model, {"input_ids": ids, "decoder_input_ids": ids[:, :5]})
    assert absent == {}
    for (stack, layer), (query, _) in pairs.items():
        attention = getattr(model, stack).block[layer - 1].layer[0].SelfAttention
        assert torch.equal(query.flatten(0, 1), attention.q.weight)
    assert list(pairs) == [("encoder", 1), ("encoder", 2), ("decoder", 1), ("decoder", 2)]


@pytest.mark.parametrize(
    "settings",
    [{}, {"norm": "post", "bias": True}, {"positions": "rope", "qk_norm": True}],
    ids=["plain", "bias", "rope"],
)
def test_a_few_tokens_tell_what_whole_rows_tell(settings):
    shape = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    models = [CharTransformer(CharTransformerConfig(**shape, **settings)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    ids = torch.randint(40, (3, 48), generator=torch.Generator().manual_seed(0))
    few, whole = (layer_weights(model, {"input_ids": x}) for model, x in zip(models, (ids[:1, :13], ids), strict=True))
    assert list(few) == list(whole) == [1, 2]
    assert all(torch.equal(x, y) for layer in few for x, y in zip(few[layer], whole[layer], strict=True))
