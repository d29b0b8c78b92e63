"""Cells as a job array, with programs in the place of SLURM's: what is asked of it, and what is made of its answers."""

import json
import os
import shlex
from pathlib import Path

import pytest

from dynamics import runs
from dynamics.errors import InputError
from dynamics.experiments.sweep.cells import Cell
from dynamics.experiments.sweep.launchers import launcher_at, slurm
from dynamics.experiments.sweep.launchers.base import Place
from dynamics.experiments.sweep.launchers.slurm import Slurm
from tests.experiments.sweep.test_local import Heard

CELLS = [Cell("a", ("--x", "it's")), Cell("b", ())]
SBATCH = """
import json, pathlib, sys
words = sys.argv[1:]
if "--partition=none" in words:
    sys.exit("sbatch: error: invalid partition specified: none")
if "--test-only" not in words:
    pathlib.Path("submitted").open("a").write(json.dumps(words) + "\\n")
    pathlib.Path("queue").write_text("2")
    print(7)
"""
SQUEUE = """
import pathlib, subprocess, sys
left = int(pathlib.Path("queue").read_text())
if left == 3:  # SLURM does not answer now
    pathlib.Path("queue").write_text("1")
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller")
print("somebody else's")
for number in range(left):
    print(pathlib.Path("checkpoints/s").resolve())
pathlib.Path("queue").write_text(str({2: 3, 1: 0, 0: 0}[left]))
if left < 2:
    exec(pathlib.Path("at_the_end.py").read_text())
"""


@pytest.fixture
def place(workplace, monkeypatch):
    """The place of a sweep, where sbatch and squeue are programs of ours."""
    programs = workplace / "programs"
    programs.mkdir()
    for name, code in {"sbatch": SBATCH, "squeue": SQUEUE}.items():
        (programs / name).write_text(f"#!/usr/bin/env -S python3 -S\n{code}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0)
    (workplace / "queue").write_text("0")
    (workplace / "at_the_end.py").write_text("")
    folder = runs.new("s")
    folder.mkdir(parents=True)
    return Place(folder, 5, ("--partition=gpu",))


def end_with(workplace, name, status):
    """Have a run end when SLURM's queue is empty."""
    path = f"checkpoints/{name}/run.json"
    content = json.dumps({"kind": "fit", "status": status})
    (workplace / "at_the_end.py").write_text(
        f"pathlib.Path({path!r}).parent.mkdir(exist_ok=True)\npathlib.Path({path!r}).write_text({content!r})\n"
    )


def submitted():
    asked = Path("submitted")
    return [json.loads(line) for line in asked.read_text().splitlines()] if asked.exists() else []


def test_cells_are_the_elements_of_one_array_and_why_one_fails_is_in_its_log(place, workplace):
    end_with(workplace, "a", "done")
    (place.folder / "b.log").write_text("dynamics: what it printed before\n")
    board, ticks = Heard(), []
    board.tick = lambda: ticks.append((place.folder / "b.log").open("a").write("dynamics: there is no text.\n"))
    Slurm(place).launch(CELLS, board)
    assert board.told == [("begin", "a"), ("begin", "b"), ("a", ""), ("b", "there is no text.")]
    assert len(ticks) == 3  # two in the queue, no answer, one in the queue
    (words,) = submitted()
    folder = place.folder.resolve()
    assert {"--array=1-2%5", "--partition=gpu", f"--comment={folder}"} <= set(words)
    assert words[-3:] == [str(slurm.SCRIPT), "--cells", str(folder / "array.txt")]
    lines = [shlex.split(line) for line in (folder / "array.txt").read_text().splitlines()]
    assert lines[0] == [str(folder / "a.log"), "fit", "--run", "a", "--x", "it's"]
    assert lines[1] == [str(folder / "b.log"), "fit", "--run", "b"]


def test_what_slurm_still_has_of_the_sweep_comes_first(place, workplace):
    (workplace / "queue").write_text("2")
    end_with(workplace, "a", "done")
    board = Heard()
    Slurm(place).launch(CELLS[:1], board)
    assert board.told == [("begin", "a"), ("a", "")]
    assert submitted() == []


def test_a_cell_that_leaves_no_log_is_named(place):
    board = Heard()
    Slurm(place).launch(CELLS[1:], board)
    assert board.told[1:] == [("b", f"SLURM has ended it, see {place.folder / 'array.log'}")]


def test_where_there_is_no_slurm_or_it_refuses_nothing_begins(place, monkeypatch):
    with pytest.raises(
        InputError, match=r"sbatch refuses the job \(invalid partition specified: none\): check --sbatch"
    ):
        Slurm(Place(place.folder, sbatch=("--partition=none",)))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="launcher slurm needs sbatch, which is not on the PATH"):
        launcher_at("slurm", place)
    with pytest.raises(InputError, match="sbatch has no effect with launcher local"):
        launcher_at("local", place)
