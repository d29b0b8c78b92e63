"""A sweep: its cells, what is skipped, what fails, what is refused."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch
import yaml

from dynamics import record, runs
from dynamics.cli.main import main
from dynamics.errors import InputError, Interrupted
from dynamics.experiments.sweep import running
from dynamics.experiments.sweep.cells import read_cells
from dynamics.experiments.sweep.launchers import local
from dynamics.experiments.sweep.options import SweepOptions
from dynamics.experiments.sweep.running import sweep
from dynamics.lock import locked
from dynamics.run_info import SweepInfo
from dynamics.training.checkpoint import states
from tests.runs import CONFIGS, TINY, arguments, forget_digests


@pytest.fixture(autouse=True)
def here(workplace):
    return workplace


@pytest.fixture
def unasked(monkeypatch):
    """`dynamics fit` is not asked whether it refuses a cell: its words are made up."""
    monkeypatch.setattr(running, "Plan", lambda cells: SimpleNamespace(refuse=lambda: None))


def config(path, **changes):
    settings = {
        "fit": {"plain": "--config a.yaml --data.corpus 'my text.txt'"},
        "vary": {"istar": {"option": "--model.regularizers.weight={}", "values": [-2, 0.5]}},
        "seeds": [0, 1],
    }
    path.write_text(yaml.safe_dump({**settings, **changes}))
    return path


def run(code, status=None, output=""):
    """Stands for the process of `dynamics fit`: fails with `code` for seed 1, or leaves `status` in any case."""

    def fake(command, stdout, **_):
        name = command[command.index("--run") + 1]
        calls.append(name)
        stdout.write(f"{output}\n".encode())
        stdout.flush()
        failing = code if "seed_1" in name or status else 0
        if status or not failing:
            (runs.CHECKPOINTS / name).mkdir(exist_ok=True)
            (runs.CHECKPOINTS / name / "run.json").write_text(json.dumps({"kind": "fit", "status": status or "done"}))
        return SimpleNamespace(returncode=failing, poll=lambda: failing)

    calls = []
    fake.calls = calls
    return fake


def forked(words):
    """Run `dynamics` in a copy of this process, which need not import torch again."""

    def run():
        torch.set_num_threads(1)  # OpenMP has no threads in a copy
        main(words)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


class FitInACopy:
    """Stands for the process of `dynamics fit`: a copy of this one."""

    def __init__(self, command, **_):
        self._process = forked(command[command.index("fit") :])

    def poll(self):
        return self.returncode

    @property
    def returncode(self):
        return self._process.exitcode


def replace_fit(monkeypatch, popen):
    monkeypatch.setattr(
        local, "subprocess", SimpleNamespace(Popen=popen, STDOUT=subprocess.STDOUT, DEVNULL=subprocess.DEVNULL)
    )


def test_what_is_complete_is_skipped_and_a_failure_stops_nothing(here, unasked, monkeypatch, capsys):
    path = config(here / "s.yaml")
    failing = run(1, output="dynamics: there is no text.")
    replace_fit(monkeypatch, failing)
    complete, failed = sweep(SweepOptions(path))
    assert failing.calls[:4] == [cell.name for cell in read_cells(path, "s")]
    assert failing.calls[4:] == ["s-plain-istar_-2-seed_1", "s-plain-istar_0.5-seed_1"]  # once more
    assert complete == ["s-plain-istar_-2-seed_0", "s-plain-istar_0.5-seed_0"]
    assert failed == dict.fromkeys(("s-plain-istar_-2-seed_1", "s-plain-istar_0.5-seed_1"), "there is no text.")
    assert "[4/4]" in capsys.readouterr().out
    assert runs.read("s").status == "failed"
    assert runs.read("s").failed == failed
    again = run(0)
    replace_fit(monkeypatch, again)
    complete, failed = sweep(SweepOptions(path))
    assert again.calls == ["s-plain-istar_-2-seed_1", "s-plain-istar_0.5-seed_1"]
    assert (len(complete), failed) == (4, {})
    assert (runs.read("s").status, runs.read("s").failed) == ("done", {})


@pytest.mark.parametrize("code", [130, 143])
def test_a_run_that_was_asked_to_stop_stops_the_sweep(here, unasked, monkeypatch, code):
    stopped = run(code, status="interrupted")
    replace_fit(monkeypatch, stopped)
    with pytest.raises(Interrupted) as error:
        sweep(SweepOptions(config(here / "s.yaml")))
    assert error.value.number == code - 128
    assert len(stopped.calls) == 1
    info = runs.read("s")
    assert (info.kind, info.status, len(info.runs)) == ("sweep", "interrupted", 1)
    assert (runs.CHECKPOINTS / "s" / "s-plain-istar_-2-seed_0.log").is_file()


def test_an_interrupted_sweep_lets_its_run_save_itself(here, text_file, capfd):
    words = f"--config {CONFIGS}/decoder.yaml --data.corpus {text_file}"
    rates = {"option": "--model.learning_rate={}", "values": [0.1]}
    path = config(here / "s.yaml", fit={"plain": words}, vary={"rate": rates}, seeds=[0])
    settings = TINY | {"trainer.max_steps": 100_000, "checkpoints.every": 97}
    process = forked(["sweep", str(path), "--run", "s", *arguments(settings)])
    folder = runs.CHECKPOINTS / "s-plain-rate_0.1-seed_0"
    while not states(folder) and process.is_alive():  # training, at last
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)  # as a scheduler does; a terminal interrupts the run as well
    process.join()
    assert (process.exitcode, capfd.readouterr().err.strip()) == (143, "dynamics: interrupted.")
    assert runs.read(folder).to_dict()["status"] == "interrupted"
    frame = record.read(folder)
    last = frame[frame.metric == "loss"].step.max()
    assert states(folder)[0].name == f"step-{last:010d}.ckpt"


def test_other_options_under_the_same_name_are_refused(here, unasked, monkeypatch):
    replace_fit(monkeypatch, run(0))
    sweep(SweepOptions(config(here / "s.yaml")))
    with pytest.raises(InputError, match="made with other options"):
        sweep(SweepOptions(here / "s.yaml"), more=["--trainer.max_steps", "3"])


def test_runs_that_are_none_of_the_sweep_are_not_overwritten(here, unasked, monkeypatch):
    replace_fit(monkeypatch, run(0))
    sweep(SweepOptions(config(here / "s.yaml")))
    shutil.rmtree(runs.CHECKPOINTS / "s")
    with pytest.raises(InputError, match=r"the run s-plain-istar_-2-seed_0 exists and is none of this sweep: .*--run"):
        sweep(SweepOptions(here / "s.yaml"))


def test_what_a_sweep_has_begun_by_the_time_it_has_its_lock_is_not_forgotten(here, unasked, monkeypatch):
    def late(folder):
        begun = SweepInfo(run="s", runs={"other": ["--a", "b"]})
        runs.Run(folder, begun, resumed=False).save()
        return locked(folder)

    monkeypatch.setattr(runs, "locked", late)
    replace_fit(monkeypatch, run(0))
    sweep(SweepOptions(config(here / "s.yaml")))
    assert len(runs.read("s").runs) == 5
    assert runs.read("s").runs["other"] == ["--a", "b"]


def test_the_name_of_another_run_is_refused(here, unasked, monkeypatch):
    replace_fit(monkeypatch, run(0))
    runs.CHECKPOINTS.mkdir()
    (runs.CHECKPOINTS / "s").mkdir()
    (runs.CHECKPOINTS / "s" / "run.json").write_text('{"run": "s", "kind": "fit"}')
    forget_digests(runs.CHECKPOINTS)
    with pytest.raises(InputError, match="s is no sweep"):
        sweep(SweepOptions(config(here / "s.yaml")))


def test_a_second_process_is_refused(here, unasked, monkeypatch):
    """The sweep is started again from within one of its own runs."""
    path = config(here / "s.yaml")

    def again(command, stdout, **_):
        with pytest.raises(InputError, match="open in another process"):
            sweep(SweepOptions(path))
        raise KeyboardInterrupt

    replace_fit(monkeypatch, again)
    with pytest.raises(KeyboardInterrupt):
        sweep(SweepOptions(path))


def test_an_unknown_launcher_is_refused(here):
    with pytest.raises(InputError, match="launcher must be local or slurm"):
        sweep(SweepOptions(config(here / "s.yaml"), launcher="mars"))


def test_a_sweep_trains_and_draws(here, text_file, monkeypatch):
    """For real: two runs and the page."""
    replace_fit(monkeypatch, FitInACopy)
    words = " ".join(["--config", str(CONFIGS / "decoder.yaml"), *arguments(TINY | {"data.corpus": text_file})])
    words = words.replace("[anisotropy, drift, entropy]", "'[isoscore, intrinsic_dimension]'")
    option = "--model.regularizers+=IStar --model.regularizers.weight={}"
    path = config(here / "s.yaml", fit={"d": words}, vary={"istar": {"option": option, "values": [-2, 0]}}, seeds=[0])
    main(["sweep", str(path)])
    html = (runs.CHECKPOINTS / "s" / "report.html").read_text()
    assert 'id="shaping"' in html
    info = runs.read("s")
    assert (info.status, len(info.runs)) == ("done", 2)
