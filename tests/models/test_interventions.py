"""Each kind of attention does what it is for, and none lets padding or the future through."""

import math

import pytest
import torch

from dynamics.capture import capture
from dynamics.capture.check import check
from dynamics.errors import InputError
from dynamics.measure.measurement import measure
from dynamics.metrics.streaming.attention import UNSEEN
from dynamics.models.casting import AS_THEY_ARE
from dynamics.models.interventions import KINDS
from dynamics.models.language import LanguageModel
from tests.models.test_language import batch, model
from tests.models.test_transformer import make

MASKS = pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "bidirectional"])
EVERY = pytest.mark.parametrize("kind", KINDS)


def padded(rows=3, tokens=20):
    """Ids of rows of which one is padded behind and one in front."""
    ids, mask = torch.randint(50, (rows, tokens), generator=torch.Generator().manual_seed(3)), torch.ones(rows, tokens)
    mask[1, 12:], mask[2, :5] = 0, 0
    return {"input_ids": ids, "attention_mask": mask.long()}


def calls_of(network, inputs):
    calls = []
    with torch.no_grad(), capture(network, ["attention"], on_attention=calls.append):
        network(**inputs)
    return calls


def rows_of(network, metrics):
    rows = measure(network, [padded()], metrics).rows
    return {(row.site, row.metric): row.value for row in rows if row.layer == 2 and row.head == -1}


@EVERY
@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_no_position_learns_what_follows(kind, positions):
    causal = make(attention=kind, positions=positions, initializer_range=0.2)
    embedded = torch.randn(2, 24, 32, requires_grad=True)
    states = causal(inputs_embeds=embedded, output_hidden_states=True).hidden_states[-1]
    (gradient,) = torch.autograd.grad(states[:, :15].square().sum(), embedded)
    scale = gradient[:, :15].abs().max()
    assert gradient[:, 15:].abs().max() <= 1e-5 * scale  # the mean key of the whole window cancels up to rounding


@EVERY
@MASKS
def test_padding_changes_nothing_for_the_rest(kind, is_causal):
    network = make(attention=kind, is_causal=is_causal, initializer_range=0.2, positions="none")
    inputs = padded()
    together = network(**inputs).logits
    for row, kept in enumerate(inputs["attention_mask"].bool()):
        alone = network(inputs["input_ids"][row : row + 1, kept]).logits[0]
        torch.testing.assert_close(together[row, kept], alone, atol=2e-5, rtol=1e-4)


@EVERY
def test_padding_in_front_leaves_gradients_finite(kind):
    network = make(attention=kind, initializer_range=0.2)
    inputs = padded()
    network(**inputs).logits[inputs["attention_mask"].bool()].square().sum().backward()
    assert all(x.grad.isfinite().all() for x in network.parameters() if x.grad is not None)


@EVERY
@MASKS
def test_eager_attention_agrees_with_sdpa(kind, is_causal):
    network, inputs = make(attention=kind, is_causal=is_causal, initializer_range=0.2), padded()
    sdpa, real = network(**inputs).logits, inputs["attention_mask"].bool()
    network.set_attn_implementation("eager")
    torch.testing.assert_close(network(**inputs).logits[real], sdpa[real], atol=2e-5, rtol=1e-4)


@EVERY
def test_kinds_start_from_equal_weights_and_softmax_is_unchanged(kind):
    softmax, other = make(), make(attention=kind)
    assert softmax.state_dict().keys() == other.state_dict().keys()
    assert all(map(torch.equal, softmax.state_dict().values(), other.state_dict().values()))
    ids = padded()["input_ids"]
    assert torch.equal(softmax(ids).logits, other(ids).logits) == (kind == "softmax")


@EVERY
@MASKS
def test_what_is_captured_is_what_the_model_computes(kind, is_causal):
    network = make(attention=kind, is_causal=is_causal, initializer_range=0.2)
    verdict = check(network, padded())
    assert verdict.word == "verified"
    compared = any("attention" in comparison.what for comparison in verdict.comparisons)
    assert compared == (kind != "none")


