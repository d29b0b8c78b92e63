"""Runs that are killed and resumed, each attempt in a process forked for it, and what they leave compared."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten_with_path

from dynamics import record, runs
from dynamics.training.checkpoint import states

OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
"""Events of Python before an operation on a file; of `open`, those that may write."""


def attempt(train: Callable[[], object], operations: int = 0, seconds: float = 0, quiet: bool = False) -> int:
    """Train in a process that is killed before one of its file operations, or after some seconds (0: never).

    Returns:
        The signal that ended it, less than 0, or its exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if (child := os.fork()) == 0:
        os.setpgrp()  # what it starts is killed with it
        try:
            if quiet:
                for stream in (1, 2):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            if operations:
                sys.addaudithook(Countdown(operations))
            train()
        except SystemExit as exit_:
            os._exit(exit_.code if isinstance(exit_.code, int) else 1)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(70)
        os._exit(0)
    with suppress(OSError):  # where it has done so itself, and is at work
        os.setpgid(child, child)
    until = time.monotonic() + seconds
    while seconds and time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    if seconds:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


class Countdown:
    """Kills the process before an operation on a file of the runs."""

    def __init__(self, operations: int) -> None:
        self.left, self.folder = operations, str(runs.CHECKPOINTS)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in OPERATIONS or self.folder not in str(arguments[0]):
            return
        if event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        self.left -= 1
        if self.left == 0:
            os.killpg(os.getpid(), signal.SIGKILL)


def chain(train: Callable[..., object], run: str, moments: Iterable[int]) -> int:
    """Train a run to its end through kills before the given operations on its files; return how many there were."""
    kills = 0
    for operations in moments:
        if attempt(lambda: train(run, "--resume", "auto"), operations=operations) == 0:
            return kills
        kills += 1
    assert attempt(lambda: train(run, "--resume", "auto")) == 0
    return kills


def differences(one: str, other: str) -> Iterator[str]:
    """Name what differs between two runs: losses, measurements, weights, optimiser, generators, or what lies about."""
    yield from other_rows(one, other)
    folders = [runs.CHECKPOINTS / name for name in (one, other)]
    names = [[path.name for path in states(folder)] for folder in folders]
    kept = [sorted(path.name for path in (folder / "weights").iterdir()) for folder in folders]
    if names[0] != names[1] or kept[0] != kept[1]:
        yield f"files {names} {kept}"
        return
    for name in names[0]:
        yield from (f"{name}{key}" for key in different(*(folder / "state" / name for folder in folders)))
    for step in (int(name.removeprefix("step-")) for name in kept[0]):
        first, second = (runs.weights_path(folder, step) / "model.safetensors" for folder in folders)
        if first.read_bytes() != second.read_bytes():
            yield f"weights at {step}"
    for name in (one, other):
        yield from leftovers(name)


def other_rows(one: str, other: str) -> Iterator[str]:
    """Name the record where that of two runs differs; the times that it took may."""
    frames = [frame[frame.site != "cost"].drop(columns="run") for frame in map(record.read, (one, other))]
    if not frames[0].reset_index(drop=True).equals(frames[1].reset_index(drop=True)):
        yield "record"


def leftovers(run: str) -> Iterator[str]:
    """Name what a run that is done should not have: temporary files, a lock, another status."""
    folder = runs.CHECKPOINTS / run
    if left := [str(path) for path in (*folder.rglob(".*.tmp"), *folder.glob(".lock"))]:
        yield f"leftovers {left}"
    if runs.read(folder).status != "done":
        yield f"status {runs.read(folder).status}"


def different(first: Path, second: Path) -> Iterator[str]:
    """Name the entries of two training states that differ; times may."""
    trees = [dict(tree_flatten_with_path(torch.load(path, weights_only=True))[0]) for path in (first, second)]
    for key in trees[0].keys() | trees[1].keys():
        old, new = (tree.get(key) for tree in trees)
        name = "".join(map(str, key))
        if "seconds" in name or "_progress" in name or "loops" in name:
            continue
        if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
            if not torch.equal(old, new):
                yield name
        elif old != new:
            yield name


@contextmanager
def without_generators() -> Iterator[None]:
    """Leave the state of the generators out when a run resumes: a mistake that the comparison must find."""
    restore, torch.set_rng_state = torch.set_rng_state, lambda state: None
    try:
        yield
    finally:
        torch.set_rng_state = restore
