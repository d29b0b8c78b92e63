"""Pooling against loops, and the configurations of sentence-transformers."""

import json

import pytest
import torch

from dynamics.errors import Refusal
from dynamics.experiments.cone.pooling import MODES, Setup, setup


def test_modes_equal_a_loop():
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]).bool()
    rows = [states[mask] for states, mask in zip(x, kept, strict=True)]
    expected = {
        "mean": [row.mean(0) for row in rows],
        "cls": [row[0] for row in rows],
        "last": [row[-1] for row in rows],
        "max": [row.max(0).values for row in rows],
    }
    assert set(expected) == set(MODES)
    for mode, pool in MODES.items():
        torch.testing.assert_close(pool(x, kept), torch.stack(expected[mode]))


def encoder(folder, pooling=None, modules=("Transformer", "Pooling"), prompts=None, limits=None):
    """The files that sentence-transformers keeps."""
    named = [
        {"idx": i, "path": f"{i}_{kind}" if i else "", "type": f"s.models.{kind}"}
        for i, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(named))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_mean_tokens": True}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts or {}))
    (folder / "sentence_bert_config.json").write_text(json.dumps(limits or {}))
    return str(folder)


def test_a_model_without_configuration_is_pooled_by_the_mean(tmp_path):
    assert setup(str(tmp_path)) == setup("") == Setup()
    assert setup("", pooling="cls", prompt="query: ", normalize=True) == Setup("cls", True, "query: ")


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": "max"}, "max"),
    ],
)
def test_the_models_own_pooling(tmp_path, pooling, mode):
    assert setup(encoder(tmp_path, pooling)).mode == mode
    assert setup(str(tmp_path), pooling="mean").mode == "mean"


def test_prompts_length_case_and_normalisation(tmp_path):
    path = encoder(
        tmp_path,
        {"pooling_mode_mean_tokens": True, "include_prompt": False},
        ("Transformer", "Pooling", "Normalize"),
        {"prompts": {"query": "Q: ", "passage": "P: "}, "default_prompt_name": "query"},
        {"max_seq_length": 128, "do_lower_case": True},
    )
    own = setup(path)
    assert own == Setup("mean", True, "Q: ", False, 128, True, "sentence-transformers")
    assert own.prepare("A Cat") == "q: a cat"
    assert setup(path, prompt="passage").prompt == "P: "
    assert setup(path, prompt="").prompt == ""
    assert setup(path, normalize=False).normalize is False


def test_what_cannot_be_followed_is_said(tmp_path, caplog):
    path = encoder(tmp_path, modules=("Transformer", "Pooling", "Dense"))
    assert setup(path).left_out == ("Dense",)
    assert "Dense" in caplog.text
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}'
    )
    with pytest.raises(Refusal, match="mean and cls"):
        setup(path)
    assert setup(path, pooling="mean").mode == "mean"
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(Refusal, match="no JSON"):
        setup(path)
    with pytest.raises(Refusal, match="median"):
        setup("", pooling="median")
