"""One run of the probe: its folder, its record, its progress."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dynamics.errors import InputError
from dynamics.experiments.guards import out_of_memory
from dynamics.experiments.probe.blocks import RandomBlocks
from dynamics.experiments.probe.design import Design, Settings
from dynamics.experiments.probe.meter import Quantities
from dynamics.experiments.probe.sweep import Blocks, Sweep
from dynamics.provenance import provenance
from dynamics.record import Record, condition
from dynamics.runs import new, write_run


def probe(settings: Settings, run: str | None = None) -> Path:
    """Run the probe and leave its record in `checkpoints/<run>/`; gives that folder.

    Rows stand at step 0 and at two sites. `residual`: the condition's `part` tells where in the block, `input`
    (layer 0), `attention` alone, `residual` (the stream that it was added to) and `mlp` (the block's output), at
    layers 1..L. `attention`: layers 1..L. `beta` is the norm of the bias, `bias` the place where it was put,
    `seed` the draw; what else a run sweeps has a key of its own, an architecture is the subject.

    Raises:
        InputError: a run of that name exists, or a setting is impossible; nothing is left behind then.
    """
    folder = new(run or _made_up_name(settings))
    if folder.exists():
        raise InputError(f"a run named {folder.name} exists: choose another --run.")
    device = _device(settings.device)
    quantities = Quantities(settings.metrics, settings.sample)
    blocks = [_blocks(design, settings.depth, device) for design in settings.designs()]
    described = _describe(folder.name, settings, blocks, device)
    _announce(described)
    record = Record(folder)
    write_run(folder, described)
    try:
        sweeps = [Sweep(mine, settings, quantities, folder.name, device) for mine in blocks]
        guard = out_of_memory(folder.name, settings.batch, "--batch", "a smaller --width or --length")
        with guard, torch.no_grad(), _bar(folder.name, sum(sweep.work for sweep in sweeps)) as advance:
            for sweep in sweeps:
                for rows in filter(None, sweep.rows(advance)):
                    record.write(0, rows, part=repr(rows[0][:8]))
    except BaseException as error:
        if isinstance(error, InputError) or not record.folder.exists():
            shutil.rmtree(folder)
        else:
            _finish(folder, described, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    _finish(folder, described, "done")
    print(f"run {folder.name} is in {folder}/")
    return folder


def _blocks(design: Design, depth: int, device: torch.device) -> Blocks:
    if not design.architecture:
        return RandomBlocks(design, depth, device)
    from dynamics.experiments.probe.architectures import Architecture

    return Architecture(design, depth, device)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but there is no GPU here that torch can use: leave it at auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _describe(run: str, settings: Settings, blocks: list[Blocks], device: torch.device) -> dict[str, Any]:
    """`run.json`: everything that the run was made of. `designs` tells each one's actual size."""
    return {
        "run": run,
        "kind": "probe",
        "status": "running",
        **provenance(),
        **settings.describe(),
        "device": device.type,
        "designs": [
            {
                "subject": mine.design.architecture,
                "condition": condition(**mine.design.condition),
                "label": f"{mine.design}, {mine.shape[1]} wide, {mine.shape[0]} tokens",
                "tokens": mine.shape[0],
                "width": mine.shape[1],
                "layers": mine.layers,
            }
            for mine in blocks
        ],
    }


def _announce(described: dict[str, Any]) -> None:
    print(
        f"run {described['run']}: {len(described['beta'])} bias norms, {described['seeds']} seeds, "
        f"{described['batch']} sequences each, on {described['device']}"
    )
    for mine in described["designs"]:
        print(f"{mine['label']}, {mine['layers']} layers")


def _made_up_name(settings: Settings) -> str:
    kind = settings.architecture if isinstance(settings.architecture, str) else None
    return "-".join(filter(None, ["probe", kind, datetime.now(UTC).strftime("%Y%m%d-%H%M%S")]))


def _finish(folder: Path, described: dict[str, Any], status: str) -> None:
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    write_run(folder, {**described, "status": status, "finished": finished})


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar with an ETA, on the terminal alone; gives a function that advances it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description} {task.percentage:>3.0f} %"), BarColumn(), TimeElapsedColumn())
    columns = (*columns, TextColumn("ETA"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)
