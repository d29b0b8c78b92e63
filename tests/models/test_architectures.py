"""Architectures of transformers trained from scratch: their mask is a switch, and a run of one is a run like any."""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from dynamics import record, runs
from dynamics.cli.main import main
from dynamics.errors import InputError
from dynamics.models.architectures import TOLERANCE, build, change_by_later_tokens
from dynamics.models.language import LanguageModel
from dynamics.models.regularizers import CosReg
from dynamics.training.checkpoint import states
from tests.models.test_language import batch, data
from tests.runs import fit

SWITCHED = ["llama", "gpt_neox", "gpt2", "opt", "qwen2", "bert", "roberta", "distilbert", "modernbert"]


def model(architecture, **settings):
    module = LanguageModel(architecture=architecture, **{"depth": 2, "width": 16, "heads": 2, **settings})
    module.build(data())
    return module


def common(**settings):
    sizes = {"vocab_size": 22, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**sizes, "max_position_embeddings": 16, "pad_token_id": 21, "is_causal": True, **settings}


@pytest.mark.parametrize("architecture", SWITCHED)
def test_twins_have_equal_weights_and_differ_in_the_mask(architecture):
    torch.manual_seed(1)
    causal = model(architecture, seed=5).network
    torch.manual_seed(2)
    bidirectional = model(architecture, seed=5, is_causal=False, objective="mlm").network
    assert bidirectional.training
    pairs = zip(causal.state_dict().items(), bidirectional.state_dict().items(), strict=True)
    assert all(name == other and torch.equal(p, q) for (name, p), (other, q) in pairs)
    assert change_by_later_tokens(causal, 16) <= TOLERANCE
    assert change_by_later_tokens(bidirectional, 16) > 10 * TOLERANCE
    another = model(architecture, seed=6).network
    assert not torch.equal(causal.get_input_embeddings().weight, another.get_input_embeddings().weight)


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_the_losses_are_those_of_the_logits(architecture):
    module, example = model(architecture), batch()
    logits = module.network(input_ids=example.windows[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), example.windows[:, 1:].flatten())
    assert module.training_step(example, 0).item() == pytest.approx(expected.item(), rel=1e-6)
    module, ids = model(architecture, objective="mlm", is_causal=False), example.windows[:, :-1]
    corrupted, positions, _ = module._corrupt(ids, example, 1)
    chosen = torch.zeros_like(ids, dtype=torch.bool).scatter(1, positions, True)
    expected = torch.nn.functional.cross_entropy(module.network(input_ids=corrupted).logits[chosen], ids[chosen])
    assert module.training_step(example, 0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_sizes_dropout_and_overrides_reach_the_configuration():
    config = model("llama").network.config
    assert (config.intermediate_size, config.head_dim, config.num_key_value_heads) == (16 * 11008 // 4096, 8, 2)
    config = model("gpt2", dropout=0.1, overrides={"n_inner": 24, "embd_pdrop": 0.2}).network.config
    assert (config.n_embd, config.n_layer, config.n_head, config.n_inner) == (16, 2, 2, 24)
    assert (config.resid_pdrop, config.attn_pdrop, config.embd_pdrop) == (0.1, 0.1, 0.2)
    assert config.eos_token_id == config.pad_token_id == 21
    assert model("char_transformer", overrides={"norm_eps": 1e-3}).network.config.norm_eps == 1e-3
    facts = model("llama").describe()
    assert (facts["label"], facts["architecture"], facts["layers"]) == ("llama, causal, clm", "llama", 2)


def test_regularisers_measure_every_layer():
    module = model("gpt_neox", regularizers=[CosReg(1.0, [1, 2])])
    loss = module.training_step(batch(), 0)
    assert loss.item() == pytest.approx((module.terms["task_loss"] + module.terms["cosreg"]).item(), rel=1e-6)
    states = module.network(input_ids=batch().windows[:, :-1], output_hidden_states=True).hidden_states
    assert module.terms["cosine"].item() != 0
    assert len(states) == 3


def test_positions_counted_from_the_padding_token_reach_the_end_of_the_window():
    assert model("roberta").network.config.max_position_embeddings == 16 + 21 + 1


def test_a_trunk_without_a_head_gets_one():
    network = build("clip_text_model", common(), 0.0, {}, 0)
    assert network(input_ids=torch.zeros(1, 16, dtype=torch.long)).logits.shape == (1, 16, 22)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architecture": "lama"}, "no architecture lama: did you mean llama"),
        ({"architecture": "gemma3"}, "made of several models: name one of gemma3_text"),
        ({"architecture": "t5"}, "t5 is an encoder with a decoder"),
        ({"architecture": "vit"}, "vit is no model of text"),
        ({"architecture": "xlnet"}, "xlnet cannot be switched, it is always bidirectional: set model.is_causal false"),
        (
            {"architecture": "mamba", "is_causal": False, "objective": "mlm"},
            "mamba cannot be switched, it is always causal: set model.is_causal true",
        ),
        ({"architecture": "llama", "heads": 5}, "model.width 16 cannot be shared by 5 heads"),
        ({"architecture": "funnel"}, "model.depth has no effect on architecture funnel"),
        ({"architecture": "gpt_neo"}, "gpt_neo cannot be built 16 wide with 2 heads"),
        ({"architecture": "llama", "norm": "post"}, "model.norm has no effect on architecture llama; remove it"),
        ({"architecture": "llama", "bias": True}, "model.bias has no effect"),
        ({"architecture": "llama", "overrides": {"intermediate_sizes": 8}}, "did you mean intermediate_size"),
        ({"architecture": "gpt2", "overrides": {"n_embd": 8}}, "model.overrides.n_embd is set by another option"),
        ({"architecture": "gpt2", "overrides": {"hidden_size": 8}}, "hidden_size is set by another option"),
        ({"architecture": "char_transformer", "overrides": {"norm": "post"}}, "norm is set by another option"),
        ({"architecture": "char_transformer", "overrides": {"rope_thet": 1}}, "did you mean rope_theta"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(settings, words):
    with pytest.raises(InputError) as refused:
        model(**settings)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


# Whole runs


def weights(run):
    (newest, *_) = states(runs.CHECKPOINTS / run)
    return torch.load(newest, weights_only=True)["state_dict"]


def geometry(run):
    frame = record.read(run)
    return frame[~frame.metric.str.contains("seconds")].drop(columns="run").reset_index(drop=True)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("llama", "decoder"),
        ("gpt_neox", "encoder"),
        ("bert", "causal-mlm"),
        ("modernbert", "decoder"),
        ("gpt2", "encoder"),
    ],
)
def test_a_run_is_measured_resumed_and_scanned(workplace, text_file, architecture, config):
    settings = {"model__architecture": architecture, "model__dropout": 0.1, "trainer__precision": "32-true"}
    settings |= {"trainer__max_steps": 3, "checkpoints__every": 2, "metrics": "[anisotropy, entropy, drift]"}
    for run in ("whole", "killed"):
        fit(text_file, run, config=config, **settings)
    states(runs.CHECKPOINTS / "killed")[0].unlink()
    fit(text_file, "killed", "--resume", "auto", config=config, **settings)
    last = weights("whole")
    assert all(torch.equal(last[name], tensor) for name, tensor in weights("killed").items())
    assert geometry("whole").equals(geometry("killed"))
    assert runs.read("whole").to_dict()["architecture"] == architecture
    saved = runs.CHECKPOINTS / "whole" / "weights" / f"step-{3:010d}"
    kind = AutoModelForMaskedLM if "bert" in architecture else AutoModelForCausalLM
    network = kind.from_pretrained(saved)
    assert all(torch.equal(tensor, last[f"network.{name}"]) for name, tensor in network.state_dict().items())
    assert (change_by_later_tokens(network, 32) <= TOLERANCE) == (config != "encoder")
    (newest, *_) = states(runs.CHECKPOINTS / "whole")
    module = LanguageModel.load_from_checkpoint(newest, weights_only=True)
    assert all(torch.equal(tensor, last[f"network.{name}"]) for name, tensor in module.network.state_dict().items())
    main(["validate", "--run", "whole"])
    main(["scan", "whole", "--metrics", "[anisotropy, entropy]", "--run", "scan"])
    key = ["step", "site", "layer", "head", "metric"]
    scanned = record.read("scan").query("site in ['residual', 'attention', 'output']").set_index(key).value.dropna()
    measured = geometry("whole").set_index(key).value
    assert len(scanned) > 10
    assert scanned.to_numpy() == pytest.approx(measured[scanned.index].to_numpy(), rel=1e-5)


def test_a_trunk_with_our_head_is_scanned(workplace, text_file):
    settings = {"trainer__max_steps": 1, "metrics": "[anisotropy]"}
    fit(text_file, "a", model__architecture="clip_text_model", **settings)
    main(["scan", "a", "--metrics", "[anisotropy]", "--run", "scan"])
    frames = (record.read(run).query("metric == 'anisotropy'") for run in ("a", "scan"))
    values = [frame.sort_values(["step", "site", "layer"]).value for frame in frames]
    assert values[0].to_numpy() == pytest.approx(values[1].to_numpy(), rel=1e-5)
    assert AutoModel.from_pretrained(runs.CHECKPOINTS / "a" / "weights" / f"step-{1:010d}") is not None


def test_overrides_are_given_on_the_command_line(workplace, text_file):
    fit(
        text_file,
        "a",
        *("--model.overrides.intermediate_size", "24"),
        model__architecture="llama",
        trainer__max_steps=1,
        metrics="[anisotropy]",
    )
    assert weights("a")["network.model.layers.0.mlp.up_proj.weight"].shape == (24, 16)
