"""The protocols of papers, against the metrics' own functions on plain transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dynamics import runs
from dynamics.cli.main import main
from dynamics.experiments.scan import protocols
from dynamics.experiments.scan.options import ScanOptions
from dynamics.loading.encoder import encoder
from dynamics.loading.models import load
from dynamics.loading.subjects import expand
from dynamics.loading.text import open_text
from dynamics.metrics.anisotropy import anisotropy
from dynamics.record import read
from tests.experiments.test_scan import offline, refused  # noqa: F401 (offline is a fixture)

SIZE = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 259}


@pytest.fixture
def long(workplace) -> Path:
    words = np.random.default_rng(0).choice(["the", "cat", "sat", "on", "a", "mat"], size=30_000)
    path = workplace / "long.txt"
    path.write_text(" ".join(words))
    return path


def scan(*words):
    main(["scan", "random:gpt2", "--config-overrides", str(SIZE), "--run", "r", *map(str, words)])
    return read("r"), runs.read("r").to_dict()


def test_the_shape_of_learning(long):
    """128 windows of 512 characters in groups of 4096 tokens: mean and deviation; the last layer after the norm."""
    frame, told = scan("--text", long, "--protocol", "shape-of-learning")
    facts = told["subjects"]["random:gpt2@seed0"]
    assert (facts["groups"], facts["input"]["tokens"]) == (16, 128 * 512)
    options = ScanOptions(["random:gpt2"], text=str(long), config_overrides=SIZE)
    loaded = load(expand(options)[0], options)
    found = list(protocols.groups(open_text(options), encoder(loaded, None), seed=0))
    assert [sum(map(len, group)) for group in found] == [4096] * 16
    spelled = sorted(bytes(i - 3 for i in window).decode() for group in found for window in group)
    whole = long.read_text()
    assert spelled == sorted(whole[at : at + 512] for at in range(0, 128 * 512, 512))
    values = []
    with torch.no_grad():
        for group in found:
            states = loaded.model(torch.tensor(group), output_hidden_states=True).hidden_states
            values.append([float(anisotropy(x.flatten(0, 1))) for x in states])
    frame = frame[frame["condition"] == "protocol=shape-of-learning"].set_index(["metric", "site", "layer"])
    mean, deviation = np.mean(values, 0), np.std(values, 0, ddof=1)
    for layer, place in ((0, "residual"), (1, "residual"), (2, "output")):
        assert frame.loc[("anisotropy", place, layer), "value"] == pytest.approx(mean[layer], rel=1e-5)
        found_deviation = frame.loc[("anisotropy_deviation", place, layer), "value"]
        assert found_deviation == pytest.approx(deviation[layer], rel=1e-3)
    assert ("intrinsic_dimension_lowest_20", "output", 2) in frame.index


def test_a_text_that_is_too_short_for_the_protocol(workplace, capsys):
    (workplace / "short.txt").write_text("short " * 100)
    said = refused(
        capsys, "random:bert", "--text", "short.txt", "--protocol", "shape-of-learning", metrics="[anisotropy]"
    )
    assert "needs 128" in said
    assert not Path("checkpoints/r").exists()


def test_inherent_measures_cone_and_drift(long):
    frame, _ = scan("--text", long, "--protocol", "inherent", "--tokens", "2048")
    measured = frame[frame["site"] != "cost"]
    assert set(measured["metric"]) == {"mean_cosine", "norm_of_mean", "mean_norm"}
    assert set(measured["site"]) == {"residual", "output", "query", "key"}
    assert set(measured["condition"]) == {"protocol=inherent"}
    assert (measured.loc[measured["site"] == "residual", "n"] == 2048).all()
