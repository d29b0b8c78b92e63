"""`CharTransformer`: the mask is a switch, and nothing else differs."""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from dynamics.errors import InputError
from dynamics.models.transformer import CharTransformer, CharTransformerConfig, CharTransformerLM

VARIANTS = [
    {},
    {"norm": "post"},
    {"norm": "none"},
    {"positions": "rope"},
    {"positions": "none"},
    {"qk_norm": True, "bias": True},
]


def make(seed=0, cls=CharTransformerLM, **settings):
    torch.manual_seed(seed)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 24}
    return cls(CharTransformerConfig(**{"vocab_size": 50, **small, **settings})).eval()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_future_reaches_the_past_only_without_the_mask(variant):
    ids = torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(1))
    changed = ids.clone()
    changed[:, 15:] = (changed[:, 15:] + 1) % 50
    for is_causal in (True, False):
        model = make(is_causal=is_causal, initializer_range=0.2, **variant)
        before, after = (torch.stack(model(x, output_hidden_states=True).hidden_states[1:]) for x in (ids, changed))
        past = (before - after)[:, :, :15].abs().amax(dim=(1, 2, 3))
        assert (past == 0).all() if is_causal else (past > 1e-4).all()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_twins_start_from_equal_weights(variant):
    causal, bidirectional = make(is_causal=True, **variant), make(is_causal=False, **variant)
    assert all(torch.equal(p, q) for p, q in zip(causal.parameters(), bidirectional.parameters(), strict=True))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("is_causal", [True, False])
def test_eager_attention_agrees_with_sdpa_on_padded_input(variant, is_causal):
    model = make(is_causal=is_causal, **variant)
    ids, mask = torch.randint(50, (2, 20)), torch.ones(2, 20, dtype=torch.long)
    mask[1, 12:] = 0
    sdpa = model(ids, attention_mask=mask).logits
    model.set_attn_implementation("eager")
    eager = model(ids, attention_mask=mask).logits
    assert torch.allclose(sdpa[mask.bool()], eager[mask.bool()], atol=1e-5)


def test_padding_changes_nothing_for_the_rest():
    model = make(is_causal=False, initializer_range=0.2)
    ids = torch.randint(50, (1, 12))
    padded = torch.cat([ids, torch.full((1, 5), 3)], dim=1)
    mask = torch.tensor([[1] * 12 + [0] * 5])
    assert torch.allclose(model(ids).logits, model(padded, attention_mask=mask).logits[:, :12], atol=1e-5)


def test_residual_projections_start_smaller():
    model = make(hidden_size=128, num_hidden_layers=8)
    block = model.model.layers[0]
    for projection, std in ((block.up, 0.02), (block.down, 0.005), (block.attention.o_proj, 0.005)):
        assert projection.weight.std().item() == pytest.approx(std, rel=0.05)


def test_saving_and_loading_through_transformers(tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    ids = torch.randint(50, (2, 10))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    trunk = AutoModel.from_pretrained(tmp_path)
    assert isinstance(trunk, CharTransformer)
    assert torch.equal(trunk(ids).last_hidden_state, model.model(ids).last_hidden_state)


def test_hidden_states_are_layers_zero_to_l_before_the_final_norm():
    model = make(cls=CharTransformer)
    output = model(torch.randint(50, (2, 10)), output_hidden_states=True)
    assert len(output.hidden_states) == 3
    assert torch.equal(model.final_norm(output.hidden_states[-1]), output.last_hidden_state)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"num_attention_heads": 5}, "heads"),
        ({"norm": "sandwich"}, "norm"),
        ({"positions": "alibi"}, "positions"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"positions": "rope", "hidden_size": 36}, "rope"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_shapes_are_refused(settings, word):
    with pytest.raises(InputError, match=word):
        make(**settings)


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(InputError, match="25 tokens"):
        make()(torch.zeros(1, 25, dtype=torch.long))
