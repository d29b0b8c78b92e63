"""`dynamics sweep`: many runs of `dynamics fit` that differ in one option and in their seed, then one page of them."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

from dynamics import runs
from dynamics.config import read_config
from dynamics.errors import InputError, Interrupted
from dynamics.experiments.progress import progress
from dynamics.run_info import SweepInfo

LAUNCHERS = ("local",)
RESERVED = ("--run", "--seed_everything", "--resume")  # options of `dynamics fit` that the sweep sets


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its name, and the words that `dynamics fit` is called with."""

    name: str
    words: tuple[str, ...]

    @property
    def status(self) -> str:
        """The status in the run's `run.json`; empty before it begins."""
        folder = runs.CHECKPOINTS / self.name
        return runs.read(folder).status if (folder / "run.json").is_file() else ""


def points(path: Path, name: str, more: Sequence[str] = ()) -> list[Point]:
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
    points = []
    for seed, (fit, words), (kind, option) in product(seeds, fits.items(), options.items()):
        for value in option["values"]:
            varied = option["option"].replace("{}", str(value))
            run = f"{name}-{fit}-{kind}_{value}-seed_{seed}".replace("/", "_")
            chosen = (*shlex.split(words), *shlex.split(varied), *more)
            names = (word.split("=")[0] for word in chosen)
            if reserved := next((name for name in names if name in RESERVED), None):
                raise InputError(f"{reserved} is set by the sweep; remove it from {path} or the command line.")
            points.append(Point(run, (*chosen, "--seed_everything", str(seed))))
    return points


def _is_option(option: Any) -> bool:
    if not isinstance(option, dict) or set(option) != {"option", "values"}:
        return False
    return "{}" in str(option["option"]) and isinstance(option["values"], list) and len(option["values"]) > 0


def sweep(
    path: Path, name: str, launcher: str = "local", dry_run: bool = False, more: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """Run what has not been run yet, one after the other (see `points`); with `dry_run`, print the commands only.

    What a run prints goes to `checkpoints/<name>/<run>.log`. A run that was interrupted is resumed; one that fails
    does not keep the others from running.

    Returns:
        The names of the runs that are complete, and the last line that each run which failed printed, by its name.

    Raises:
        InputError: as `points`; or a run was made with other words before, or the name is that of another kind of run.
    """
    if launcher not in LAUNCHERS:
        raise InputError(f"--launcher must be local (got {launcher}).")
    all_points, folder = points(path, name, more), runs.new(name)
    words = _words(folder, all_points)
    if dry_run:
        waiting = _waiting(all_points)
        for point in waiting:
            print(shlex.join(["dynamics", "fit", "--run", point.name, *point.words]))
        print(f"{len(all_points)} runs, {len(all_points) - len(waiting)} of them complete")
        return [], {}
    from dynamics.provenance import provenance  # loads torch

    info = SweepInfo(run=name, runs=words, **provenance())
    with runs.start(info, "auto", update=True, check=lambda: words.update(_words(folder, all_points))) as current:
        failed = _run_waiting(all_points, current)
        current.ends_as = "failed" if failed else "done"
    return [point.name for point in all_points if point.status == "done"], failed


def _waiting(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.status != "done"]


def _run_waiting(all_points: Sequence[Point], current: runs.Run[SweepInfo]) -> dict[str, str]:
    """Run the points that are not done; return the last line of those that failed, by name."""
    waiting, total = _waiting(all_points), len(all_points)
    failed: dict[str, str] = {}
    started = time.monotonic()
    with progress(total, "sweep") as bar:
        for number, point in enumerate(waiting, start=1):
            done = total - len(waiting) + number
            bar.show(done - 1)
            current.info.runs[point.name] = list(point.words)
            current.save()
            text = point.name
            current.info.failed.pop(point.name, None)
            if failure := _run(point, current.folder / f"{point.name}.log"):
                failed[point.name] = current.info.failed[point.name] = failure
                text += f" failed: {failure}"
            bar.show(done)
            left = timedelta(seconds=round((time.monotonic() - started) / number * (len(waiting) - number)))
            print(f"[{done}/{total}] {text}; {left} left", flush=True)
    return failed


def _words(folder: Path, all_points: Sequence[Point] = ()) -> dict[str, list[str]]:
    """Return the words of every run that the sweep has begun; refuse points with others."""
    info = runs.read(folder) if (folder / "run.json").is_file() else None
    words = info.runs if isinstance(info, SweepInfo) else {}
    for point in all_points:
        if words.get(point.name, list(point.words)) != list(point.words):
            raise InputError(
                f"the run {point.name} was made with other options: give this sweep another name with --run, or remove "
                f"{folder} and its runs."
            )
    return words


def _run(point: Point, log: Path) -> str:
    """Run a point; return nothing, or the last line that it printed before it failed."""
    # Without -P, Python would look for every module in the current folder first: needed where the package lies there.
    safe = [] if Path(__file__).parents[2] == Path.cwd() else ["-P"]
    command = [sys.executable, *safe, "-m", "dynamics", "fit", "--run", point.name, "--resume", "auto", *point.words]
    with log.open("a") as file:
        start = file.tell()
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            code = process.wait()
        except KeyboardInterrupt as error:
            if isinstance(error, Interrupted):
                process.send_signal(error.number)  # Ctrl-C in a terminal reaches the run by itself
            process.wait()
            raise
    if code == 0:
        return ""
    if point.status == "interrupted" and (code == 1 or code > 128):
        raise KeyboardInterrupt if code == 1 else Interrupted(code - 128)  # nobody meant the others to begin
    if code < 0:
        return f"killed by signal {-code}"
    lines = [line for line in log.read_bytes()[start:].decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("dynamics: ") if lines else f"exit code {code}"
