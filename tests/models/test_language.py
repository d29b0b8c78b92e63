"""The two objectives: what is masked, what is predicted, what is refused."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dynamics.data.windows import WindowBatch
from dynamics.errors import InputError
from dynamics.models import language
from dynamics.models.language import LanguageModel

CHARACTERS, MASK, PAD = 20, 20, 21


def data(context=16, tokens_per_character=1.0):
    vocabulary = SimpleNamespace(tokens=list(range(22)), size=CHARACTERS, mask_id=MASK, pad_id=PAD)
    return SimpleNamespace(
        text=SimpleNamespace(vocabulary=vocabulary, tokens_per_character=tokens_per_character),
        hparams=SimpleNamespace(context=context),
    )


def model(**settings):
    module = LanguageModel(depth=2, width=16, heads=2, **settings)
    module.build(data())
    return module


def batch(step=0, rows=4, context=16):
    ids = torch.randint(CHARACTERS, (rows, context + 1), generator=torch.Generator().manual_seed(step))
    return WindowBatch(ids, step, 0, rows)


def test_masks_do_not_depend_on_how_the_batch_is_shared():
    whole = model(objective="mlm")
    ids = batch(rows=6).windows[:, :-1]
    together = whole._corrupt(ids, WindowBatch(ids, 3, 0, 6), 1)
    parts = [whole._corrupt(ids[first : first + 2], WindowBatch(ids, 3, first, 6), 1) for first in (0, 2, 4)]
    joined = [torch.cat(of_parts) for of_parts in zip(*parts, strict=True)]
    assert all(map(torch.equal, together, joined))


def test_masks_of_steps_drawn_together_are_those_of_each_step(monkeypatch):
    alone, ahead = model(objective="mlm"), model(objective="mlm")
    ids = batch(rows=2).windows[:, :-1]
    # Two accumulated shares a step, of a run that resumes within a block of four steps, and an evaluation between.
    shares = [(WindowBatch(ids, step, first, 4), stream) for step in (2, 3, 4, 9) for first, stream in ((0, 1), (2, 1))]
    shares.insert(3, (WindowBatch(ids, 0, 0, 2), 2))
    expected = [alone._corrupt(ids, *share) for share in shares]
    calls, draws = [], language.draws
    monkeypatch.setattr(language, "steps_together", lambda tokens, device: 4)
    monkeypatch.setattr(language, "draws", lambda *args: calls.append(args) or draws(*args))
    for share, parts in zip(shares, expected, strict=True):
        assert all(map(torch.equal, ahead._corrupt(ids, *share), parts))
    assert len(calls) == 2 * 3 + 1


def test_clm_loss_is_the_cross_entropy_of_the_next_character():
    module, example = model(objective="clm"), batch()
    logits = module.network(example.windows[:, :-1]).logits
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), example.windows[:, 1:].flatten())
    assert module.training_step(example, 0).item() == pytest.approx(expected.item(), rel=1e-6)
    assert expected.item() == pytest.approx(math.log(22), rel=0.05)


def test_mlm_loss_is_the_cross_entropy_at_masked_positions_only():
    module, example = model(objective="mlm", is_causal=False), batch()
    ids = example.windows[:, :-1]
    corrupted, positions, _ = module._corrupt(ids, example, 1)
    logits = module.network(corrupted).logits
    chosen = torch.zeros_like(ids, dtype=torch.bool).scatter(1, positions, True)
    expected = nn.functional.cross_entropy(logits[chosen], ids[chosen])
    assert module.training_step(example, 0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_bits_are_those_of_a_character_whatever_the_tokens_are():
    module = LanguageModel(depth=1, width=4, heads=1)
    module.build(data(tokens_per_character=1.5))
    assert module.train_values({"loss": math.log(2)})["bits_per_character"] == pytest.approx(1.5)
    module._mean.update(math.log(2))
    assert float(module.evaluation("validation")["bits_per_character"]) == pytest.approx(1.5)


def test_bits_of_masked_characters_have_a_name_of_their_own():
    module = LanguageModel(depth=1, width=4, heads=1, objective="mlm", is_causal=False)
    module.build(data())
    assert module.train_values({"loss": math.log(2)}) == {
        "loss": math.log(2),
        "bits_per_masked_character": pytest.approx(1.0),
    }
    module._mean.update(math.log(2))
    assert set(module.evaluation("validation")) == {"loss", "bits_per_masked_character"}


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = model(objective="clm", seed=5)
    torch.manual_seed(2)
    torch.rand(7)
    before = torch.get_rng_state()
    second = model(objective="mlm", is_causal=False, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    pairs = zip(first.network.parameters(), second.network.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    third = model(objective="clm", seed=6)
    assert not torch.equal(next(first.network.parameters()), next(third.network.parameters()))


def test_learning_rate_warms_up_and_decays_along_a_cosine():
    module = model(warmup_steps=10, final_learning_rate=0.1)
    module._trainer = SimpleNamespace(max_steps=110)
    factors = [module.learning_rate_factor(step) for step in range(111)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == pytest.approx(0.1)


def test_only_matrices_decay():
    groups = model().configure_optimizers()["optimizer"].param_groups
    assert {p.ndim for p in groups[0]["params"]} == {2}
    assert groups[1]["weight_decay"] == 0
    assert {p.ndim for p in groups[1]["params"]} == {1}


def test_bidirectional_clm_is_refused():
    with pytest.raises(InputError, match="sees the character that it must predict"):
        LanguageModel(objective="clm", is_causal=False)


def test_windows_too_short_to_mask_anything_are_refused():
    LanguageModel(depth=1, width=4, heads=1, objective="clm").build(data(context=3))
    with pytest.raises(InputError, match=r"data\.context 3"):
        LanguageModel(depth=1, width=4, heads=1, objective="mlm").build(data(context=3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0}, r"model\.width must be at least 1 \(got 0\)"),
        ({"depth": 0}, r"model\.depth must be at least 1"),
        ({"heads": -1}, r"model\.heads must be at least 1"),
        ({"width": 10, "heads": 3}, r"model\.width 10 cannot be shared by 3 heads"),
        ({"warmup_steps": -1}, r"model\.warmup_steps must be at least 0"),
        ({"dropout": 1.0}, r"model\.dropout must be at least 0 and less than 1"),
        ({"dropout": math.nan}, r"model\.dropout"),
        ({"final_learning_rate": -0.1}, r"model\.final_learning_rate must be a share"),
        ({"architecture": "llama", "heads": 0}, r"model\.heads must be at least 1"),
    ],
)
def test_impossible_settings_are_refused_by_the_name_that_the_user_wrote(settings, words):
    with pytest.raises(InputError, match=words):
        LanguageModel(**settings)


@pytest.mark.parametrize("setting", [{"norm": "odd"}, {"positions": "odd"}])
def test_an_unknown_choice_is_refused_by_the_name_that_the_user_wrote(setting):
    (name,) = setting
    with pytest.raises(InputError, match=rf"model\.{name} must be one of"):
        LanguageModel(depth=1, width=4, heads=1, **setting).build(data())


def test_an_unknown_objective_is_refused():
    with pytest.raises(InputError, match="clm or mlm"):
        LanguageModel(objective="rtd")
