"""A run that measures one model after the other: begun, gone on with where it stopped, its state told in `run.json`."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dynamics import runs
from dynamics.errors import InputError
from dynamics.runs import write_run

Facts = dict[str, Any]
SHARED = ("settings", "metrics")
"""What all models of a run share: a run that goes on must agree."""


def begin(folder: Path, made: Facts, resume: str | None, shared: Sequence[str] = SHARED) -> Facts:
    """`run.json` of a new run, or of the one that goes on; nothing is written yet.

    Args:
        folder: of the run.
        made: what a new run would say; its `kind` is that of the run, and `subjects` has none.
        resume: `auto` to go on.
        shared: keys whose parts must be what they were.

    Raises:
        InputError: the run exists and is not to go on, or cannot with these settings.
    """
    if resume not in (None, "auto"):
        raise InputError(f"--resume {resume}: a {made['kind']} goes on with --resume auto.")
    if not folder.exists() or not any(folder.iterdir()):
        return made
    if resume is None:
        raise InputError(f"a run named {folder.name} exists: add --resume auto to go on, or choose another --run.")
    before = runs.read(folder).to_dict()
    if before.get("kind") != made["kind"]:
        raise InputError(f"the run {folder.name} is no {made['kind']}: choose another --run.")
    for key in shared:
        differing = [part for part in made[key] if made[key][part] != before.get(key, {}).get(part)]
        if differing:
            raise InputError(
                f"the run {folder.name} was made with other {key} ({differing[0]}): choose another --run, or say the "
                "same again."
            )
    return before | {"status": "running"}


def count_known(folder: Path, total: int, waiting: int) -> None:
    """Say how many models the record has already."""
    if waiting < total:
        print(f"run {folder.name}: {total - waiting} of {total} are in the record already")


@contextmanager
def telling(folder: Path, told: Facts) -> Iterator[None]:
    """Around the measuring: how it ended goes to `run.json`; a run that measured nothing leaves nothing."""
    try:
        yield
    except BaseException as error:
        if told["subjects"]:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            write_run(folder, told | {"status": status})
        elif folder.exists():
            shutil.rmtree(folder)
        raise
    write_run(folder, told | {"status": "done", "finished": datetime.now(UTC).isoformat(timespec="seconds")})
