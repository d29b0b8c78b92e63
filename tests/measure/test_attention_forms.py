"""Attention of unusual form is measured as the model's own weights say, or named as not measured."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from dynamics.measure import measure

SHAPE = {
    **{"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    **{"initializer_range": 0.3, "pad_token_id": 0},
}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4}
WINDOWED = {
    **{"vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4},
    **{"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0},
    **{"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64, "attention_window": 8},
}


def build(kind, shape):
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **shape), attn_implementation="eager").eval()
    ids = torch.randint(5, 64, (3, 18))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return model, {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("kind", ["gpt_oss", "granite_swa", "mimo_v2_flash", "gemma2", "xlnet", "openai-gpt"])
def test_largest_probabilities_and_entropies_are_those_of_the_models_own_weights(kind):
    shapes = {
        "gpt_oss": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
        "xlnet": {"vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
        "openai-gpt": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    }
    model, batch = build(kind, shapes.get(kind, GROUPED))
    with torch.no_grad():
        true = model(**batch, output_attentions=True).attentions
    result = measure(model, [batch], ["max_probability", "entropy"])
    assert not result.missing
    values = {(row.metric, row.layer): row.value for row in result.rows if row.head == -1}
    for layer, weights in enumerate(true, start=1):
        p = weights.double().transpose(0, 1)[:, batch["attention_mask"].bool()]
        assert values["max_probability", layer] == pytest.approx(p.amax(-1).mean().item(), rel=1e-5)
        assert values["entropy", layer] == pytest.approx(-p.xlogy(p).sum(-1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["longformer", "led", "yoso", "longt5"])
def test_what_is_not_measured_is_named_and_padding_does_not_count(kind):
    shapes = {
        "longformer": {**SHAPE, "attention_window": 8, "sep_token_id": 2, "max_position_embeddings": 64},
        "led": WINDOWED,
        "longt5": {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "local_radius": 3},
    }
    model, batch = build(kind, shapes.get(kind, SHAPE))
    if kind in ("led", "longt5"):
        batch["decoder_input_ids"] = batch["input_ids"][:, :5]
    result = measure(model, [batch], {"entropy": None, "mean_norm": {"sites": ["residual"]}})
    encoder = "encoder" if kind in ("led", "longt5") else ""
    missing = [entry for entry in result.missing if entry.stack == encoder]
    assert [(entry.metric, entry.site, entry.layers) for entry in missing] == [("entropy", "attention", (1, 2))]
    real = int(batch["attention_mask"].sum())
    assert {row.n for row in result.rows if "decoder" not in row.condition} == {real}
