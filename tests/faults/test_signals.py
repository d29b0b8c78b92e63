"""Signals end a run as Ctrl-C does, in every phase of it, and on all ranks together."""

import signal
import subprocess
import sys

import pytest

from dynamics import record, runs
from dynamics.data.windows import CharData
from dynamics.models.language import LanguageModel
from dynamics.training.checkpoint import Checkpoints, states
from tests.runs import CONFIGS, TINY, arguments, fit
from tests.training.test_ranks import PATIENCE, PIPES, with_tests

PHASES = {  # what is interrupted, at which of its calls, and the newest state then; None: the run leaves nothing
    "the text is read": (CharData, "prepare_data", 1, None),
    "step 0 is validated": (LanguageModel, "validation_step", 1, None),
    "a step is made": (LanguageModel, "training_step", 2, 2),
    "a step is validated": (LanguageModel, "validation_step", 4, 3),
    "a state is saved": (Checkpoints, "save", 1, 3),
}
STATUS = {signal.SIGTERM: 143, signal.SIGUSR1: 138, signal.SIGHUP: 129}
CASES = [(signal.SIGTERM, phase) for phase in PHASES] + [(number, "a step is made") for number in STATUS]


@pytest.fixture(autouse=True)
def here(workplace):
    return workplace


def raise_in(monkeypatch, number, kind, method, call):
    """Have the process get a signal in one of the calls of a method."""
    real, calls = getattr(kind, method), []

    def interrupted(*arguments):
        calls.append(method)
        if len(calls) == call:
            signal.raise_signal(number)
        return real(*arguments)

    monkeypatch.setattr(kind, method, interrupted)


@pytest.mark.parametrize(("number", "phase"), dict.fromkeys(CASES))
def test_a_signal_ends_a_run_as_ctrl_c_does(text_file, monkeypatch, capsys, number, phase):
    kind, method, call, newest = PHASES[phase]
    raise_in(monkeypatch, number, kind, method, call)
    if signal.getsignal(number) == signal.SIG_IGN:  # as under nohup
        signal.signal(number, signal.SIG_DFL)
    handlers = {other: signal.getsignal(other) for other in (signal.SIGINT, *STATUS)}
    with pytest.raises(SystemExit) as exit_:
        fit(text_file, "cut")
    assert exit_.value.code == STATUS[number]
    assert capsys.readouterr().err.endswith("dynamics: interrupted.\n")
    assert {other: signal.getsignal(other) for other in handlers} == handlers
    if newest is None:
        assert not runs.exists(runs.CHECKPOINTS / "cut")
        return
    assert runs.read("cut").status == "interrupted"
    assert states(runs.CHECKPOINTS / "cut")[0].name == f"step-{newest:010d}.ckpt"
    losses = record.read("cut").query("site == 'train' and metric == 'loss'")
    assert losses.step.tolist() == list(range(1, newest + 1))


def test_a_signal_that_is_ignored_stays_so(text_file, monkeypatch):
    raise_in(monkeypatch, signal.SIGHUP, LanguageModel, "training_step", 2)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        fit(text_file, "a")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert runs.read("a").status == "done"


def test_a_signal_that_one_rank_gets_stops_all_at_one_step_with_its_state(text_file):
    chosen = TINY | {"data.corpus": text_file, "trainer.strategy": "ddp", "trainer.devices": 2}
    chosen |= {"trainer.max_steps": 1000, "checkpoints.every": 1000, "trainer.val_check_interval": 1000}
    chosen["trainer.callbacks+"] = "tests.faults.breaking.Signalled"
    words = ["fit", "--config", str(CONFIGS / "decoder.yaml"), "--run", "two", *arguments(chosen)]
    command = [sys.executable, "-m", "dynamics", *words]
    done = subprocess.run(command, env=with_tests(), **PIPES, timeout=PATIENCE)
    assert done.returncode == 143, done.stderr
    assert done.stderr.endswith("dynamics: interrupted.\n")
    assert runs.read("two").status == "interrupted"
    (state,) = states(runs.CHECKPOINTS / "two")
    assert state.name == "step-0000000004.ckpt"  # the signal came in step 3
    assert not (runs.CHECKPOINTS / "two" / ".lock").exists()
