"""Files that appear whole or not at all, and the folder of those that are kept between runs. No torch here."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


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
