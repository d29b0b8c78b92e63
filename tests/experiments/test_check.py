"""`dynamics check`: a table and a verdict for every model, its exit code, and its trace in runs and on pages."""

import re
from pathlib import Path

import pytest

from dynamics import runs
from dynamics.capture import AttentionCall
from dynamics.cli.main import main
from dynamics.measure import checked
from tests.runs import fit


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def exit_code(*words) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["check", *words])
    return int(exit_.value.code)


def wrong(monkeypatch):
    """Capture attention that is not the model's."""
    logits = AttentionCall.logits
    monkeypatch.setattr(AttentionCall, "logits", lambda call, *args: 2 * logits(call, *args))
    monkeypatch.setattr(checked, "_VERDICTS", {})


@pytest.mark.parametrize("model", ["random:gpt2", "random:t5", "random:vit", "random:wav2vec2"])
def test_the_verdict_is_a_table(workplace, capsys, model):
    main(["check", model])
    out = capsys.readouterr().out
    rows = re.findall(r"│ (\w[\w, ]*?) +│ (\w[\w ()]*?) +│ (\S+) +│ verified │", out)
    assert {float(row[2]) <= 1e-4 for row in rows} == {True}
    assert len(rows) >= 3
    assert f"{model}@seed0: verified" in out


def test_a_module_that_encodes_texts_itself(workplace, capsys):
    main(["check", "--module", "tests.experiments.factories:Letters"])
    assert "Letters@local: verified" in capsys.readouterr().out


def test_a_disagreement_is_exit_code_one_and_the_others_are_checked(workplace, capsys, monkeypatch):
    wrong(monkeypatch)
    assert exit_code("random:gpt2", "random:resnet") == 1
    printed = capsys.readouterr()
    assert "random:gpt2@seed0: refused: queries, keys, attention: layer 1 differs by" in printed.out
    assert "random:resnet@seed0: verified" in printed.out
    assert printed.err == "dynamics: refused: random:gpt2@seed0.\n"


def test_a_model_that_cannot_be_loaded_does_not_keep_the_others_from_their_check(workplace, capsys):
    (workplace / "empty").mkdir()
    (workplace / "empty" / "config.json").write_text('{"model_type": "gpt2"}')
    assert exit_code("./empty", "random:resnet") == 1
    printed = capsys.readouterr()
    assert "empty@local: not loaded (" in printed.out
    assert "random:resnet@seed0: verified" in printed.out
    assert printed.err == "dynamics: not loaded: empty@local.\n"
    assert exit_code("./empty") == 2
    assert "empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["./nowhere"], "there is no model at ./nowhere: the folder does not exist."),
        (["random:gpt3"], "transformers has no architecture gpt3: did you mean"),
        ([], "name at least one model"),
        (["random:gpt2", "--dtype", "fp64"], "--dtype must be fp32, bf16 or fp16 (got fp64)."),
        (["random:gpt2", "--metrics", "[isoscore]"], "--metrics"),
    ],
)
def test_bad_input_is_one_sentence(workplace, capsys, words, sentence):
    assert exit_code(*words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("dynamics: ")
    assert sentence in line


def test_the_verdict_of_training_stands_in_its_run_and_on_its_page(workplace, text_file, capsys):
    fit(text_file, "tiny", trainer__max_steps=2)
    assert "; capture verified" in capsys.readouterr().out
    assert runs.read("tiny").capture == "verified"
    main(["report", "tiny"])
    assert re.search(r"capture</th>.*?verified", Path("report.html").read_text(), re.DOTALL)


def test_a_scan_that_would_measure_something_else_is_refused(workplace, capsys, monkeypatch):
    words = ["scan", "random:gpt2", "--text", "sample", "--inputs", "2", "--metrics", "[mean_norm]", "--run", "r"]
    main(words)
    assert runs.read("r").subjects["random:gpt2@seed0"]["capture"] == "verified"
    assert "capture verified" in capsys.readouterr().out
    wrong(monkeypatch)
    monkeypatch.setenv("DYNAMICS_CACHE", str(workplace / "another"))
    with pytest.raises(SystemExit) as exit_:
        main([*words[:-1], "again"])
    assert exit_.value.code in (1, 2)
    assert "is not what the model computes" in " ".join(capsys.readouterr().err.split())
