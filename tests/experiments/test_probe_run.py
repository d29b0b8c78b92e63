"""`dynamics probe` from the command line."""

import json
from pathlib import Path

import pytest
import yaml

from dynamics import record
from dynamics.cli.main import main
from dynamics.experiments.probe import run as probe_run
from dynamics.experiments.probe.design import Settings

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "probe.yaml"
SMALL = {"width": 16, "heads": 2, "length": 8, "batch": 2, "seeds": 2, "beta": "[0,4]", "device": "cpu"}


def probe(*words, config=True, **settings):
    chosen = [word for key, value in {**SMALL, **settings}.items() for word in (f"--{key}", str(value))]
    main(["probe", *(["--config", str(CONFIG)] if config else []), *chosen, *words])


def told(run):
    return json.loads((Path("checkpoints") / run / "run.json").read_text())


def test_a_run_leaves_record_provenance_and_page(workplace, capsys):
    probe("--run", "p")
    folder = Path("checkpoints/p")
    assert sorted(path.name for path in folder.iterdir()) == ["record", "report.html", "run.json"]
    run = told("p")
    assert (run["kind"], run["status"], run["width"], run["seeds"]) == ("probe", "done", 16, 2)
    assert "commit" in run
    assert "architecture" not in run
    assert [(design["tokens"], design["width"], design["layers"]) for design in run["designs"]] == [(8, 16, 2)]
    rows = record.read("p")
    assert set(rows["site"]) == {"residual", "attention"}
    assert (rows["run"] == "p").all()
    assert rows["value"].notna().mean() > 0.9
    said = capsys.readouterr()
    assert "checkpoints/p/report.html" in said.out
    assert said.err == ""  # no bar where there is no terminal


def test_the_page_shows_the_probe(workplace):
    probe("--run", "p")
    html = Path("checkpoints/p/report.html").read_text()
    assert "<h1>Untrained blocks</h1>" in html
    assert html.count('"heatmap"') >= 8
    assert "random blocks, lecun" in html


def test_without_a_configuration_or_a_name(workplace, capsys):
    probe(config=False)
    (folder,) = Path("checkpoints").iterdir()
    assert folder.name.startswith("probe-")
    assert folder.name in capsys.readouterr().out


def test_the_configuration_holds_the_defaults():
    settings = yaml.safe_load(CONFIG.read_text())
    assert Settings(**settings) == Settings()


def test_the_same_command_gives_the_same_record(workplace):
    probe("--run", "a")
    probe("--run", "b")
    a, b = (record.read(run).drop(columns="run") for run in "ab")
    assert a.equals(b)


def test_an_architecture_in_the_place_of_random_blocks(workplace):
    probe("--run", "p", "--architecture", "gpt2", "--bias", "input")
    rows, run = record.read("p"), told("p")
    assert set(rows["subject"]) == {"gpt2"}
    assert run["architecture"] == "gpt2"
    assert "initialization" not in run
    assert rows["condition"].str.contains("part=mlp").any()


def test_a_network_without_attention_has_states_alone(workplace):
    probe("--run", "p", "--architecture", "resnet", "--metrics", "[mean_cosine, entropy]")
    assert set(record.read("p")["metric"]) == {"mean_cosine"}


def test_a_sweep_of_designs_is_compared(workplace):
    probe("--run", "p", "--norm", "[none, post]", "--causal", "[true, false]")
    assert len(told("p")["designs"]) == 4
    conditions = record.read("p")["condition"]
    assert conditions.str.contains("causal=True").any()
    assert conditions.str.contains("norm=post").any()
    assert "The designs compared" in Path("checkpoints/p/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--width", "100", "--heads", "3"], "cannot be shared by 3 heads"),
        (["--beta", "[-1]"], "must be 0 or more"),
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--initialization", "glorot"], "initialization must be one of"),
        (["--norm", "rms"], "norm must be one of"),
        (["--architecture", "gpt-2"], "did you mean"),
        (["--metrics", "[isotropy]"], "no metric named isotropy"),
        (["--width", "wide"], "width must be int"),
        (["--widht", "3"], "did you mean --width?"),
        (["--config", "missing.yaml"], "cannot read the configuration missing.yaml"),
        (["--config", __file__], "test_probe_run.py is not valid YAML"),
        (["--run"], "--run needs a value."),
        (["--batch", str(10**13)], "try --batch 5000000000000."),
    ],
)
def test_bad_input_is_refused_in_one_sentence_and_leaves_nothing(workplace, capsys, words, said):
    with pytest.raises(SystemExit) as exit_:
        probe("--run", "p", *words)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert said in error
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


def test_a_run_that_is_stopped_says_so(workplace, monkeypatch):
    parts = []

    def stop(self, *args, **options):
        parts.append(args)
        if len(parts) > 1:
            raise KeyboardInterrupt
        return write(self, *args, **options)

    write = record.Record.write
    monkeypatch.setattr(probe_run.Record, "write", stop)
    with pytest.raises(SystemExit) as exit_:
        probe("--run", "p")
    assert exit_.value.code == 1
    assert told("p")["status"] == "interrupted"
    assert len(record.read("p")) == len(parts[0][1])
    with pytest.raises(SystemExit):
        probe("--run", "q")
    assert not Path("checkpoints/q").exists()  # nothing was measured
