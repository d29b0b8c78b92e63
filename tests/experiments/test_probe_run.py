"""`dynamics probe` from the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dynamics import record
from dynamics.cli.main import main
from dynamics.errors import InputError
from dynamics.experiments.probe import run as probe_run
from dynamics.experiments.probe.design import ProbeSettings
from tests.report.test_page import figures

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "probe.yaml"
SMALL = {"width": 16, "heads": 2, "length": 8, "batch": 2, "seeds": 2, "beta": "[0,4]", "device": "cpu"}


def probe(*words, config=True, **settings):
    options = [word for key, value in {**SMALL, **settings}.items() for word in (f"--{key}", str(value))]
    main(["probe", *(["--config", str(CONFIG)] if config else []), *options, *words])


def facts(run):
    return json.loads((Path("checkpoints") / run / "run.json").read_text())


def test_a_run_leaves_record_provenance_and_page(workplace, capsys):
    probe("--run", "p")
    folder = Path("checkpoints/p")
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["record", "report.html", "run.json"]
    run = facts("p")
    assert (run["kind"], run["status"], run["width"], run["seeds"]) == ("probe", "done", 16, 2)
    assert "commit" in run
    assert "architecture" not in run
    assert [(design["tokens"], design["width"], design["layers"]) for design in run["designs"]] == [(8, 16, 2)]
    rows = record.read("p")
    assert set(rows["site"]) == {"residual", "attention"}
    assert (rows["run"] == "p").all()
    assert rows["value"].notna().mean() > 0.9
    printed = capsys.readouterr()
    assert "checkpoints/p/report.html" in printed.out
    assert printed.err == ""  # no bar where there is no terminal


def test_the_page_shows_the_probe(workplace):
    probe("--run", "p")
    html = Path("checkpoints/p/report.html").read_text()
    assert "<h1>Untrained blocks</h1>" in html
    assert sum(trace["type"] == "heatmap" for figure in figures(html) for trace in figure["data"]) >= 8
    assert "random blocks, lecun" in html


def test_without_a_configuration_or_a_name(workplace, capsys):
    probe(config=False)
    (folder,) = Path("checkpoints").iterdir()
    assert folder.name.startswith("probe-")
    assert folder.name in capsys.readouterr().out


def test_the_configuration_holds_the_defaults():
    settings = yaml.safe_load(CONFIG.read_text())
    assert ProbeSettings(**settings) == ProbeSettings()


def test_the_same_command_gives_the_same_record(workplace):
    probe("--run", "a")
    probe("--run", "b")
    a, b = (record.read(run).drop(columns="run") for run in "ab")
    assert a.equals(b)


def test_an_architecture_in_the_place_of_random_blocks(workplace):
    probe("--run", "p", "--architecture", "gpt2", "--bias", "input")
    rows, run = record.read("p"), facts("p")
    assert set(rows["subject"]) == {"gpt2"}
    assert run["architecture"] == "gpt2"
    assert "initialization" not in run
    assert rows["condition"].str.contains("part=mlp").any()


def test_a_network_without_attention_has_states_alone(workplace):
    probe("--run", "p", "--architecture", "resnet", "--metrics", "[mean_cosine, entropy]")
    assert set(record.read("p")["metric"]) == {"mean_cosine"}


def test_one_of_several_architectures_that_does_not_run_is_named_and_the_others_are_measured(workplace, capsys):
    names = "[nothing, gpt2, longformer]"  # the attention of the last is not heard, its outputs are
    with pytest.raises(SystemExit) as exit_:
        probe("--run", "p", "--architecture", names, "--seeds", "1", "--beta", "[0]", "--width", "64")
    assert exit_.value.code == 1
    assert "no architecture nothing" in capsys.readouterr().err
    rows, run = record.read("p"), facts("p")
    assert set(rows["subject"]) == {"gpt2", "longformer"}
    assert set(run["failed"]) == {"nothing, untrained"}
    assert run["status"] == "failed"
    outputs = rows[rows["condition"].str.contains("part=attention")]
    assert set(outputs["layer"]) == set(range(1, 1 + max(outputs["layer"])))


def test_a_sweep_of_designs_is_compared(workplace):
    probe("--run", "p", "--norm", "[none, post]", "--causal", "[true, false]")
    assert len(facts("p")["designs"]) == 4
    conditions = record.read("p")["condition"]
    assert conditions.str.contains("causal=True").any()
    assert conditions.str.contains("norm=post").any()
    assert "The designs compared" in Path("checkpoints/p/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--width", "100", "--heads", "3"], "width 100 is not divisible by heads 3"),
        (["--beta", "[-1]"], "must be 0 or more"),
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--initialization", "glorot"], "initialization must be one of"),
        (["--norm", "rms"], "norm must be one of"),
        (["--architecture", "gpt-2"], "did you mean"),
        (["--architecture", "[nothing, nobody]"], "did you mean gpt2, bert, llama? transformers has no"),
        (["--metrics", "[isotropy]"], "no metric named isotropy"),
        (["--width", "wide"], "width must be int"),
        (["--widht", "3"], "did you mean --width?"),
        (["--config", "missing.yaml"], "missing.yaml cannot be read"),
        (["--config", __file__], "test_probe_run.py is not valid YAML"),
        (["--run"], "--run needs a value."),
        (["--batch", str(10**13)], "try --batch 5000000000000."),
    ],
)
def test_bad_input_is_refused_in_one_sentence_and_leaves_nothing(workplace, capsys, words, sentence):
    with pytest.raises(SystemExit) as exit_:
        probe("--run", "p", *words)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert error.endswith((".\n", "?\n", ".)\n"))
    assert not Path("checkpoints/p").exists()


def test_a_name_that_exists_is_refused_and_its_run_is_kept(workplace, capsys):
    probe("--run", "p")
    before = record.read("p")
    with pytest.raises(SystemExit) as exit_:
        probe("--run", "p", "--seeds", "1")
    assert exit_.value.code == 2
    assert "a run named p exists" in capsys.readouterr().err
    assert record.read("p").equals(before)


def stop_after(monkeypatch, parts):
    """Interrupt the run where it would write another part; returns the parts that were written."""
    written = []

    def stop(self, step, rows, **options):
        if len(written) == parts:
            raise KeyboardInterrupt
        written.append(rows)
        return write(self, step, rows, **options)

    write = record.Record.write
    monkeypatch.setattr(probe_run.Record, "write", stop)
    return written


def test_an_interrupted_run_keeps_what_it_has(workplace, monkeypatch):
    written = stop_after(monkeypatch, 1)
    with pytest.raises(SystemExit) as exit_:
        probe("--run", "p")
    assert exit_.value.code == 130
    assert facts("p")["status"] == "interrupted"
    assert len(record.read("p")) == len(written[0])
    with pytest.raises(SystemExit):
        probe("--run", "q")
    assert not Path("checkpoints/q").exists()  # nothing was measured


def test_a_resumed_run_ends_with_the_same_record(workplace, monkeypatch):
    settings = ProbeSettings(
        **{"width": 16, "heads": 2, "length": 8, "batch": 2, "seeds": 2, "beta": [0.0, 4.0], "device": "cpu"},
        norm=["none", "pre"],
    )
    probe_run.probe(settings, "whole")
    for run, parts in (("early", 1), ("late", 6)):
        with monkeypatch.context() as patch:
            stop_after(patch, parts)
            with pytest.raises(KeyboardInterrupt):
                probe_run.probe(settings, run)
        with monkeypatch.context() as patch:
            written = stop_after(patch, 99)
            probe_run.probe(settings, run, resume="auto")
        assert len(written) == 8 - parts
        assert record.read(run).drop(columns="run").equals(record.read("whole").drop(columns="run"))
        assert facts(run)["status"] == "done"
    written = stop_after(monkeypatch, 0)
    probe_run.probe(settings, "whole", resume="auto")  # nothing is left to measure
    assert not written


@pytest.mark.parametrize("change", [{"seeds": 3}, {"architecture": "gpt2"}, {"metrics": ["mean_norm"]}])
def test_a_run_is_resumed_with_its_own_settings_only(workplace, change):
    settings = ProbeSettings(width=16, heads=2, length=8, batch=2, seeds=1, beta=[0.0], bias="input", device="cpu")
    probe_run.probe(settings, "p")
    with pytest.raises(InputError, match=next(iter(change))):
        probe_run.probe(replace(settings, **change), "p", resume="auto")
