"""Untrained architectures under the probe, against the models themselves."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from dynamics.errors import InputError
from dynamics.experiments.probe import sweep
from dynamics.experiments.probe.architectures import Architecture
from dynamics.experiments.probe.cells import ProbeSuites
from dynamics.experiments.probe.design import BlockDesign, ProbeSettings

CPU = torch.device("cpu")
MANY = (
    "gpt2",
    "bert",
    "llama",
    "opt",
    "vit",
    "mistral",
    "bloom",
    "gptj",
    "t5",
    "whisper",
    "albert",
    "distilbert",
)
"""Every way in: embeddings or patches, grouped keys, own softmaxes, encoders of pairs, one shared block."""


def probed(name, x, width=32, heads=4, seed=3):
    """The architecture, and the states and calls that it hands over for `x` (C, B, T, D)."""
    length = x.shape[2] if x is not None else 12
    model = Architecture(BlockDesign(width, heads, length, "normal", name), 2, CPU)
    states, calls = {}, []
    if x is None:
        x = torch.randn(2, 3, *model.shape, generator=torch.Generator().manual_seed(0)) + 1
    with torch.no_grad():
        model.run(seed, x, lambda part, layer, y: states.update({(part, layer): y}), calls.append)
    return model, x, states, calls


@pytest.mark.parametrize("name", MANY)
def test_blocks_and_attention_are_heard(name):
    model, x, states, calls = probed(name, None)
    assert model.layers == 2
    assert model.shape[1] == 32
    for part in ("attention", "mlp"):
        for layer in (1, 2):
            assert states[part, layer].shape == x.shape
    assert [call.layer for call in calls] == [1, 2]
    assert all(call.query.shape[:3] == (6, 4, x.shape[2]) for call in calls)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_what_enters_the_first_block_is_what_was_given(name):
    """The same states by the model's own way in, its own hidden states and eager attentions beside ours."""
    x = torch.randn(2, 3, 12, 32, generator=torch.Generator().manual_seed(0)) + 1
    model, _, states, calls = probed(name, x)
    torch.manual_seed(3)
    own = AutoModel.from_config(model._config, attn_implementation="eager").eval()
    entering = x.flatten(0, 1)
    if name == "gpt2":  # adds positions to its inputs
        entering = entering - own.wpe.weight[:12]
    if name == "bert":  # adds positions and types, and normalises: bypass its embeddings
        own.embeddings.forward = lambda *args, inputs_embeds, **kwargs: inputs_embeds
    with torch.no_grad():
        expected = own(inputs_embeds=entering, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(states["mlp", 1].flatten(0, 1), expected.hidden_states[1], rtol=1e-4, atol=1e-5)
    for call, weights in zip(calls, expected.attentions, strict=True):
        torch.testing.assert_close(call.logits(0, 12).softmax(-1), weights, rtol=1e-4, atol=1e-5)


def test_seeds_draw_other_weights_and_leave_the_global_generator_alone():
    x = torch.randn(1, 2, 12, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    _, _, first, _ = probed("llama", x, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    _, _, again, _ = probed("llama", x, seed=0)
    _, _, other, _ = probed("llama", x, seed=1)
    assert torch.equal(first["mlp", 2], again["mlp", 2])
    assert not torch.allclose(first["mlp", 2], other["mlp", 2])


def test_the_sweep_treats_an_architecture_as_it_treats_random_blocks():
    settings = ProbeSettings(
        **{"width": 32, "heads": 4, "length": 12, "batch": 3, "seeds": 2, "beta": [0.0, 64.0]},
        architecture="bert",
        metrics=["mean_cosine", "entropy"],
    )
    (design,) = settings.designs()
    blocks = Architecture(design, 2, CPU)
    suites = ProbeSuites.parse(settings.metrics, settings.sample)
    probe = sweep.ProbeSweep(blocks, settings, suites, "run")
    with torch.no_grad():
        rows = [row for some in probe.rows(lambda _: None) for row in some]
    assert {row.subject for row in rows} == {"bert"}
    by_key = {(row.condition, row.layer, row.metric): row.value for row in rows}
    assert len(by_key) == len(rows)
    for seed in range(2):
        plain, sharp, keys = (
            by_key[f"beta={beta},bias={bias},seed={seed}", 1, "entropy"]
            for beta, bias in ((0, "query"), (64, "query"), (64, "key"))
        )
        assert sharp < plain - 0.1
        assert keys == pytest.approx(plain, abs=1e-4)
        assert plain == by_key[f"beta=0,bias=input,seed={seed}", 1, "entropy"]
        cosine = by_key[f"beta=64,bias=input,part=input,seed={seed}", 0, "mean_cosine"]
        assert cosine == pytest.approx(64**2 / (64**2 + 32), abs=0.01)


def test_a_network_without_attention_gives_its_states():
    model = Architecture(BlockDesign(32, 4, 16, "normal", "resnet"), 2, CPU)
    states, calls = {}, []
    x = torch.randn(1, 2, *model.shape)
    with torch.no_grad():
        model.run(0, x, lambda part, layer, y: states.update({(part, layer): y}), calls.append)
    assert not calls
    assert {part for part, _ in states} == {"mlp"}
    assert len(states) == model.layers


def test_sizes_follow_the_width():
    config = Architecture(BlockDesign(64, 4, 12, "normal", "mistral"), 2, CPU)._config
    standard = AutoConfig.for_model("mistral")
    assert config.intermediate_size * standard.hidden_size == standard.intermediate_size * 64
    assert (config.num_hidden_layers, config.hidden_size, config.num_key_value_heads) == (2, 64, 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [("lama", "llama"), ("clip", "clip_vision_model"), ("perceiver", "cannot make up"), ("gptj", "heads")],
)
def test_what_cannot_be_probed_is_refused_in_one_sentence(name, words):
    width, heads = (30, 10) if name == "gptj" else (32, 4)  # rotary positions need an even head width
    with pytest.raises(InputError, match=words) as refusal:
        Architecture(BlockDesign(width, heads, 12, "normal", name), 2, CPU)
    assert "\n" not in str(refusal.value)
