"""Files that appear whole or not at all, and the folder of those that are kept between runs. No torch here."""

import errno
import os
import shutil
import zipfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

RESERVE = 1 << 20  # bytes that stay free, so that `run.json` can still say how the run ended
QUEUED = 4  # files that may wait to be written, whose contents are kept in memory


def cache_folder() -> Path:
    """Return `$DYNAMICS_CACHE`, else `~/.cache/dynamics`."""
    return Path(os.environ.get("DYNAMICS_CACHE") or "~/.cache/dynamics").expanduser()


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8), whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def free_bytes(path: Path) -> int:
    """Return the bytes that are free on the file system of a path, which need not exist yet."""
    path = path.absolute()
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], size: int = 0) -> None:
    """Have `write` fill a hidden sibling of `path`, flush it to the disk and rename it into place.

    Where it fails nothing is left of it, and `path` is as it was.

    Args:
        size: bytes that will be written, if that is known: nothing is begun without room for them.

    Raises:
        OSError: of a full disk, with the bytes that are needed and free.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if size and size + RESERVE > free_bytes(path.parent):
        raise _no_room(path, size)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        size = max(size, temporary.stat().st_size if temporary.exists() else 0)
        temporary.unlink(missing_ok=True)
        raise _no_room(path, size) from error
    finally:
        temporary.unlink(missing_ok=True)


def is_intact(path: Path) -> bool:
    """Return whether a file of `torch.save` is whole: each of its parts has its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _no_room(path: Path, size: int) -> OSError:
    needed = f"{size:,} bytes or more are needed, {free_bytes(path.parent):,} are free"
    return OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({needed})", str(path))


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
