"""Where a fork comes from: the run that it continues, and from which step. No torch here."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dynamics import runs
from dynamics.files import digests, sha256
from dynamics.record import Record
from dynamics.run_info import FitInfo, ForkFacts, RunInfo


def fork_of(info: RunInfo) -> ForkFacts | None:
    """Return what `run.json` says of a fork's beginning; None where the run is none."""
    return (info.fork or None) if isinstance(info, FitInfo) else None


def fork_in(folder: Path) -> ForkFacts | None:
    """Return what the run in a folder says of its beginning as a fork; None where there is none."""
    return fork_of(runs.read(folder)) if (folder / "run.json").is_file() else None


def forked(info: FitInfo, fork: ForkFacts) -> FitInfo:
    """Return what `run.json` says of a run that is a fork."""
    return replace(info, fork=fork, label=f"{info.label}, from step {fork['step']}")


def parent_of(folder: Path, fork: ForkFacts) -> Path | None:
    """Return the folder of the run that a fork in `folder` continues, if that run is still there.

    A run is the one that was forked if the state at that step is, or was, one that it wrote.
    """
    parent = folder.resolve().parent / fork["parent"]  # a path, where it lay elsewhere
    path = runs.state_path(parent, fork["step"])
    is_known = fork["parent_state"] in digests(path.parent).get(path.name, ())
    if not (is_known or (path.is_file() and sha256(path) == fork["parent_state"])):
        return None
    return parent if (parent / "run.json").is_file() else None


def ancestors(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the runs that a run continues, its parent first, each with the last step that belongs to its past."""
    last: int | None = None
    while fork := fork_in(folder):
        last = fork["step"] if last is None else min(last, fork["step"])
        if (parent := parent_of(folder, fork)) is None:
            return
        yield parent, last
        folder = parent


def newest_values(record: Record, site: str, metric: str, step: int, count: int) -> list[float]:
    """Return the last `count` finite values of a curve up to `step`, oldest first; before a fork, those of its past."""
    values = record.newest(site, metric, step, count)
    for past, last in ancestors(record.folder.parent) if len(values) < count else ():
        values[:0] = Record(past).newest(site, metric, min(step, last), count - len(values))
    return values[-count:]
