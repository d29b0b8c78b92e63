"""`dynamics sweep`: many runs of `dynamics fit` that differ in one option and in their seed, then one page of them."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from dynamics import files, runs
from dynamics.config import read_config
from dynamics.errors import InputError

LAUNCHERS = ("local",)
KEYS = {"fit", "vary", "seeds"}
OWN = ("--run", "--seed_everything", "--resume")
"""Options of `dynamics fit` that the sweep gives itself."""


@dataclass(frozen=True)
class Point:
    """One run: its name, and the words that `dynamics fit` is called with."""

    name: str
    words: tuple[str, ...]

    @property
    def status(self) -> str:
        """How its run stands: empty before the first time, else that of its `run.json`."""
        folder = runs.CHECKPOINTS / self.name
        return str(runs.read(folder).to_dict().get("status")) if (folder / "run.json").is_file() else ""

    @property
    def is_done(self) -> bool:
        """Whether it has been run to its end."""
        return self.status == "done"


def points(path: Path, name: str, more: Sequence[str] = ()) -> list[Point]:
    """All runs of the sweep in the file `path`, seed by seed, so that every value has a run early.

    The file holds `fit`, the words of `dynamics fit` by name; `vary`, by name an `option` with {} for each of
    its `values`; and `seeds`. Every one of `fit` is run with every value of every option and every seed.

    Args:
        path: the configuration.
        name: of the sweep; the runs' names begin with it.
        more: words of `dynamics fit` for all of them; they win over those of the file.

    Raises:
        InputError: the file does not say what to run, or an option is the sweep's own.
    """
    config = read_config(path)
    if set(config) != KEYS:
        wrong = ", ".join(sorted(set(config) ^ KEYS))
        raise InputError(f"{path} must hold fit, vary and seeds, and nothing else (check {wrong}).")
    fits, options, seeds = (config[key] for key in ("fit", "vary", "seeds"))
    if not isinstance(fits, dict) or not fits or not all(isinstance(words, str) for words in fits.values()):
        raise InputError(f"{path}: fit must hold the words of `dynamics fit`, as text, for each name.")
    if not isinstance(options, dict) or not options or not all(_is_option(option) for option in options.values()):
        raise InputError(f"{path}: vary must hold for each name an option with {{}} in it, and a list of values.")
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise InputError(f"{path}: seeds must be a list of whole numbers.")
    made = [
        Point(
            f"{name}-{fit}-{kind}_{value}-seed_{seed}".replace("/", "_"),
            (
                *shlex.split(words),
                *shlex.split(option["option"].replace("{}", str(value))),
                *more,
                *("--seed_everything", str(seed)),
            ),
        )
        for seed in seeds
        for fit, words in fits.items()
        for kind, option in options.items()
        for value in option["values"]
    ]
    own = [word for point in made for word in point.words[:-2] if word.split("=")[0] in OWN]
    if own:
        raise InputError(f"{own[0].split('=')[0]} is the sweep's own: take it out of {path} or the command line.")
    return made


def _is_option(option: Any) -> bool:
    return (
        isinstance(option, dict)
        and set(option) == {"option", "values"}
        and "{}" in str(option["option"])
        and isinstance(option["values"], list)
        and len(option["values"]) > 0
    )


def sweep(
    path: Path, name: str, launcher: str = "local", dry_run: bool = False, more: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """Run what has not been run yet, one after the other.

    What each printed is in `checkpoints/<name>/<run>.log`. A run that was cut off goes on where it stopped; one that
    fails does not keep the others from running.

    Args:
        path: the configuration, see `points`.
        name: of the sweep.
        launcher: where to run; only `local`, here.
        dry_run: print the commands and run nothing.
        more: words of `dynamics fit` for all runs.

    Returns:
        The names of the runs that are complete, and by name what those that failed said last.

    Raises:
        InputError: as `points`; an unknown launcher; or a run was made with other words before.
    """
    if launcher not in LAUNCHERS:
        raise InputError(f"--launcher must be local (got {launcher}).")
    made = points(path, name, more)
    folder = runs.new(name)
    todo = [point for point in made if not point.is_done]
    known = _known(folder)
    changed = next((point for point in made if known.get(point.name, list(point.words)) != list(point.words)), None)
    if changed is not None:
        raise InputError(
            f"the run {changed.name} was made with other options: name this sweep otherwise with --run, or remove "
            f"{folder} and its runs."
        )
    if dry_run:
        for point in todo:
            print(shlex.join(["dynamics", "fit", "--run", point.name, *point.words]))
        print(f"{len(made)} runs, {len(made) - len(todo)} of them complete")
        return [], {}
    folder.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    with _progress(len(made), len(made) - len(todo)) as advance:
        for point in todo:
            known[point.name] = list(point.words)
            text = json.dumps(known, indent=1)
            files.write_atomically(folder / "sweep.json", lambda file, text=text: file.write(text.encode()))
            said = _run(point, folder / f"{point.name}.log")
            if said:
                failed[point.name] = said
            advance(point.name + (f" failed: {said}" if said else ""))
    return [point.name for point in made if point.is_done], failed


def _known(folder: Path) -> dict[str, list[str]]:
    path = folder / "sweep.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _run(point: Point, log: Path) -> str:
    """Run it; empty, or the last line that it said before it failed."""
    command = [sys.executable, "-m", "dynamics", "fit", "--run", point.name, "--resume", "auto", *point.words]
    with log.open("a") as file:
        start = file.tell()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # a terminal interrupts the run as well, which then saves itself
            raise
    if code == 0:
        return ""
    if code == 1 and point.status == "interrupted":
        raise KeyboardInterrupt  # whoever stopped it did not mean the others to begin
    if code < 0:
        return f"killed by signal {-code}"
    said = [line for line in log.read_bytes()[start:].decode(errors="replace").splitlines() if line.strip()]
    return said[-1].removeprefix("dynamics: ") if said else f"exit code {code}"


@contextmanager
def _progress(total: int, done: int) -> Iterator[Any]:
    """A bar on a terminal; a line for each run in any case."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("sweep"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    started, first = time.monotonic(), done
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("sweep", total=total, completed=done)

        def advance(text: str) -> None:
            nonlocal done
            done += 1
            bar.update(task, completed=done)
            left = (time.monotonic() - started) / (done - first) * (total - done)
            print(f"[{done}/{total}] {text}; {timedelta(seconds=round(left))} left", flush=True)

        yield advance
