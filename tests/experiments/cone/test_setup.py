"""What a model's own configuration says: the files of sentence-transformers, in a folder or in the hub's cache."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from dynamics.errors import InputError
from dynamics.experiments.cone.setup import Setup, read_setup
from dynamics.loading.models import load
from dynamics.loading.options import ModelOptions
from dynamics.loading.subjects import expand
from tests.experiments.cone.factories import TANH, dense_layer, encoder
from tests.experiments.test_scan import save


def test_a_model_without_files_is_pooled_by_the_mean():
    assert read_setup("") == Setup()
    assert read_setup("", pooling="cls", prompt="query: ", normalize=True) == Setup("cls", True, "query: ")
    assert not list(read_setup("").notes("m"))


def test_a_pooling_that_is_guessed_is_named(tmp_path):
    """Neither file, no pooling among the modules, a pooling without its configuration; nothing where it is asked."""
    found = read_setup(str(tmp_path))
    assert (found.mode, found.source, found.guessed) == ("mean", "default", "there is no modules.json")
    (said,) = found.notes("m")
    assert said.startswith("m: its pooling is guessed to be the mean (there is no modules.json)")
    assert read_setup(str(tmp_path), pooling="cls") == Setup("cls")
    path = encoder(tmp_path, {"pooling_mode_cls_token": True})
    assert not read_setup(path).guessed
    (tmp_path / "1_Pooling" / "config.json").unlink()
    found = read_setup(path)
    assert (found.mode, found.guessed) == ("mean", "there is no 1_Pooling/config.json")
    (tmp_path / "modules.json").write_text('[{"idx": 0, "path": "", "type": "s.models.Transformer"}]')
    assert read_setup(path).guessed == "there is no pooling in its modules.json"


CACHED = """
from dynamics.experiments.cone.setup import read_setup
print(read_setup("some/encoder").guessed)
"""


@pytest.mark.parametrize("known", [True, False])
def test_weights_in_the_cache_of_the_hub_without_their_configuration(tmp_path, known):
    place = tmp_path / "models--some--encoder"
    folder = place / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123abc")
    (folder / "config.json").write_text("{}")
    if known:
        encoder(folder)
    told = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CACHED], env={"PATH": "", **told}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ("" if known else "there is no modules.json")


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
    assert read_setup(encoder(tmp_path, pooling)).mode == mode
    assert read_setup(str(tmp_path), pooling="mean").mode == "mean"


def test_prompts_length_case_and_normalisation(tmp_path):
    path = encoder(
        tmp_path,
        {"pooling_mode_mean_tokens": True, "include_prompt": False},
        ("Transformer", "Pooling", "Normalize"),
        {"prompts": {"query": "Q: ", "passage": "P: "}, "default_prompt_name": "query"},
        {"max_seq_length": 128, "do_lower_case": True},
    )
    own = read_setup(path)
    assert own == Setup("mean", True, "Q: ", False, 128, True, "sentence-transformers")
    assert own.prepare("A Cat") == "q: a cat"
    assert read_setup(path, prompt="passage").prompt == "P: "
    assert read_setup(path, prompt="").prompt == ""
    assert read_setup(path, normalize=False).normalize is False


@pytest.mark.parametrize(("kind", "limits"), [("Transformer", "bert"), ("RoBERTa", "roberta")])
def test_the_layout_of_older_versions(workplace, kind, limits):
    """The transformer lies in a folder of its own, with its length and case."""
    path = workplace / "old"
    path.mkdir()
    encoder(path, {"pooling_mode_cls_token": True}, (kind, "Pooling"))
    (path / "sentence_bert_config.json").unlink()
    modules = json.loads((path / "modules.json").read_text())
    modules[0]["path"] = f"0_{kind}"
    (path / "modules.json").write_text(json.dumps(modules))
    save("bert", path / f"0_{kind}")
    (path / f"0_{kind}" / f"sentence_{limits}_config.json").write_text('{"max_seq_length": 7, "do_lower_case": true}')
    setup = read_setup(str(path))
    assert (setup.mode, setup.length, setup.lower, setup.left_out) == ("cls", 7, True, ())
    (subject,) = expand(ModelOptions([str(path)]))
    assert subject.name == "old@local"
    assert load(subject, ModelOptions([])).source == str(path / f"0_{kind}")


def test_what_cannot_be_followed_is_said(tmp_path):
    path = encoder(tmp_path, modules=("Transformer", "Pooling", "LayerNorm"))
    assert read_setup(path).left_out == ("LayerNorm",)
    assert list(read_setup(path).notes("m")) == ["m: vectors are taken before LayerNorm, which is not applied"]
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}'
    )
    with pytest.raises(InputError, match="mean and cls"):
        read_setup(path)
    assert read_setup(path, pooling="mean").mode == "mean"
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(InputError, match=r"modules\.json is not the JSON"):
        read_setup(path)
    with pytest.raises(InputError, match="median"):
        read_setup("", pooling="median")


def test_dense_layers_equal_numpy(tmp_path):
    first, one = dense_layer(tmp_path, "2_Dense", 6, 4, TANH, 0)
    second, _ = dense_layer(tmp_path, "3_Dense", 4, 3, "torch.nn.modules.linear.Identity", 1, bias=False)
    found = read_setup(encoder(tmp_path, modules=("Transformer", "Pooling", "Dense", "Dense", "Normalize")))
    assert found.left_out == ()
    assert found.facts()["dense"] == ["6 to 4, Tanh", "4 to 3, Identity"]
    assert json.dumps(found.facts())
    x = np.random.default_rng(2).normal(size=(5, 6))
    expected = np.tanh(x @ first.T + one) @ second.T
    narrow, identity = found.dense
    np.testing.assert_allclose(identity(narrow(torch.from_numpy(x))), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("modules", "more"),
    [
        (("Transformer", "Pooling", "Dense"), {"activation_function": "builtins.print"}),
        (("Transformer", "Pooling", "Dense"), {"activation_function": "torch.nn.Bilinear"}),
        (("Transformer", "Pooling", "Dense"), {"use_residual": True}),
        (("Transformer", "Pooling", "Dense"), {"module_input_name": "token_embeddings"}),
        (("Transformer", "Pooling", "Normalize", "Dense"), {}),
        (("Transformer", "Pooling", "LayerNorm", "Dense"), {}),
    ],
)
def test_a_dense_layer_that_is_more_than_that_is_left_out(tmp_path, modules, more):
    dense_layer(tmp_path, f"{len(modules) - 1}_Dense", 6, 6, TANH, 0, **more)
    found = read_setup(encoder(tmp_path, modules=modules))
    assert not found.dense
    assert "Dense" in found.left_out


def test_pickled_or_damaged_layers(tmp_path):
    dense_layer(tmp_path, "2_Dense", 6, 6, TANH, 0)
    weights = tmp_path / "2_Dense" / "model.safetensors"
    weights.write_bytes(b"nothing")
    path = encoder(tmp_path, modules=("Transformer", "Pooling", "Dense"))
    with pytest.raises(InputError, match=r"2_Dense/model.safetensors holds no linear layer"):
        read_setup(path)
    weights.rename(weights.with_name("pytorch_model.bin"))
    assert read_setup(path).left_out == ("Dense",)
