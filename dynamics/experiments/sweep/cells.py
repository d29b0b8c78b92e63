"""The cells of a sweep: its runs, as the file of the sweep describes them. No torch here."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from dynamics import runs
from dynamics.config import read_config
from dynamics.errors import InputError

RESERVED = ("--run", "--seed_everything", "--resume")  # options of `dynamics fit` that the sweep sets


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its name, and the words that `dynamics fit` is called with."""

    name: str
    words: tuple[str, ...]

    @property
    def status(self) -> str:
        """The status in the run's `run.json`; empty before it begins."""
        folder = runs.CHECKPOINTS / self.name
        return runs.read(folder).status if (folder / "run.json").is_file() else ""

    @property
    def command(self) -> list[str]:
        """The command that begins the run, or resumes it."""
        # Without -P, Python would look for every module in the current folder first: needed where the package is there.
        safe = [] if Path(__file__).parents[3] == Path.cwd() else ["-P"]
        return [sys.executable, *safe, "-m", "dynamics", "fit", "--run", self.name, "--resume", "auto", *self.words]


def read_cells(path: Path, name: str, more: Sequence[str] = ()) -> list[Cell]:
    """Return all runs of the sweep in the file `path`, seed by seed, so that every value has a run early.

    The file holds `fit`, the words of `dynamics fit` by name; `vary`, by name an `option` with {} for each of its
    `values`; and `seeds`. Each of `fit` is run with every value of every option and every seed. The names of the runs
    begin with `name`; the words `more` are for all of them and win over those of the file.

    Raises:
        InputError: the file does not say what to run, or sets an option that the sweep sets.
    """
    config = read_config(path)
    if wrong := set(config) ^ {"fit", "vary", "seeds"}:
        raise InputError(f"{path} must hold fit, vary and seeds, and nothing else (check {', '.join(sorted(wrong))}).")
    fits, options, seeds = (config[key] for key in ("fit", "vary", "seeds"))
    if not isinstance(fits, dict) or not fits or not all(isinstance(words, str) for words in fits.values()):
        raise InputError(f"{path}: fit must hold the words of `dynamics fit`, as text, for each name.")
    if not isinstance(options, dict) or not options or not all(_is_option(option) for option in options.values()):
        raise InputError(f"{path}: vary must hold for each name an option with {{}} in it, and a list of values.")
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise InputError(f"{path}: seeds must be a list of whole numbers.")
    for where, values in {
        "seeds": seeds,
        **{f"vary.{kind}": option["values"] for kind, option in options.items()},
    }.items():
        if twice := [value for number, value in enumerate(values) if value in values[:number]]:
            raise InputError(f"{path}: {where} holds {twice[0]} twice; leave one out.")
    cells = []
    for seed, (fit, words), (kind, option) in product(seeds, fits.items(), options.items()):
        for value in option["values"]:
            varied = option["option"].replace("{}", str(value))
            run = f"{name}-{fit}-{kind}_{value}-seed_{seed}".replace("/", "_")
            chosen = (*shlex.split(words), *shlex.split(varied), *more)
            names = (word.split("=")[0] for word in chosen)
            if reserved := next((name for name in names if name in RESERVED), None):
                raise InputError(f"{reserved} is set by the sweep; remove it from {path} or the command line.")
            cells.append(Cell(run, (*chosen, "--seed_everything", str(seed))))
    return cells


def _is_option(option: Any) -> bool:
    if not isinstance(option, dict) or set(option) != {"option", "values"}:
        return False
    return "{}" in str(option["option"]) and isinstance(option["values"], list) and len(option["values"]) > 0
