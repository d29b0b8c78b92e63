"""The journal of what a run logs: written before anything is sent, and sent again on resume. No torch here."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from dynamics.files import write_atomically


class LoggedRow(NamedTuple):
    """All values of one step, and when the first of them was logged (seconds since 1970)."""

    step: int
    time: float
    values: dict[str, Any]


class Journal:
    """A file with one line of JSON for each time that something was logged; a step may have several.

    Each line goes to the system at once, so that it outlives a killed process; a line that is half written or
    damaged, as a machine that fails may leave one, is left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_whole = False  # whether it goes back to the first step of its run
        self.forgotten: dict[int, LoggedRow] = {}  # what was cut when it was opened, by step
        self._file: IO[bytes] | None = None

    def begin(self, step: int) -> list[LoggedRow]:
        """Forget what lies after `step`, open the journal for what follows, and return what it holds, by step."""
        self.close()
        lines = list(self._lines())
        kept = [(line, row) for line, row in lines if row.step <= step]
        self.forgotten = {row.step: row for row in _by_step(row for _, row in lines) if row.step > step}
        # Without a digest: it grows.
        write_atomically(self.path, lambda file: file.writelines(line for line, _ in kept), digest=False)
        self._file = self.path.open("ab", buffering=0)
        rows = _by_step(row for _, row in kept)
        # One that begins later is that of a run which has logged elsewhere, or not at all, until then.
        self.is_whole = step == 0 or (bool(rows) and rows[0].step == 0)
        return rows

    def append(self, step: int, values: Mapping[str, Any]) -> float:
        """Write values of a step; returns the time that they bear."""
        assert self._file is not None, "the journal is not open"
        now = round(time.time(), 3)
        self._file.write(json.dumps({"step": step, "time": now, "values": values}).encode() + b"\n")
        return now

    def read(self) -> list[LoggedRow]:
        """Return all values by step, in order; of a key that was logged twice at a step, the newer value."""
        return _by_step(row for _, row in self._lines())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lines(self) -> Iterator[tuple[bytes, LoggedRow]]:
        """Yield every line that is whole and says what a line says."""
        for line in self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else ():
            with suppress(ValueError, TypeError, KeyError):
                content = json.loads(line)
                yield line, LoggedRow(int(content["step"]), float(content["time"]), dict(content["values"]))


def _by_step(rows: Iterable[LoggedRow]) -> list[LoggedRow]:
    """Return one row a step, in order; of a key that was logged twice at a step, the newer value."""
    merged: dict[int, LoggedRow] = {}
    for row in rows:
        merged.setdefault(row.step, row._replace(values={})).values.update(row.values)
    return [merged[step] for step in sorted(merged)]
