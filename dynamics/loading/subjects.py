"""What a scan loads: names on the command line to models, revisions and steps. No weights here."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamics import runs
from dynamics.errors import InputError
from dynamics.loading.options import ModelOptions

MULTIBERT = re.compile(r"(.*multiberts-seed_\d+)(?:-(step_\d+k))?")
"""These checkpoints are models of their own: `google/multiberts-seed_0-step_20k` (2106.16163)."""


@dataclass(frozen=True)
class Subject:
    """One model to be measured.

    Args:
        model: its name on the page.
        revision: of the model; `local` for a folder, `seed0` for a random one.
        step: its place on the step axis; 0 where there is none.
        kind: `hub`, `folder`, `run` (a checkpoint of ours), `random` or `module`.
        source: what it is loaded from: a name, a path, an architecture, `package:factory`.
        series: what models on one step axis share; empty off the axis.
    """

    model: str
    revision: str
    step: int
    kind: str
    source: str
    series: str = ""

    @property
    def name(self) -> str:
        """`model@revision`."""
        return f"{self.model}@{self.revision}"

    @property
    def run(self) -> Path:
        """The folder of the run that a checkpoint of ours belongs to."""
        return Path(self.source).parent.parent


def step_of(text: str) -> int | None:
    """The training step that a revision or a name ends with; None where it tells none.

    >>> [step_of(text) for text in ("step512", "multiberts-seed_0-step_20k", "checkpoint-0500", "main")]
    [512, 20000, 500, None]
    """
    match = re.search(r"(?:step|checkpoint)[_-]?(\d+)([km]?)(?![\da-z])", text.lower())
    return int(match[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2]] if match else None


def expand(options: ModelOptions) -> list[Subject]:
    """Every subject of a scan; those of one series in the order of their steps.

    Raises:
        InputError: nothing is named, a name is given twice, or a revision does not exist.
    """
    wanted = [part.strip() for part in (options.revisions or "").split(",") if part.strip()]
    found = [subject for model in options.models for subject in _subjects(model, wanted, options.seed)]
    if options.module:
        found.append(Subject(options.module, "local", 0, "module", options.module))
    if not found:
        raise InputError("name at least one model: a hub name, a folder, a run of ours, or random:ARCHITECTURE.")
    if wanted and all(subject.kind in ("random", "module") for subject in found):
        raise InputError(f"--revisions {options.revisions}: {found[0].model} has none; leave it out.")
    names = [subject.name for subject in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        places = {subject.source for subject in found if subject.name == twice}
        hint = "name every model and revision once" if len(places) == 1 else "link one under another name (ln -s)"
        raise InputError(f"{twice} is named twice: {hint}.")
    return found


def _subjects(model: str, wanted: Sequence[str], seed: int) -> Iterator[Subject]:
    path = Path(model)
    if model.startswith("random:"):
        yield Subject(model, f"seed{seed}", 0, "random", model.removeprefix("random:"))
    elif (run := _own(model)) is not None:
        yield from _of_run(run, wanted)
    elif path.exists():
        yield from _of_folder(path, wanted)
    elif model.startswith((".", "/", "~", f"{runs.CHECKPOINTS}/")):
        raise InputError(f"there is no model at {model}: the folder does not exist.")
    else:
        yield from _of_hub(model, wanted)


def _own(model: str) -> Path | None:
    """The folder of a run of ours that goes by this name or path."""
    for folder in (runs.CHECKPOINTS / model, Path(model)):
        if (folder / "run.json").is_file() and not (folder / "config.json").is_file():
            return folder
    return None


def _of_run(run: Path, wanted: Sequence[str]) -> Iterator[Subject]:
    paths = {int(path.name.split("-")[1]): path for path in sorted((run / "weights").glob("step-*"))}
    if not paths:
        raise InputError(
            f"the run {run.name} kept no weights (nothing in {run / 'weights'}): train with --monitor.keep_weights all."
        )
    for step in _steps(run.name, paths, wanted):
        yield Subject(run.name, f"step{step}", step, "run", str(paths[step]), run.name)


def _steps(name: str, known: dict[int, Path], wanted: Sequence[str]) -> list[int]:
    if not wanted or list(wanted) == ["all"]:
        return sorted(known)
    steps = [int(part) if part.isdigit() else step_of(part) for part in wanted]
    for part, step in zip(wanted, steps, strict=True):
        if step not in known:
            kept = ", ".join(map(str, sorted(known)))
            raise InputError(f"{name} has no revision {part}: it kept the steps {kept}.")
    return sorted({step for step in steps if step is not None})


def _of_folder(path: Path, wanted: Sequence[str]) -> Iterator[Subject]:
    if not path.is_dir():
        raise InputError(f"{path} is no folder: name the folder that holds config.json and the weights.")
    # A link is known by its own name: that tells two folders apart whose names are the same.
    name = path.resolve().name if path.name in ("", "..") else path.name
    inside = {part.name: part for part in path.iterdir() if (part / "config.json").is_file()}
    if not wanted:
        if not (path / "config.json").is_file():
            hint = f"; --revisions {','.join(sorted(inside))} are in it" if inside else ""
            raise InputError(f"{path} holds no model (there is no config.json in it{hint}).")
        yield Subject(name, "local", step_of(name) or 0, "folder", str(path))
        return
    known = sorted(inside) if list(wanted) == ["all"] else wanted
    if missing := [part for part in known if part not in inside]:
        raise InputError(
            f"{path} has no revision {missing[0]}: it holds {', '.join(sorted(inside)) or 'no folder with a model'}."
        )
    yield from _along(name, [(part, "folder", str(inside[part])) for part in known])


def _of_hub(model: str, wanted: Sequence[str]) -> Iterator[Subject]:
    name, _, revision = model.partition("@")
    wanted = [revision] if revision else wanted
    if list(wanted) == ["all"]:
        wanted = _published(name)
    multibert = MULTIBERT.fullmatch(name)
    if multibert and wanted and not multibert[2]:
        yield from _along(name, [(part, "hub", f"{name}-{part}") for part in wanted])
    elif wanted:
        yield from _along(name, [(part, "hub", name) for part in wanted])
    else:
        series = multibert[1] if multibert and multibert[2] else ""
        yield Subject(name, "main", step_of(name) or 0, "hub", name, series)


def _along(name: str, found: Sequence[tuple[str, str, str]]) -> list[Subject]:
    """Revisions (revision, kind, source) in the order of their steps; one without a step stands off the axis."""
    made = []
    for revision, kind, source in found:
        step = step_of(revision)
        made.append(Subject(name, revision, step or 0, kind, source, "" if step is None else name))
    return sorted(made, key=lambda subject: (subject.series == "", subject.step))


def _published(name: str) -> list[str]:
    """The published steps of a model on the hub; those in the cache where there is no network.

    They are branches of its repository (Pythia), or repositories of their own (MultiBERTs).
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    apart, cache = MULTIBERT.fullmatch(name) is not None, Path(constants.HF_HUB_CACHE)
    try:
        if apart:
            found = [model.id for model in HfApi().list_models(search=f"{name}-step_")]
        else:
            found = [branch.name for branch in HfApi().list_repo_refs(name).branches]
    except (OSError, HfHubHTTPError, OfflineModeIsEnabled, ValueError):
        if apart:
            found = [path.name.removeprefix("models--").replace("--", "/") for path in cache.glob("models--*")]
        else:
            found = [path.name for path in (cache / f"models--{name.replace('/', '--')}" / "refs").glob("*")]
    if apart:
        found = [model.removeprefix(f"{name}-") for model in found if model.startswith(f"{name}-step_")]
    steps = [revision for revision in found if step_of(revision) is not None]
    if not steps:
        raise InputError(
            f"the revisions of {name} cannot be listed (no network and none in the cache, or none names a step): "
            "name them, as in --revisions step0,step512."
        )
    return steps
