"""The progress bar over models, on a terminal only."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(subjects: int, title: str = "scan") -> Iterator[Callable[[str, float], None]]:
    """A bar on the terminal: the subjects done, and the share of the one at work."""
    if not sys.stderr.isatty():
        yield lambda name, share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=subjects)
        seen: list[str] = []

        def advance(name: str, share: float) -> None:
            if name not in seen:
                seen.append(name)
            bar.update(task, completed=len(seen) - 1 + share, description=name)

        yield advance
