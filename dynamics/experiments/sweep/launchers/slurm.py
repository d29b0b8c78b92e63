"""Cells as the elements of a SLURM job array. No torch here."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dynamics.errors import InputError
from dynamics.experiments.sweep.cells import Cell
from dynamics.experiments.sweep.launchers.base import Board, Place, last_line
from dynamics.files import write_text

SCRIPT = Path(__file__).with_name("slurm.sh")
POLL_SECONDS = 2.0


class Slurm:
    """Has SLURM run the cells, each as an element of one job array, `place.jobs` at a time if that is set.

    The array goes on without this process: whoever launches the sweep again waits for it first.

    Raises:
        InputError: there is no SLURM here, or it refuses the options of sbatch.
    """

    def __init__(self, place: Place) -> None:
        if shutil.which("sbatch") is None:
            raise InputError(
                "launcher slurm needs sbatch, which is not on the PATH: call it where SLURM is, or use launcher local."
            )
        self._place, self._folder = place, place.folder.resolve()
        _sbatch(*place.sbatch, "--test-only", "--output=/dev/null", "--wrap=true")

    def launch(self, cells: Sequence[Cell], board: Board) -> None:
        left = list(cells)
        for cell in cells:
            board.begin(cell)
        if self._queued():
            print("SLURM still has runs of this sweep, which come first", flush=True)
            self._wait(left, board)
        if not left:
            return
        ends = {cell.name: _size(self._place.log(cell)) for cell in left}
        self._submit(left)
        self._wait(left, board)
        for cell in left:
            failure = last_line(log, ends[cell.name]) if (log := self._place.log(cell)).is_file() else ""
            board.end(cell, failure or f"SLURM has ended it, see {self._place.folder / 'array.log'}")

    def _submit(self, cells: Sequence[Cell]) -> None:
        """Submit an array whose elements read log and arguments in the lines of one file."""
        file = self._folder / "array.txt"
        lines = [[self._folder / f"{cell.name}.log", "fit", "--run", cell.name, *cell.words] for cell in cells]
        write_text(file, "".join(f"{shlex.join(map(str, line))}\n" for line in lines))
        most = f"%{self._place.jobs}" if self._place.jobs else ""
        names = [f"--comment={self._folder}", f"--job-name=sweep-{self._folder.name}"]
        array = [f"--array=1-{len(cells)}{most}", f"--output={self._folder / 'array.log'}", *names]
        job = _sbatch("--parsable", *array, *self._place.sbatch, str(SCRIPT), "--cells", str(file))
        print(f"job array {job.strip()} has {len(cells)} runs; scancel {job.strip()} ends them", flush=True)

    def _wait(self, left: list[Cell], board: Board) -> None:
        """Wait until SLURM has no job of this sweep; take from `left` the cells that are done."""
        before = -1
        while True:
            queued = self._queued()
            if queued != before:  # each look at a cell reads a file
                for cell in [cell for cell in left if cell.status == "done"]:
                    left.remove(cell)
                    board.end(cell, "")
            if queued == 0:
                return
            before = queued
            board.tick()
            time.sleep(POLL_SECONDS)

    def _queued(self) -> int:
        """Return how many elements of this sweep wait or run; -1 if SLURM does not say so now."""
        squeue = ["squeue", "--me", "--array", "--noheader", "--format=%k"]
        done = subprocess.run(squeue, capture_output=True, text=True)
        return done.stdout.splitlines().count(str(self._folder)) if done.returncode == 0 else -1


def _sbatch(*options: str) -> str:
    """Return what sbatch prints; `dynamics` in its jobs is that of this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(["sbatch", *options], capture_output=True, text=True, env=os.environ | {"PATH": path})
    if done.returncode != 0:
        why = done.stderr.strip().splitlines() or ["no reason given"]
        raise InputError(f"sbatch refuses the job ({why[-1].removeprefix('sbatch: error: ')}): check --sbatch.")
    return done.stdout


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