@MASKS
def test_uniform_attention_has_the_entropy_of_the_keys_that_are_seen(is_causal):
    network = make(attention="uniform", is_causal=is_causal, initializer_range=0.2)
    lengths = [20, 12, 15]
    seen = [range(1, n + 1) if is_causal else [n] * n for n in lengths]
    wanted = sum(math.log(n) for row in seen for n in row) / sum(lengths)
    values = rows_of(network, ["entropy", "normalized_entropy", "norm_of_mean", "logit_max"])
    assert values["attention", "entropy"] == pytest.approx(wanted, rel=1e-6)
    assert values["attention", "normalized_entropy"] == pytest.approx(1, rel=1e-6)
    assert values["attention", "logit_max"] == values["query", "norm_of_mean"] == values["key", "norm_of_mean"] == 0


def test_uniform_attention_is_the_mean_of_the_values_seen():
    attention = make(attention="uniform", initializer_range=0.2).model.layers[0].attention
    x = torch.randn(2, 9, 32)
    mean = attention.v_proj(x).cumsum(1) / torch.arange(1, 10)[:, None]
    computed, _ = attention(x, None, None, AS_THEY_ARE, None)
    torch.testing.assert_close(computed, attention.o_proj(mean), atol=1e-5, rtol=1e-4)


def test_centered_queries_and_keys_have_no_mean():
    inputs = padded()
    real = inputs["attention_mask"].bool()
    plain = rows_of(make(is_causal=False, initializer_range=0.2), ["norm_of_mean"])
    for call in calls_of(make(attention="centered", is_causal=False, initializer_range=0.2), inputs):
        for x in (call.query, call.key):
            assert all(row[:, kept].mean(1).norm(dim=-1).max() < 1e-5 for row, kept in zip(x, real, strict=True))
    causal = make(attention="centered", is_causal=True, initializer_range=0.2)
    for call in calls_of(causal, inputs):
        assert all(row[:, kept].mean(1).norm(dim=-1).max() < 1e-5 for row, kept in zip(call.key, real, strict=True))
    values = rows_of(causal, ["norm_of_mean"])
    assert values["query", "norm_of_mean"] < 0.3 * plain["query", "norm_of_mean"]


@MASKS
def test_a_vector_that_all_queries_or_keys_share_changes_nothing_where_they_are_centered(is_causal):
    inputs, shifts = padded(), {}
    for kind in ("softmax", "centered"):
        for name in ("q_proj", "k_proj"):
            network = make(attention=kind, is_causal=is_causal, initializer_range=0.2, bias=True)
            with torch.no_grad():
                before = network(**inputs).logits
                network.model.layers[1].attention.get_submodule(name).bias += 3
                change = (network(**inputs).logits - before).abs().amax(-1)
            shifts[kind, name] = change[inputs["attention_mask"] > 0].max()
    assert shifts["softmax", "q_proj"] > 1e-2
    assert all(shifts["centered", name] < 1e-4 for name in ("q_proj", "k_proj"))
    assert shifts["softmax", "k_proj"] < 1e-4  # a mean key was free to drift all along


@MASKS
def test_cosine_attention_knows_no_norms(is_causal):
    network = make(attention="cosine", is_causal=is_causal, initializer_range=0.2)
    before = network(**padded()).logits
    for call in calls_of(network, padded()):
        assert call.scaling == pytest.approx(math.sqrt(8))
        for x in (call.query, call.key):
            torch.testing.assert_close(x.norm(dim=-1), torch.ones(x.shape[:-1]))
    with torch.no_grad():
        network.model.layers[0].attention.q_proj.weight *= 7
    torch.testing.assert_close(network(**padded()).logits, before, atol=1e-4, rtol=1e-4)


