"""What a launcher is: it runs the cells of a sweep, and tells a board how they are. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dynamics.experiments.sweep.cells import Cell


class Board(Protocol):
    """What a launcher tells of the cells that it runs."""

    def begin(self, cell: Cell) -> None:
        """Note that a cell is about to start, before it does."""

    def end(self, cell: Cell, failure: str) -> None:
        """Note that a cell has ended: well, if `failure` is empty, else why not, in a few words."""

    def tick(self) -> None:
        """Show how the cells are; called about every second while a launcher waits."""


class Launcher(Protocol):
    """Runs cells, each by its `command`, and waits for them."""

    def launch(self, cells: Sequence[Cell], board: Board) -> None:
        """Run the cells, and tell the board of each that it begins and that it ends.

        A cell that fails does not keep the others from running. A `KeyboardInterrupt` (or `Interrupted`) has the cells
        that are processes of this machine save themselves and end, and comes through.
        """


@dataclass(frozen=True)
class Place:
    """Where a sweep runs."""

    folder: Path  # of the sweep: it holds the log of every cell, `<cell>.log`
    jobs: int | None = None  # cells that run side by side, at most; None: as many as the launcher has by itself
    sbatch: tuple[str, ...] = ()  # options of sbatch

    def log(self, cell: Cell) -> Path:
        """Return the file for what a cell prints."""
        return self.folder / f"{cell.name}.log"


def last_line(log: Path, start: int = 0) -> str:
    """Return the last line that stands in a log from the byte `start` on: why a cell failed; empty if there is none."""
    lines = [line for line in log.read_bytes()[start:].decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("dynamics: ") if lines else ""
