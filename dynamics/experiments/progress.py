"""The progress bar of all experiments, on a terminal only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Bar:
    """A bar that shows how much of some work is done, and what is being worked on."""

    def __init__(self, progress: Progress, title: str, total: float) -> None:
        self._progress, self._task, self.done = progress, progress.add_task(title, total=total), 0.0

    def show(self, done: float, text: str | None = None) -> None:
        """Show how much is done in all."""
        self.done = done
        self._progress.update(self._task, completed=done, description=text)

    def part(self, number: int, text: str) -> Callable[[float], None]:
        """Return a function that shows the share that is done of the part `number` of the work; each counts 1."""
        return lambda share: self.show(number + share, text)

    def advance(self, amount: float = 1.0, text: str | None = None) -> None:
        """Show that so much more is done."""
        self.show(self.done + amount, text)


@contextmanager
def progress(total: float, title: str) -> Iterator[Bar]:
    """Show a bar while the block runs; `total` is the work in any unit (models, runs, sequences)."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield Bar(bar, title, total)