@MASKS
def test_sigmoid_attention_is_its_formula_and_no_distribution(is_causal):
    network, inputs = make(attention="sigmoid", is_causal=is_causal, initializer_range=0.2), padded()
    (call, _), real = calls_of(network, inputs), inputs["attention_mask"].bool()
    for row, kept in enumerate(real):
        seen = kept & torch.ones(20, 20, dtype=torch.bool).tril() if is_causal else kept.expand(20, 20)
        score = call.query[row] @ call.key[row].mT / math.sqrt(8)
        weights = torch.where(seen, 1 / (1 + seen.sum(-1, keepdim=True) * (-score).exp()), 0)
        heard = call.logits(0, 20)[row].sigmoid()
        torch.testing.assert_close(heard[:, kept], weights[:, kept])
    measured = measure(network, [inputs], ["entropy", "sink_mass", "score_variance", "logit_max", "qk_alignment"])
    reasons = {row.metric: row.reason for row in measured.rows if math.isnan(row.value)}
    assert reasons == dict.fromkeys(["entropy", "sink_mass", "score_variance", "logit_max"], UNSEEN)
    assert rows_of(network, ["norm_of_mean"])["query", "norm_of_mean"] > 0


def test_without_attention_tokens_do_not_mix_and_the_rows_say_so():
    network = make(attention="none", is_causal=False, initializer_range=0.2)
    ids = padded()["input_ids"]
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    moved = (network(ids).logits - network(changed).logits).abs().amax((0, 2))
    assert moved[7] > 0
    assert moved.sum() == moved[7]
    measured = measure(network, [padded()], ["mean_norm", "entropy", "norm_of_mean", "qk_symmetry"])
    assert {row.site for row in measured.rows} == {"residual", "output"}
    missing = {(entry.site, entry.metric) for entry in measured.missing}
    assert {("attention", "entropy"), ("query", "norm_of_mean"), ("weight", "qk_symmetry")} <= missing
    assert all("no softmax" in entry.reason for entry in measured.missing)


@pytest.mark.parametrize(
    ("kind", "is_compiled"),
    [*((kind, False) for kind in KINDS), *((kind, True) for kind in KINDS if kind not in ("softmax", "cosine"))],
)
def test_each_kind_trains_and_leaves_alone_what_it_does_not_use(kind, is_compiled, monkeypatch):
    if is_compiled:  # the graph matters, not the code that is made of it
        monkeypatch.setattr(torch, "compile", lambda f, compile=torch.compile, **_: compile(f, backend="eager"))
        torch._dynamo.reset()
    module = model(attention=kind, compile=is_compiled, learning_rate=1e-2, warmup_steps=1)
    optimizer = module.configure_optimizers()["optimizer"]
    start = {name: x.detach().clone() for name, x in module.network.named_parameters()}
    losses = []
    for _ in range(6):
        loss = module.training_step(batch(), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    still = {name for name, x in module.network.named_parameters() if torch.equal(x, start[name])}
    unused = {"uniform": ("q_proj", "k_proj"), "none": ("attention",)}.get(kind, ())
    assert still == {name for name in start if any(word in name for word in unused)}
    assert all(x.grad is not None for x in module.network.parameters() if x.requires_grad)  # DDP waits for each


@EVERY
def test_each_kind_trains_in_bfloat16(kind):
    module = model(attention=kind)
    with torch.autocast("cpu", torch.bfloat16):
        low = module.training_step(batch(), 0)
    low.backward()
    torch.testing.assert_close(low.detach(), module.training_step(batch(), 0).detach(), atol=2e-2, rtol=0)
    assert all(x.grad.isfinite().all() for x in module.network.parameters() if x.requires_grad)


def test_unknown_kinds_are_refused_and_other_architectures_have_none():
    with pytest.raises(InputError, match=r"model\.attention must be one of softmax, uniform, .* \(got linear\)"):
        LanguageModel(attention="linear")
    with pytest.raises(InputError, match=r"model\.attention has no effect on architecture llama"):
        LanguageModel(architecture="llama", attention="uniform")
    with pytest.raises(InputError, match="attention must be one of"):
        make(attention="linear")
