"""Files that appear whole or not at all, and the folder of those that are kept between runs. No torch here.

Beside them lies `.digests`: a line for every content that a file of the folder was given, by which bits that have
flipped are noticed. A line is added before its file is renamed into place, so that a kill between the two leaves a
digest without a file, but never a file whose digest is missing. A line has a checksum of its own.
"""

import errno
import hashlib
import os
import shutil
import zipfile
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import IO

RESERVE = 1 << 20  # bytes that stay free, so that `run.json` can still say how the run ended
QUEUED, HELD = 4, 1 << 30  # files that may wait to be written, and bytes of them in memory, when another one comes
DIGESTS = ".digests"
LONGEST = 1 << 20  # bytes of `.digests`, at whose multiples old lines are left out


def cache_folder() -> Path:
    """Return `$DYNAMICS_CACHE`, else `~/.cache/dynamics`."""
    return Path(os.environ.get("DYNAMICS_CACHE") or "~/.cache/dynamics").expanduser()


def write_text(path: Path, text: str, digest: bool = True) -> None:
    """Write a text file (UTF-8), whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()), digest)


def free_bytes(path: Path) -> int:
    """Return the bytes that are free on the file system of a path, which need not exist yet."""
    path = path.absolute()
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], digest: bool = True, size: int = 0) -> None:
    """Have `write` fill a hidden sibling of `path`, flush it to the disk and rename it into place.

    Where it fails nothing is left of it, and `path` is as it was.

    Args:
        digest: whether its digest is kept beside it; False for files that nothing reads again, that grow, or that have
            checksums of their own.
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
        if digest:
            remember(path, temporary)
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
    """Return whether a file of `torch.save` is what was written: by its digest, else by the checksum of each part."""
    if path.name in digests(path.parent):
        return path.is_file() and not is_damaged(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises whatever the content makes it trip over
        return False


def _no_room(path: Path, size: int) -> OSError:
    needed = f"{size:,} bytes or more are needed, {free_bytes(path.parent):,} are free"
    return OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({needed})", str(path))


def remember(path: Path, content: Path | None = None) -> None:
    """Add the digest of what `path` holds, or is about to hold: that of the file `content`."""
    folder = path.parent
    with (folder / DIGESTS).open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        file.write(_line(f"{sha256(content or path)} {path.name}").encode())
        os.fsync(file.fileno())
        if file.tell() // LONGEST > before // LONGEST:  # not at every line where what is kept is longer
            kept = "".join(
                _line(f"{digest} {name}")
                for name, known in digests(folder).items()
                if name == path.name or (folder / name).exists()
                for digest in known[-2:]
            )
            write_text(folder / DIGESTS, kept, digest=False)


def _line(text: str) -> str:
    """Return a line with its checksum; its first line end closes a line that a full disk or a kill has cut off."""
    return f"\n{zlib.crc32(text.encode()):08x} {text}\n"


def digests(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the digests of every content that the files of a folder were given, oldest first, by their names."""
    try:
        status = (folder / DIGESTS).stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return _read_digests(folder / DIGESTS, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _read_digests(path: Path, *_: int) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for line in path.read_bytes().split(b"\n"):
        check, space, content = line.partition(b" ")
        if space and check == f"{zlib.crc32(content):08x}".encode():
            digest, name = content.decode().split(" ", 1)
            found.setdefault(name, {}).pop(digest, None)  # the newest stands last
            found[name][digest] = None
    return {name: tuple(known) for name, known in found.items()}


def is_damaged(path: Path) -> bool:
    """Return whether a file is none of the contents that it was given; False where no digest of it is known."""
    if path.name not in digests(path.parent) or not path.is_file():
        return False
    digest = sha256(path)  # before its digests are read again: it may be written anew just now
    return digest not in digests(path.parent)[path.name]


def damaged(folder: Path) -> list[Path]:
    """Return the files of a folder that are damaged, by name."""
    return [path for name in sorted(digests(folder)) if is_damaged(path := folder / name)]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    status = path.stat()
    # Weights are opened several times; a small file may change twice within the resolution of its time.
    digest = _digest_of if status.st_size < 1 << 24 else _remembered_digest
    return digest(path, status.st_mtime_ns, status.st_size, status.st_ino)


def _digest_of(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_remembered_digest = lru_cache(maxsize=64)(_digest_of)


class Writer:
    """Writes files at once."""

    def submit(self, write: Callable[[], object], size: int = 0) -> None:
        """Have `write` called, which holds `size` bytes; what an earlier one has raised may be raised here."""
        write()

    def finish(self) -> None:
        """Wait until all is written; raise what a write has raised."""


class BackgroundWriter(Writer):
    """Writes files in a thread, in the order in which they are submitted, and nothing after one that fails."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "writer")
        self._pending: deque[tuple[Future[None], int]] = deque()
        self._has_failed = False

    def submit(self, write: Callable[[], object], size: int = 0) -> None:
        while self._pending and (self._pending[0][0].done() or self._is_full()):
            self._pending.popleft()[0].result()
        self._pending.append((self._thread.submit(self._write, write), size))

    def finish(self) -> None:
        while self._pending:
            self._pending.popleft()[0].result()

    def _is_full(self) -> bool:
        return len(self._pending) >= QUEUED or sum(size for _, size in self._pending) > HELD

    def _write(self, write: Callable[[], object]) -> None:
        if self._has_failed:
            return
        try:
            write()
        except BaseException:
            self._has_failed = True
            raise
