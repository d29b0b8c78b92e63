"""The journal of what a run logs: written before anything is sent, and sent again on resume. No torch here."""

import json
import time
from collections.abc import Iterator, Mapping
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

    Each line goes to the system at once, so that it outlives a killed process; a line that is half written, as a
    machine that fails may leave one, is left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_whole = False  # whether it goes back to the first step of its run
        self.forgotten: dict[int, LoggedRow] = {}  # what was cut when it was opened, by step
        self._file: IO[bytes] | None = None

    def begin(self, step: int) -> list[LoggedRow]:
        """Forget what lies after `step`, open the journal for what follows, and return what it holds, by step."""
        self.close()
        exists = self.path.is_file()
        self.forgotten = {entry.step: entry for entry in self.read() if entry.step > step}
        kept = [line for line, content in self._lines() if content["step"] <= step]
        write_atomically(self.path, lambda file: file.writelines(kept))
        self._file = self.path.open("ab", buffering=0)
        entries = self.read()
        # One that begins later is that of a run which has logged elsewhere, or not at all, until then.
        self.is_whole = step == 0 or (exists and bool(entries) and entries[0].step == 0)
        return entries

    def append(self, step: int, values: Mapping[str, Any]) -> float:
        """Write values of a step; returns the time that they bear."""
        assert self._file is not None, "the journal is not open"
        now = time.time()
        self._file.write(json.dumps({"step": step, "time": round(now, 3), "values": values}).encode() + b"\n")
        return now

    def read(self) -> list[LoggedRow]:
        """Return all values by step, in order; of a key that was logged twice at a step, the newer value."""
        entries: dict[int, LoggedRow] = {}
        for _, content in self._lines():
            entry = entries.setdefault(content["step"], LoggedRow(content["step"], content["time"], {}))
            entry.values.update(content["values"])
        return [entries[step] for step in sorted(entries)]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lines(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Yield every whole line, and what it says."""
        for line in self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else ():
            with suppress(ValueError):
                yield line, json.loads(line)
