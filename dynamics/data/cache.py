"""Files that are fetched or made once, in the cache folder, and progress bars over bytes. No torch here."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dynamics.errors import InputError
from dynamics.files import cache_folder
from dynamics.lock import remove_leftovers
from dynamics.readers import read_json

log = logging.getLogger(__name__)

T = TypeVar("T")
Advance = Callable[[int], None]  # moves a progress bar by some bytes


@contextmanager
def writable_cache() -> Iterator[Path]:
    """Yield the cache folder; a block that cannot write there is refused in one sentence."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        raise InputError(
            f"the cache folder {folder} cannot be used ({error}): make room, or set DYNAMICS_CACHE to another folder."
        ) from error


def once(read: Callable[[], T | None], write: Callable[[], object], folder: Path) -> T:
    """Return what `read` returns, after `write` (in one process at a time) where it returns None."""
    if (content := read()) is None:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if (content := read()) is None:
                remove_leftovers(folder)
                write()
                content = read()
    assert content is not None
    return content


def read_cached(path: Path, kind: Any) -> Any:
    """Return the content of a JSON file of the type `kind`; None where it is missing, damaged or another one."""
    try:
        return read_json(path, kind, "it is made again") if path.is_file() else None
    except InputError as refusal:
        log.warning("%s", refusal)
        return None


@contextmanager
def bar(what: str, total: int | None, show: bool = True) -> Iterator[Advance]:
    """Show a progress bar over bytes with an ETA, on a terminal alone; yield a function that advances it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn(), TextColumn("ETA"))
    hidden = not (show and console.is_terminal)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(what, total=total)
        yield lambda size: progress.advance(task, size)
