"""The board of a sweep: what became of its cells goes to its `run.json`, and is shown while they run. No torch here."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dynamics import runs
from dynamics.errors import InputError
from dynamics.experiments.sweep.cells import Cell
from dynamics.record import read_part
from dynamics.run_info import FitInfo, SweepInfo

REFRESH_SECONDS = 2.0
ORDER = ("running", "failed", "waiting", "done")  # of the cells in the table, which may not have room for all


@dataclass
class _Entry:
    """A cell as the board shows it."""

    state: str
    step: int = 0
    last: int = 0  # step of the run; 0 as long as that is unknown
    first: tuple[float, int] = (0.0, 0)  # when a step was first seen, and which

    def follow(self, name: str, now: float) -> None:
        """Read how far the run has come."""
        folder = runs.CHECKPOINTS / name
        try:
            info = runs.read(folder) if (folder / "run.json").is_file() else None
            self.step = newest_step(folder) if info else 0
        except InputError:  # it is being written on a file system that does not rename at once
            return
        self.last = (info.max_steps or 0) if isinstance(info, FitInfo) else 0
        if self.step and not self.first[1]:
            self.first = now, self.step

    def left(self, now: float) -> str:
        """Return how long the run goes on, at the speed that it was seen at; a dash where that is unknown."""
        (started, first), steps = self.first, self.step - self.first[1]
        if self.state != "running" or not first or steps <= 0:
            return "-"
        return str(timedelta(seconds=round((now - started) / steps * (self.last - self.step))))


class SweepBoard:
    """Writes what a launcher tells of cells to the sweep's `run.json`, and shows it: a table, or lines in a file."""

    def __init__(self, current: runs.Run[SweepInfo], cells: Sequence[Cell], console: Console | None = None) -> None:
        self.failed: dict[str, str] = {}  # why, by the names of cells
        self._current = current
        self._entries = {cell.name: _Entry("done" if cell.status == "done" else "waiting") for cell in cells}
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._shown = self._started = 0.0
        self._ended = 0

    def __enter__(self) -> "SweepBoard":
        self._started = time.monotonic()
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def repeat(self, cells: Sequence[Cell]) -> None:
        """Expect cells once more."""
        print(f"once more: {', '.join(cell.name for cell in cells)}", flush=True)
        for cell in cells:
            self._entries[cell.name] = _Entry("waiting")

    def begin(self, cell: Cell) -> None:
        self._entries[cell.name].state = "running"
        self._current.info.runs[cell.name] = list(cell.words)
        self._current.info.failed.pop(cell.name, None)
        self._current.save()

    def end(self, cell: Cell, failure: str) -> None:
        entry = self._entries[cell.name]
        self.failed.pop(cell.name, None)
        entry.state = "failed" if failure else "done"
        if failure:
            self.failed[cell.name] = self._current.info.failed[cell.name] = failure
            self._current.save()
        self._ended += 1
        text = f"{cell.name} failed: {failure}" if failure else cell.name
        print(f"[{len(self._entries) - self._open()}/{len(self._entries)}] {text}; {self._left()} left", flush=True)

    def tick(self) -> None:
        """Show how the cells are, if it is time to."""
        now = time.monotonic()
        if self._live.is_started and now - self._shown > REFRESH_SECONDS:
            self._shown = now
            for name, entry in self._entries.items():
                if entry.state == "running":
                    entry.follow(name, now)
            self._live.update(self._table(now), refresh=True)

    def _open(self) -> int:
        return sum(entry.state in ("running", "waiting") for entry in self._entries.values())

    def _left(self) -> timedelta:
        """Return how long the cells that have not ended will take, as those that have."""
        each = (time.monotonic() - self._started) / max(self._ended, 1)
        return timedelta(seconds=round(each * self._open()))

    def _table(self, now: float) -> Table:
        states = [entry.state for entry in self._entries.values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in ORDER if state in states)
        table = Table("run", "state", "step", "left", title=counts, title_justify="left", box=None, pad_edge=False)
        entries = sorted(self._entries.items(), key=lambda item: ORDER.index(item[1].state))
        for name, entry in entries[: max(self._console.height - 4, 1)]:
            step = f"{entry.step}/{entry.last}" if entry.last else "-"
            table.add_row(name, entry.state, step if entry.state == "running" else "", entry.left(now))
        return table


def newest_step(folder: Path) -> int:
    """Return the newest step of the learning curves of the run in `folder`; 0 where it has none."""
    newest = max((folder / "record").glob("curves-*.parquet"), default=None)
    return max(read_part(newest)["step"].to_pylist(), default=0) if newest else 0
