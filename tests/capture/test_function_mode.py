"""Attention in any form is captured exactly; what only looks like it is not."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from dynamics.capture import capture
from dynamics.capture.function_mode import UNCLEAR
from dynamics.capture.hearing import SEVERAL
from dynamics.capture.probabilities import CHANGED
from dynamics.errors import InputError

WIDTH, HEADS = 12, 3


class Block(nn.Module):
    """A layer around one way to attend; remembers its true attention weights."""

    def __init__(self, attend):
        super().__init__()
        self.attention = Attention(attend)

    def forward(self, x):
        return x + self.attention(x)


class Attention(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.soft = nn.Softmax(-1)
        self.attend, self.true = attend, None

    def forward(self, x):
        q, k, v = self.qkv(3 * x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        out, self.true = self.attend(self, q, k, v)
        return out.transpose(1, 2).flatten(2)


def by_sdpa(module, q, k, v):
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(2)
    eye = torch.eye(k.shape[2]).expand(*k.shape[:2], -1, -1)
    true = F.scaled_dot_product_attention(q, k, eye, mask, scale=0.7)
    return true @ v, true


def by_flat_sdpa(module, q, k, v):
    flat = [x.flatten(0, 1) for x in (q, k, torch.eye(k.shape[2]).expand(*k.shape[:2], -1, -1))]
    true = F.scaled_dot_product_attention(*flat, is_causal=True).view(*q.shape[:3], -1)
    return true @ v, true


def by_matmul(module, q, k, v):
    true = module.soft((q @ k.transpose(-1, -2)) / math.sqrt(2.0))
    return true @ v, true


def by_scaled_in_place(module, q, k, v):
    scores = torch.matmul(q, k.mT)
    scores *= 0.3
    scores.mul_(torch.tensor(2.0))
    scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), torch.finfo(scores.dtype).min)
    true = torch.softmax(scores, dim=3)
    return true @ v, true


def by_baddbmm(module, q, k, v):
    q2, k2 = q.flatten(0, 1), k.flatten(0, 1)
    bias = torch.linspace(0, 1, k.shape[2]).expand(len(q2), 1, -1)
    scores = bias.baddbmm(batch1=q2, batch2=k2.mT, beta=1.0, alpha=0.4).view(*q.shape[:3], -1)
    true = scores.softmax(-1)
    return true @ v, true


def by_einsum(module, q, k, v):
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    true = F.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.5, -1)
    return torch.einsum("bhqk,bhkd->bhqd", true, v), true


def by_ellipsis(module, q, k, v):
    true = F.softmax(torch.einsum("...kd, ...qd -> ...qk", [k, q]).clamp(max=5), -1)
    return true @ v, true


def by_two_products(module, q, k, v):
    """A relative bias made by a product of its own comes after the product of queries and keys."""
    scores = q @ k.mT
    scores = scores + 0.1 * (q @ torch.ones(q.shape[-1], k.shape[2]))
    true = F.softmax(scores, -1)
    return true @ v, true


def by_logarithms(module, q, k, v):
    true = F.log_softmax(0.5 * (q @ k.mT), dim=-1).exp()
    return true @ v, true


def by_exponentials(module, q, k, v):
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * 0.6
    powers = (scores - scores.amax(-1, keepdim=True)).exp()
    true = powers / powers.sum(dim=-1, keepdim=True)
    return true @ v, true


def by_exponentials_divided_in_place(module, q, k, v):
    scores = q @ k.mT
    true = (scores - scores.amax(-1, keepdim=True)).exp()
    true /= true.sum(-1, keepdim=True)
    return true @ v, true


def by_heads_last(module, q, k, v):
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    true = (torch.einsum("bihd,bjhd->bijh", q, k) * 0.4).softmax(dim=2)
    return torch.einsum("bijh,bhjd->bhid", true, v), true.permute(0, 3, 1, 2)


def by_flex(module, q, k, v):
    mask = create_block_mask(lambda b, h, i, j: j <= i + 2, None, None, q.shape[2], k.shape[2], device="cpu")
    hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(3)
    with torch._C.DisableTorchFunction():
        true = (0.8 * (q @ k.mT)).masked_fill(hidden, -torch.inf).softmax(-1)
    return flex_attention(q, k, v, block_mask=mask, scale=0.8), true


WAYS = [
    by_sdpa,
    by_flat_sdpa,
    by_matmul,
    by_scaled_in_place,
    by_baddbmm,
    by_einsum,
    by_ellipsis,
    by_two_products,
    by_logarithms,
    by_exponentials,
    by_exponentials_divided_in_place,
    by_heads_last,
    by_flex,
]


def stack(attend, depth=2):
    torch.manual_seed(3)
    return nn.Sequential(*[Block(attend) for _ in range(depth)])


@pytest.mark.parametrize("attend", WAYS, ids=lambda way: way.__name__)
def test_every_way_to_attend_is_exact(attend):
    model, calls = stack(attend), []
    with capture(model, ["residual", "attention"], lambda *_: None, calls.append) as tap:
        model(torch.randn(2, 5, WIDTH))
    assert tap.heads == (HEADS, HEADS)
    for call, block in zip(calls, model, strict=True):
        ours = call.logits(0, 5).softmax(-1)
        torch.testing.assert_close(ours, block.attention.true, rtol=1e-5, atol=1e-6)
        assert (call.value is not None) == (attend in (by_sdpa, by_flat_sdpa, by_flex))
        product = call.scaling * call.query @ call.key.mT
        rest = call.logits(0, 5) - product
        if attend in (by_matmul, by_einsum):
            assert rest.abs().max() < 1e-5
        elif attend in (by_baddbmm, by_two_products):
            assert (rest - (rest[:, :, :1] if attend is by_baddbmm else rest[..., :1])).abs().max() < 1e-5
        else:
            seen = call.logits(0, 5).isfinite() & (product < 5)
            assert rest[seen].abs().max() < 1e-5


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_torch_attention_is_exact(batch_first, padded):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x, hidden = torch.randn(2, 5, WIDTH), None
    if padded:
        hidden = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    calls, states = [], {}
    with capture(model, ["residual", "attention"], lambda _, *x: states.update({x[0]: x[1:]}), calls.append) as tap:
        model(x if batch_first else x.transpose(0, 1), src_key_padding_mask=hidden)
    assert tap.layers == 2
    for call, block in zip(calls, model.layers, strict=True):
        state, valid = states[call.layer - 1]
        assert state.shape == (2, 5, WIDTH)
        assert torch.equal(valid, call.valid)
        assert valid.sum() == (8 if padded else 10)
        state = state if batch_first else state.transpose(0, 1)
        with torch.no_grad():
            out, true = block.self_attn(state, state, state, hidden, average_attn_weights=False)
        torch.testing.assert_close(call.logits(0, 5).softmax(-1), true, rtol=1e-5, atol=1e-6)
        mixed = block.self_attn.out_proj((true @ call.value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixed if batch_first else mixed.transpose(0, 1), out, rtol=1e-5, atol=1e-6)


def test_torch_decoder_marks_its_cross_attention():
    model = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, HEADS, 16, batch_first=True), 2)
    calls = []
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    with capture(model, ["attention"], on_attention=calls.append, cross=True) as tap:
        model(torch.randn(2, 4, WIDTH), torch.randn(2, 6, WIDTH), tgt_mask=mask)
    assert tap.layers == 2
    assert [(call.layer, call.cross, call.key.shape[2]) for call in calls] == [
        (1, False, 4),
        (1, True, 6),
        (2, False, 4),
        (2, True, 6),
    ]
    assert calls[0].logits(0, 4)[0, 0, 0, 1:].isinf().all()


def factorised(module, q, k, v):
    """Keys are normalised over the tokens and folded into the values: no scores of pairs of tokens (CoaT)."""
    out = q @ (k.softmax(2).mT @ v)
    return out, torch.softmax(out.mean(-1), -1)


def test_factorised_attention_is_not_attention():
    model = stack(factorised)
    with (
        pytest.raises(InputError, match="Sequential computes no attention"),
        capture(model, ["attention"], on_attention=print),
    ):
        model(torch.randn(2, 5, WIDTH))
    layers = []
    with capture(model, ["residual"], lambda site, layer, x, valid: layers.append(layer)) as tap:
        model(torch.randn(2, 5, WIDTH))
    assert layers == [0, 1, 2]
    assert not tap.has_attention


class Head(nn.Module):
    """A softmax over channels, right after an attention."""

    def forward(self, x):
        return torch.softmax(x, -1)


class Linear(nn.Module):
    """Attention without a softmax."""

    def forward(self, x):
        return x @ (x.mT @ x)


def test_a_softmax_over_channels_is_not_attention():
    model, layers = nn.Sequential(nn.Sequential(Linear(), Head()), nn.Sequential(Linear(), Head())), []
    model.append(nn.Sequential(nn.Linear(WIDTH, WIDTH)))
    with capture(model, ["residual", "key"], lambda *x: layers.append(x[1]), print) as tap:
        model(torch.randn(2, 5, WIDTH))
    assert not tap.has_attention
    assert layers == [0, 1, 2, 3]


def with_heads_among_the_rows(module, q, k, v):
    true = torch.softmax((q @ k.mT).flatten(1, 2), -1).view(*q.shape[:3], -1)
    return true @ v, true


def test_an_unknown_form_is_refused_and_not_misread():
    model = stack(with_heads_among_the_rows)
    with pytest.raises(InputError, match="no attention that"), capture(model, ["key"], on_attention=print):
        model(torch.randn(2, 5, WIDTH))


@given(st.integers(0, 6), st.integers(0, 6), st.sampled_from([by_sdpa, by_flat_sdpa, by_scaled_in_place]))
def test_logits_of_a_range_are_the_range_of_the_logits(a, b, attend):
    start, stop = sorted((a, b))
    model, calls = stack(attend, 1), []
    with capture(model, ["attention"], on_attention=calls.append):
        model(torch.randn(2, 6, WIDTH))
    (call,) = calls
    whole = call.logits(0, 6)
    torch.testing.assert_close(call.logits(start, stop), whole[:, :, start:stop])
    keys = call.reach(stop)
    torch.testing.assert_close(call.logits(start, stop, keys), whole[:, :, start:stop, :keys])
    assert whole[:, :, start:stop, keys:].isinf().all()


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_logits_are_never_rounded_below_single_precision(dtype, wanted):
    model, calls = stack(plain_sdpa).to(dtype), []

    def hear(call):
        exact = call.scaling * call.query.double() @ call.key.double().mT
        with torch.autocast("cpu", torch.bfloat16):
            logits = call.logits(0, 5)
        assert logits.dtype == wanted
        seen = logits.isfinite()
        torch.testing.assert_close(logits[seen].double(), exact[seen], rtol=1e-5, atol=1e-5)
        calls.append(call)

    with capture(model, ["attention"], on_attention=hear):
        model(torch.randn(2, 5, WIDTH, dtype=dtype))
    assert [call.query.dtype for call in calls] == [dtype] * 2


def plain_sdpa(module, q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True), None


def test_flex_attention_changes_scores_by_functions():
    bias = torch.randn(HEADS, 5, 5)

    def attend(module, q, k, v):
        with torch._C.DisableTorchFunction():
            true = (q @ k.mT * 0.5 + bias).tanh().softmax(-1)
        score = flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: torch.tanh(s + bias[h][i][j]), scale=0.5)
        return score, true

    model, calls = stack(attend), []
    with capture(model, ["attention"], on_attention=calls.append):
        model(torch.randn(2, 5, WIDTH))
    for call, block in zip(calls, model, strict=True):
        torch.testing.assert_close(call.logits(0, 5).softmax(-1), block.attention.true, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(call.logits(3, 5, 4), call.logits(0, 5)[:, :, 3:5, :4])


@pytest.mark.parametrize("front", [1, 0])
def test_columns_beside_the_keys_are_sinks(front):
    sinks = torch.randn(2, HEADS, 5, 3)

    def attend(module, q, k, v):
        scores = q @ k.transpose(-1, -2) / 3
        parts = [sinks[..., :front], scores, sinks[..., front:]]
        whole = torch.cat(parts, dim=-1)
        true = (whole - whole.amax(-1, keepdim=True)).softmax(-1)[..., front : front + 5]
        return true @ v, true

    model, calls = stack(attend), []
    with capture(model, ["attention"], on_attention=calls.append):
        model(torch.randn(2, 5, WIDTH))
    for call, block in zip(calls, model, strict=True):
        ours = torch.cat([call.logits(0, 5), call.sinks], -1).softmax(-1)[..., :5]
        torch.testing.assert_close(ours, block.attention.true, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_keys_of_no_token_in_torch_attention_are_sinks(options):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)

        def forward(self, x):
            y, self.true = self.attention(x, x, x, average_attn_weights=False)
            return x + y

    model, calls = nn.Sequential(Layer(), Layer()), []
    with capture(model, ["attention"], on_attention=calls.append):
        model(torch.randn(2, 5, WIDTH))
    for call, layer in zip(calls, model, strict=True):
        ours = torch.cat([call.logits(0, 5), call.sinks], -1).softmax(-1)
        torch.testing.assert_close(ours, layer.true, rtol=1e-5, atol=1e-6)


def in_two_parts(module, q, k, v):
    """The keys in two parts, whose scores are joined."""
    true = torch.cat([q @ k[:, :, :2].mT, q @ k[:, :, 2:].mT], dim=-1).softmax(-1)
    return true @ v, true


def over_the_queries(module, q, k, v):
    true = (q @ k.mT).softmax(-2)
    return true @ v, true


def unnormalised(module, q, k, v):
    true = (q @ k.mT).exp()
    return true @ v, true


def by_exponentials_in_place(module, q, k, v):
    true = (q @ k.mT).exp_()
    return true / true.sum(-1, keepdim=True) @ v, true


def by_difference(module, q, k, v):
    true = (q @ k.mT).softmax(-1) - 0.5 * (q @ v.mT).softmax(-1)
    return true @ v, true


def first_queries_alone(module, q, k, v):
    """Queries 0 and 1 see every key; the others a band whose scores are joined."""
    first = (q[:, :, :2] @ k.mT).softmax(-1) @ v
    band = torch.cat([q[:, :, 2:] @ k[:, :, :2].mT, q[:, :, 2:] @ k[:, :, -1:].mT], dim=-1).softmax(-1)
    return torch.cat([first, band @ v[:, :, :3]], dim=2), band


@pytest.mark.parametrize(
    "attend",
    [in_two_parts, over_the_queries, unnormalised, by_exponentials_in_place, by_difference, first_queries_alone],
    ids=lambda x: x.__name__,
)
def test_what_is_not_followed_is_named(attend):
    model, calls, layers = stack(attend), [], []
    with capture(model, ["attention", "residual"], lambda *x: layers.append(x[1]), calls.append) as tap:
        model(torch.randn(2, 5, WIDTH))
    assert calls == []
    assert layers == [0, 1, 2]
    assert tap.heads == (0, 0)
    assert set(tap.unheard) == {("", 1), ("", 2)}
    assert set(tap.unheard.values()) <= {CHANGED, SEVERAL, UNCLEAR}


def by_sigmoid(module, q, k, v):
    true = torch.sigmoid((q @ k.mT * 0.6 - 1).masked_fill(torch.ones(5, 5).triu(1) > 0, -torch.inf))
    return true.to(v.dtype) @ v, true


def by_scaled_sigmoid(module, q, k, v):
    true = (q @ k.mT).sigmoid().mul_(0.5)
    return true @ v, true


def by_sigmoid_over_its_sum(module, q, k, v):
    true = (q @ k.mT).sigmoid()
    true = true / true.sum(-1, keepdim=True)
    return true @ v, true


def by_gated_softmax(module, q, k, v):
    true, gate = (q @ k.mT).softmax(-1), (q @ v.mT).sigmoid()
    return gate.mean(-1, keepdim=True) * (true @ v), true


@pytest.mark.parametrize("attend", [by_sigmoid, by_scaled_sigmoid, by_sigmoid_over_its_sum, by_gated_softmax])
def test_a_sigmoid_is_attention_where_it_weights_the_values(attend):
    model, calls = stack(attend), []
    with capture(model, ["attention", "residual"], lambda *_: None, calls.append):
        model(torch.randn(2, 5, WIDTH))
    heard = {by_sigmoid: 2, by_gated_softmax: 2}.get(attend, 0)
    assert [call.is_softmax for call in calls] == [attend is by_gated_softmax] * heard
    for call, block in zip(calls, model, strict=False):
        ours = call.logits(0, 5).softmax(-1) if call.is_softmax else call.logits(0, 5).sigmoid()
        torch.testing.assert_close(ours, block.attention.true, rtol=1e-5, atol=1e-6)


def test_a_form_that_appears_in_a_later_batch_is_refused():
    def attend(module, q, k, v):
        return (by_matmul if q.shape[2] < 5 else in_two_parts)(module, q, k, v)

    model = stack(attend)
    with capture(model, ["attention"], on_attention=lambda _: None):
        model(torch.randn(2, 4, WIDTH))
        with pytest.raises(InputError, match="another form"):
            model(torch.randn(2, 5, WIDTH))
