"""One run of the probe: its folder, its record, its progress."""

from pathlib import Path

import torch

from dynamics.errors import InputError, in_words
from dynamics.experiments.guards import out_of_memory
from dynamics.experiments.in_turn import as_one
from dynamics.experiments.probe.architectures import Architecture
from dynamics.experiments.probe.blocks import RandomBlocks
from dynamics.experiments.probe.cells import ProbeSuites
from dynamics.experiments.probe.design import ProbeSettings
from dynamics.experiments.probe.sweep import Blocks, ProbeSweep
from dynamics.experiments.progress import progress
from dynamics.provenance import provenance
from dynamics.record import Record, condition, parse_condition, read
from dynamics.run_info import ProbeInfo
from dynamics.runs import name_by_time, start


def probe(settings: ProbeSettings, run: str | None = None, resume: str | None = None) -> Path:
    """Run the probe, leave its record in `checkpoints/<run>/` and return that folder.

    All rows have step 0. Those of site `residual` have a `part` of the block in their condition: `input` (layer 0),
    `attention` alone, `residual` (the stream that it was added to) and `mlp` (the block's output), at layers 1..L;
    those of site `attention` have layers 1..L. `beta` is the norm of the bias, `bias` the place where it was added,
    `seed` the draw. Whatever else a run sweeps has its own key; an architecture is the subject. Cells that the record
    of a resumed run has are left out.

    Raises:
        InputError: the run exists and cannot be resumed so, or the settings are impossible; a new run leaves nothing.
    """
    if resume not in (None, "auto"):
        raise InputError(f"resume must be auto (got {resume}).")
    device = _device(settings.device)
    suites = ProbeSuites.parse(settings.metrics, settings.sample)
    designs, failed = _built(settings, device)
    architecture = settings.architecture if isinstance(settings.architecture, str) else None
    info = ProbeInfo(
        run=run or name_by_time("probe", architecture),
        **provenance(),
        **settings.describe() | {"device": device.type},
        descriptions=suites.descriptions(),
        designs=[_describe(blocks) for blocks in designs],
        failed=failed,
    )
    with start(info, resume, same=list(settings.describe())) as current:
        sizes = f"{len(info.beta)} bias norms, {info.seeds} seeds, {info.batch} sequences each"
        print(f"run {info.run}: {sizes}, on {info.device}")
        for design in info.designs:
            verdict = f", capture {design['capture']}" if "capture" in design else ""
            print(f"{design['label']}, {design['layers']} layers{verdict}")
        for name, reason in failed.items():
            current.ends_as = "failed"
            print(f"{name}: not measured ({reason})")
        record, measured = Record(current.folder), _measured(current.folder)
        sweeps = [ProbeSweep(blocks, settings, suites, info.run) for blocks in designs]
        guard = out_of_memory(info.run, settings.batch, "--batch", "a smaller --width or --length")
        try:
            with guard, torch.no_grad(), progress(sum(sweep.work for sweep in sweeps), info.run) as bar:
                for sweep in sweeps:
                    for rows in filter(None, sweep.rows(bar.advance, measured)):
                        record.write(0, rows, part=repr(rows[0][:8]))
        except InputError:
            current.is_discarded = True
            raise
    print(f"run {info.run} is in {current.folder}/")
    return current.folder


def _built(settings: ProbeSettings, device: torch.device) -> tuple[list[Blocks], dict[str, str]]:
    """Return the blocks of each design, and why an architecture, of several, cannot be measured, by its name."""
    designs, failed, errors = list[Blocks](), dict[str, str](), list[Exception]()
    for design in settings.designs():
        try:
            designs.append((Architecture if design.architecture else RandomBlocks)(design, settings.depth, device))
        except InputError as error:
            if not design.architecture:
                raise
            failed[str(design)] = in_words(error)
            errors.append(error)
    if not designs:
        raise as_one(errors)
    return designs, failed


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but torch finds no GPU here; leave it at auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _describe(blocks: Blocks) -> dict[str, object]:
    """Return a design with its actual size, for `run.json`."""
    (tokens, width), design = blocks.shape, blocks.design
    return {
        "subject": design.architecture,
        "condition": condition(**design.condition),
        "label": f"{design}, {width} wide, {tokens} tokens",
        "tokens": tokens,
        "width": width,
        "layers": blocks.layers,
        **({"capture": blocks.capture} if isinstance(blocks, Architecture) else {}),
    }


def _measured(folder: Path) -> frozenset[tuple[str, str]]:
    """Return subject and condition, without the part, of every cell that is in the record."""
    rows = read(folder)[["subject", "condition"]].drop_duplicates()
    cells = [(subject, parse_condition(text)) for subject, text in rows.itertuples(index=False)]
    return frozenset((subject, condition(**{k: v for k, v in cell.items() if k != "part"})) for subject, cell in cells)
