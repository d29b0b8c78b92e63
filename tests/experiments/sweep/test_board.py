"""What a sweep shows of its cells while they run: a table on a terminal, lines in a file."""

import io
import json

import pytest
from rich.console import Console

from dynamics import runs
from dynamics.experiments.sweep import board
from dynamics.experiments.sweep.board import SweepBoard, newest_step
from dynamics.experiments.sweep.cells import Cell
from dynamics.record import Record, Row
from dynamics.run_info import SweepInfo

CELLS = [Cell(f"c{number}", ("--a", str(number))) for number in range(4)]


@pytest.fixture
def current(workplace):
    (workplace / "checkpoints" / "s").mkdir(parents=True)
    return runs.Run(runs.CHECKPOINTS / "s", SweepInfo(run="s"), resumed=False)


def train(name, last):
    """Stands for a run that has come to the step `last` of 400."""
    folder = runs.CHECKPOINTS / name
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"run": name, "kind": "fit", "status": "running", "max_steps": 400}))
    written = Record(folder)
    written.add_curves(Row(name, "", "", step, "train", -1, -1, "loss", 1.0) for step in range(1, last + 1))
    written.flush()


def test_a_terminal_shows_a_table(current, monkeypatch):
    times = iter(range(0, 10_000, 10))
    monkeypatch.setattr(board.time, "monotonic", lambda: float(next(times)))
    screen = io.StringIO()
    shown = SweepBoard(current, CELLS, Console(file=screen, force_terminal=True, width=80, height=7))
    with shown:
        shown.begin(CELLS[0])
        train("c0", 100)
        shown.tick()
        train("c0", 200)
        shown.begin(CELLS[1])
        screen.truncate(0)
        shown.tick()
        table = screen.getvalue()
    assert "2 running, 2 waiting" in table
    (first,) = (line for line in table.splitlines() if line.lstrip().startswith("c0"))
    assert first.split()[1:3] == ["running", "200/400"]
    assert "0:00:" in first.split()[3]
    assert "c3" not in table  # there is no room for it
    assert newest_step(runs.CHECKPOINTS / "c0") == 200


def test_a_file_gets_lines(current, capsys):
    shown = SweepBoard(current, CELLS, Console(file=io.StringIO()))
    with shown:
        for cell, failure in zip(CELLS[:2], ("", "there is no text."), strict=True):
            shown.begin(cell)
            shown.tick()
            shown.end(cell, failure)
        shown.repeat([CELLS[1]])
        shown.end(CELLS[1], "")
    assert [line.rpartition(";")[0] or line for line in capsys.readouterr().out.splitlines()] == [
        *("[1/4] c0", "[2/4] c1 failed: there is no text.", "once more: c1", "[2/4] c1"),
    ]
    assert shown.failed == {}
    assert runs.read("s").to_dict()["runs"] == {"c0": ["--a", "0"], "c1": ["--a", "1"]}
