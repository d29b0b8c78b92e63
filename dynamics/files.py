"""Files that appear whole or not at all, and the folder of those that are kept between runs. No torch here."""

import os
import zipfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

QUEUED = 4  # files that may wait to be written, whose contents are kept in memory


def cache_folder() -> Path:
    """Return `$DYNAMICS_CACHE`, else `~/.cache/dynamics`."""
    return Path(os.environ.get("DYNAMICS_CACHE") or "~/.cache/dynamics").expanduser()


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8), whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Have `write` fill a hidden sibling of `path`, flush it to the disk and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_intact(path: Path) -> bool:
    """Return whether a file of `torch.save` is whole: each of its parts has its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


class Writer:
    """Writes files at once."""

    def submit(self, write: Callable[[], object]) -> None:
        """Have `write` called; what an earlier one has raised may be raised here."""
        write()

    def finish(self) -> None:
        """Wait until all is written; raise what a write has raised."""


class BackgroundWriter(Writer):
    """Writes files in a thread, in the order in which they are submitted, and nothing after one that fails."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "writer")
        self._pending: deque[Future[None]] = deque()
        self._has_failed = False

    def submit(self, write: Callable[[], object]) -> None:
        while self._pending and (self._pending[0].done() or len(self._pending) >= QUEUED):
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._write, write))

    def finish(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    def _write(self, write: Callable[[], object]) -> None:
        if self._has_failed:
            return
        try:
            write()
        except BaseException:
            self._has_failed = True
            raise
