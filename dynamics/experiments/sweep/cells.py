"""The cells of a sweep: its runs, each with a name and the words of `dynamics fit`. No torch here."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamics import runs
from dynamics.errors import InputError
from dynamics.experiments.sweep.axes import Sweep, in_a_name, read_sweep
from dynamics.lock import is_abandoned

RESERVED = ("--run", "--seed_everything", "--resume")  # options of `dynamics fit` that the sweep sets


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its name, and the words that `dynamics fit` is called with; the seed is the last two."""

    name: str
    words: tuple[str, ...]

    @property
    def design(self) -> tuple[str, ...]:
        """The words without the seed."""
        return self.words[:-2]

    @property
    def status(self) -> str:
        """The status in the run's `run.json`; empty before it begins."""
        folder = runs.CHECKPOINTS / self.name
        return runs.read(folder).status if (folder / "run.json").is_file() else ""

    @property
    def is_open(self) -> bool:
        """Whether a process is at work on the run, such as one of a sweep that was killed."""
        return not is_abandoned(runs.CHECKPOINTS / self.name)

    @property
    def options(self) -> list[str]:
        """The options of `dynamics fit` that begin the run, or resume it."""
        return ["--run", self.name, "--resume", "auto", *self.words]

    @property
    def command(self) -> list[str]:
        """The command that begins the run, or resumes it."""
        # Without -P, Python would look for every module in the current folder first: needed where the package is there.
        safe = [] if Path(__file__).parents[3] == Path.cwd() else ["-P"]
        return [sys.executable, *safe, "-m", "dynamics", "fit", *self.options]


def read_cells(path: Path, name: str, more: Sequence[str] = ()) -> list[Cell]:
    """Return all runs of the sweep in the file `path` (see `read_sweep`), seed by seed: every arm has a run early.

    The names of the runs begin with `name`; the words `more` are for all of them and win over those of `fit`.

    Raises:
        InputError: as `read_sweep`; an option is set by the sweep, or set for all runs and varied; two runs are alike.
    """
    sweep = read_sweep(path)
    _refuse_varied(sweep, more)
    cells = []
    for choices in sweep.combinations():
        run = in_a_name("-".join([name, *(choice.label for choice in choices)]))
        *words, seed = (choice.words for choice in choices)
        chosen = (*(word for part in words for word in part), *more)
        if reserved := next((option for option in map(_option, chosen) if option in RESERVED), None):
            raise InputError(f"{reserved} is set by the sweep; remove it from {path} or the command line.")
        cells.append(Cell(run, (*chosen, *seed)))
    _refuse_alike(path, cells)
    return cells


def _option(word: str) -> str:
    return word.partition("=")[0]


def _refuse_varied(sweep: Sweep, more: Sequence[str]) -> None:
    """Refuse words for all runs that set what the sweep varies: its runs would be alike."""
    varied = {_option(word) for axis in sweep.axes[1:-1] for choice in axis for word in choice.words}
    for option in map(_option, more):
        if option in varied:
            raise InputError(f"{option} is what {sweep.path} varies; remove it there or from the command line.")


def _refuse_alike(path: Path, cells: Sequence[Cell]) -> None:
    name, count = Counter(cell.name for cell in cells).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: {count} runs would be called {name}; name the values of the grid, as NAME: VALUE.")
    seen: dict[tuple[str, ...], str] = {}
    for cell in cells:
        if (other := seen.setdefault(cell.words, cell.name)) != cell.name:
            raise InputError(f"{path}: the runs {other} and {cell.name} are the same; leave one out.")
