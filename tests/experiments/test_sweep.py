"""A sweep: its points, what is skipped, what fails, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import yaml

from dynamics import record, runs
from dynamics.cli.main import main
from dynamics.errors import InputError
from dynamics.experiments import sweep
from dynamics.runs import write_run
from dynamics.training.checkpoint import states
from tests.runs import CONFIGS, TINY, arguments


@pytest.fixture(autouse=True)
def here(workplace):
    return workplace


def config(path, **changes):
    settings = {
        "fit": {"plain": "--config a.yaml --data.corpus 'my text.txt'"},
        "vary": {"istar": {"option": "--model.regularizers.weight={}", "values": [-2, 0.5]}},
        "seeds": [0, 1],
    }
    path.write_text(yaml.safe_dump({**settings, **changes}))
    return path


def test_every_value_and_seed_is_a_run(here):
    made = sweep.points(config(here / "s.yaml"), "s", ["--trainer.max_steps", "9"])
    assert [point.name for point in made] == [
        *("s-plain-istar_-2-seed_0", "s-plain-istar_0.5-seed_0"),
        *("s-plain-istar_-2-seed_1", "s-plain-istar_0.5-seed_1"),
    ]
    assert made[0].words == (
        *("--config", "a.yaml", "--data.corpus", "my text.txt", "--model.regularizers.weight=-2"),
        *("--trainer.max_steps", "9", "--seed_everything", "0"),
    )


@pytest.mark.parametrize("name", ["istar-sweep", "istar-sweep-twins"])
def test_the_sweeps_that_come_along_are_whole(name):
    made = sweep.points(CONFIGS / f"{name}.yaml", name)
    fits = {"istar-sweep": 1, "istar-sweep-twins": 2}[name]
    assert len({point.name for point in made}) == len(made) == fits * (9 + 8) * 3


def run(code, told=None, said=""):
    """Stands for the process of `dynamics fit`; `told` gives the status that it leaves."""

    def fake(command, stdout, **_):
        name = command[command.index("--run") + 1]
        calls.append(name)
        print(said, file=stdout)
        failing = code if "seed_1" in name or told else 0
        if told or not failing:
            write_run(runs.CHECKPOINTS / name, {"status": told or "done"})
        return SimpleNamespace(wait=lambda: failing)

    calls = []
    fake.calls = calls
    return fake


def test_what_is_complete_is_skipped_and_a_failure_stops_nothing(here, monkeypatch, capsys):
    path = config(here / "s.yaml")
    failing = run(1, said="dynamics: there is no text.")
    monkeypatch.setattr(sweep.subprocess, "Popen", failing)
    complete, failed = sweep.sweep(path, "s")
    assert len(failing.calls) == 4
    assert complete == ["s-plain-istar_-2-seed_0", "s-plain-istar_0.5-seed_0"]
    assert failed == dict.fromkeys(("s-plain-istar_-2-seed_1", "s-plain-istar_0.5-seed_1"), "there is no text.")
    assert "[4/4]" in capsys.readouterr().out
    again = run(0)
    monkeypatch.setattr(sweep.subprocess, "Popen", again)
    complete, failed = sweep.sweep(path, "s")
    assert again.calls == ["s-plain-istar_-2-seed_1", "s-plain-istar_0.5-seed_1"]
    assert (len(complete), failed) == (4, {})


def test_a_run_that_was_asked_to_stop_stops_the_sweep(here, monkeypatch):
    stopped = run(1, told="interrupted")
    monkeypatch.setattr(sweep.subprocess, "Popen", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(config(here / "s.yaml"), "s")
    assert len(stopped.calls) == 1


def test_an_interrupted_sweep_lets_its_run_save_itself(here, text_file):
    words = f"--config {CONFIGS}/decoder.yaml --data.corpus {text_file}"
    rates = {"option": "--model.learning_rate={}", "values": [0.1]}
    path = config(here / "s.yaml", fit={"plain": words}, vary={"rate": rates})
    settings = TINY | {"trainer.max_steps": 100_000, "checkpoints.every": 97}
    command = [sys.executable, "-m", "dynamics", "sweep", str(path), "--run", "s", *arguments(settings)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    folder = runs.CHECKPOINTS / "s-plain-rate_0.1-seed_0"
    while not states(folder) and process.poll() is None:  # training, at last
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (1, "dynamics: interrupted.")
    assert runs.read(folder).to_dict()["status"] == "interrupted"
    frame = record.read(folder)
    last = frame[frame.metric == "loss"].step.max()
    assert states(folder)[0].name == f"step-{last:010d}.ckpt"


def test_other_options_under_the_same_name_are_refused(here, monkeypatch):
    monkeypatch.setattr(sweep.subprocess, "Popen", run(0))
    sweep.sweep(config(here / "s.yaml"), "s")
    with pytest.raises(InputError, match="made with other options"):
        sweep.sweep(here / "s.yaml", "s", more=["--trainer.max_steps", "3"])


def test_a_dry_run_prints_commands_and_leaves_nothing(here, capsys):
    main(["sweep", str(config(here / "s.yaml")), "--dry-run", "--trainer.max_steps", "9"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("dynamics fit --run s-plain-istar_-2-seed_0 --config a.yaml")
    assert printed[-1] == "4 runs, 0 of them complete"
    assert not runs.CHECKPOINTS.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fit": {}}, "fit must hold"),
        ({"vary": {"a": {"option": "--x=1", "values": [1]}}}, "an option with {} in it"),
        ({"vary": {"a": {"option": "--x={}", "values": []}}}, "a list of values"),
        ({"seeds": [0.5]}, "whole numbers"),
        ({"more": 1}, "nothing else"),
        ({"fit": {"a": "--run b"}}, "--run is the sweep's own"),
    ],
)
def test_what_makes_no_sense_is_refused(here, capsys, changes, words):
    with pytest.raises(SystemExit) as exit_:
        main(["sweep", str(config(here / "s.yaml", **changes)), "--dry-run"])
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def test_an_unknown_launcher_is_refused(here):
    with pytest.raises(InputError, match="--launcher must be local"):
        sweep.sweep(config(here / "s.yaml"), "s", "mars")


def test_a_sweep_trains_and_draws(here, text_file):
    """For real: two processes and the page."""
    words = " ".join(["--config", str(CONFIGS / "decoder.yaml"), *arguments(TINY | {"data.corpus": text_file})])
    words = words.replace("[anisotropy, drift, entropy]", "'[isoscore, intrinsic_dimension]'")
    option = "--model.regularizers+=IStar --model.regularizers.weight={}"
    path = config(here / "s.yaml", fit={"d": words}, vary={"istar": {"option": option, "values": [-2, 0]}}, seeds=[0])
    main(["sweep", str(path)])
    html = (runs.CHECKPOINTS / "s" / "report.html").read_text()
    assert 'id="shaping"' in html
    assert len(json.loads((runs.CHECKPOINTS / "s" / "sweep.json").read_text())) == 2
