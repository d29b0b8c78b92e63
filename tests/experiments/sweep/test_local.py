"""Cells as processes of this machine: side by side, with a share each, and stopped together."""

import os
import signal
import sys
import threading
import time
from contextlib import ExitStack

import pytest

from dynamics import runs
from dynamics.errors import Interrupted
from dynamics.experiments.sweep.cells import Cell
from dynamics.experiments.sweep.launchers import local
from dynamics.experiments.sweep.launchers.base import Place
from dynamics.experiments.sweep.launchers.local import Local
from dynamics.lock import locked


class Heard:
    """A board that keeps what it is told."""

    def __init__(self, on_tick=lambda: None):
        self.told, self.tick = [], on_tick

    def begin(self, cell):
        self.told.append(("begin", cell.name))

    def end(self, cell, failure):
        self.told.append((cell.name, failure))


@pytest.fixture
def code(monkeypatch):
    """Cells run their first word as code of Python."""
    monkeypatch.setattr(Cell, "command", property(lambda cell: [sys.executable, "-S", "-c", cell.words[0]]))


def cells(*codes):
    return [Cell(f"c{number}", (text,)) for number, text in enumerate(codes)]


WAIT = "import pathlib, time\npathlib.Path('{}').touch()\nwhile not pathlib.Path('{}').exists(): time.sleep(0.01)"


def test_two_cells_run_side_by_side(code, workplace):
    """Each waits for the other one: one after the other they would never end."""
    board = Heard()
    Local(Place(workplace, 2)).launch(cells(WAIT.format("a", "b"), WAIT.format("b", "a"), "print('end')"), board)
    assert board.told[:2] == [("begin", "c0"), ("begin", "c1")]
    assert sorted(board.told[2:]) == [("begin", "c2"), ("c0", ""), ("c1", ""), ("c2", "")]
    assert (workplace / "c2.log").read_text() == "end\n"


def test_why_cells_fail_is_told_of_this_time_alone(code, workplace):
    codes = (
        "raise SystemExit('dynamics: there is no text.')",
        "raise SystemExit(3)",
        "import os; os.kill(os.getpid(), 9)",
        "",
    )
    (workplace / "c1.log").write_text("what the cell printed before\n")
    board = Heard()
    Local(Place(workplace)).launch(cells(*codes), board)
    assert [told for told in board.told if told[0] != "begin"] == [
        *(("c0", "there is no text."), ("c1", "exit code 3"), ("c2", "killed by signal 9"), ("c3", "")),
    ]


def test_a_cell_that_another_process_runs_waits_for_that(code, workplace, capfd):
    (runs.CHECKPOINTS / "c0").mkdir(parents=True)
    with ExitStack() as other:
        other.enter_context(locked(runs.CHECKPOINTS / "c0"))
        board = Heard(lambda: other.close() if ("c1", "") in board.told else None)
        Local(Place(workplace, 2)).launch(cells("", ""), board)
    assert board.told == [("begin", "c1"), ("c1", ""), ("begin", "c0"), ("c0", "")]
    assert "other processes are at work on these runs, which wait for them: c0" in capfd.readouterr().out


def test_cells_are_asked_to_end_with_their_sweep(code, workplace):
    Local(Place(workplace)).launch(cells("import os; print(os.environ['DYNAMICS_PARENT'], os.getppid())"), Heard())
    assert (workplace / "c0.log").read_text() == f"{os.getpid()} {os.getpid()}\n"


@pytest.mark.parametrize(
    ("jobs", "gpus", "shares"),
    [
        (1, "0,1", [None]),
        (2, "0,1", ["0", "1"]),
        (2, "4,5,6,7", ["4,5", "6,7"]),
        (3, "0,1", ["0", "1", "0"]),
        (4, "0,1", ["0", "1", "0", "1"]),
        (2, "", [None, None]),
    ],
)
def test_gpus_and_cores_are_shared_out(monkeypatch, workplace, jobs, gpus, shares):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "cores", lambda: 6)
    launcher = Local(Place(workplace, jobs))
    own = [launcher._environment(slot) for slot in range(jobs)]
    assert [share.get("CUDA_VISIBLE_DEVICES") for share in own] == shares
    assert {share.get("OMP_NUM_THREADS") for share in own} == ({str(6 // jobs)} if jobs > 1 else {None})
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert "OMP_NUM_THREADS" not in launcher._environment(0)


SAVES = """
import pathlib, signal, sys
def save(number, frame):
    pathlib.Path("saved-{0}").write_text(str(number))
    sys.exit(128 + number)
for number in (2, 15): signal.signal(number, save)
pathlib.Path("ready-{0}").touch()
while True: signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_has_all_cells_save_themselves(code, workplace, number):
    def ask_when_ready():
        if len(list(workplace.glob("ready-*"))) == 2:
            raise KeyboardInterrupt if number == signal.SIGINT else Interrupted(number)

    with pytest.raises(KeyboardInterrupt):
        Local(Place(workplace, 2)).launch(cells(*map(SAVES.format, range(3))), Heard(ask_when_ready))
    assert sorted(path.name for path in workplace.glob("saved-*")) == ["saved-0", "saved-1"]
    assert {path.read_text() for path in workplace.glob("saved-*")} == {str(int(number))}


def test_a_second_interrupt_ends_cells_that_take_their_time(code, workplace):
    slow = "import pathlib, signal, time\n"
    slow += "signal.signal(2, lambda *_: signal.signal(2, signal.SIG_DFL))\npathlib.Path('ready').touch()\n"
    slow += "while True: time.sleep(0.01)"

    def ask_when_ready():
        if (workplace / "ready").exists():
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            raise KeyboardInterrupt

    started = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            Local(Place(workplace)).launch(cells(slow), Heard(ask_when_ready))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 30
