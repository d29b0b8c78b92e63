"""Names on the command line to subjects: models with their revisions and steps. No weights here."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynamics import runs
from dynamics.errors import InputError
from dynamics.loading.options import ModelOptions

# These checkpoints are repositories of their own: `google/multiberts-seed_0-step_20k` (2106.16163).
MULTIBERT = re.compile(r"(.*multiberts-seed_\d+)(?:-(step_\d+k))?")
UNTRAINED, RANDOM = ":untrained", "random:"
FACTS = ("model", "revision", "step", "series", "kind")


@dataclass(frozen=True)
class Subject:
    """A model to be measured."""

    model: str  # its name on the page
    revision: str  # `local` for a folder, `seed0` for weights that are drawn
    step: int  # its place on the step axis; 0 where there is none
    kind: str  # `hub`, `folder`, `run` (a checkpoint of ours), `untrained` (a twin of these), `random` or `module`
    source: str  # what it is loaded from: a name, a path, an architecture, `package:factory`
    series: str = ""  # what models on one step axis share; empty off the axis
    twin: "Subject | None" = None  # the model with whose configuration and tokenizer it is untrained

    @property
    def origin(self) -> "Subject":
        """Whose configuration, tokenizer and windows it has: its own, or its twin's."""
        return self.twin or self

    @property
    def name(self) -> str:
        """`model@revision`."""
        return f"{self.model}@{self.revision}"

    @property
    def weights(self) -> str:
        """Where its weights and its tokenizer lie: older sentence-transformers keep them in a folder of their own."""
        return _weights(self.source) if self.origin.kind == "folder" else self.source

    @property
    def run(self) -> Path:
        """The folder of the run that a checkpoint of ours belongs to."""
        return Path(self.source).parent.parent

    @property
    def hub_revision(self) -> str:
        """The revision of its repository on the hub; `main` where its name says nothing of one."""
        return self.revision if self.kind == "hub" and self.source == self.model else "main"

    @property
    def facts(self) -> dict[str, Any]:
        """Facts for the record."""
        return {name: getattr(self, name) for name in FACTS}


def step_of(text: str) -> int | None:
    """Return the training step that a revision or a name ends with; None where there is none.

    >>> [step_of(text) for text in ("step512", "multiberts-seed_0-step_20k", "checkpoint-0500", "main")]
    [512, 20000, 500, None]
    """
    match = re.search(r"(?:step|checkpoint)[_-]?(\d+)([km]?)(?![\da-z])", text.lower())
    return int(match[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2]] if match else None


def expand(options: ModelOptions) -> list[Subject]:
    """Return every subject that the options name; those of one series in the order of their steps.

    Raises:
        InputError: nothing is named, a name is given twice, or a revision does not exist.
    """
    revisions = [part.strip() for part in (options.revisions or "").split(",") if part.strip()]
    subjects = [subject for model in options.models for subject in _called(model, revisions, options.seed)]
    if options.module:
        subjects.append(Subject(options.module, "local", 0, "module", options.module))
    if not subjects:
        raise InputError("name at least one model: a hub name, a folder, a run of ours, or random:ARCHITECTURE.")
    sources = {subject.source for subject in subjects if subject.kind == "random"}
    if options.config_overrides and not sources:
        raise InputError(f"--config_overrides has no effect without {RANDOM}ARCHITECTURE; remove it.")
    if beside := next((subject.model for subject in subjects if subject.origin.model in sources), None):
        raise InputError(
            f"{RANDOM}{beside} is a small model with another tokenizer than {beside}, and no control for it: name "
            f"{beside}{UNTRAINED}, which has its configuration and tokenizer."
        )
    if revisions and all(subject.kind in ("random", "module") for subject in subjects):
        raise InputError(f"--revisions {options.revisions}: {subjects[0].model} has none; remove it.")
    refuse_twice(subjects)
    return subjects


def refuse_twice(subjects: Sequence[Subject]) -> None:
    """Refuse two subjects of one name."""
    names = [subject.name for subject in subjects]
    if twice := next((name for name in names if names.count(name) > 1), None):
        places = {subject.source for subject in subjects if subject.name == twice}
        hint = "name every model and revision once" if len(places) == 1 else "call one by another name (NAME=MODEL)"
        raise InputError(f"{twice} is named twice: {hint}.")


def revisions_of(model: str, revisions: str = "") -> list[Subject]:
    """Return the revisions of one model: a list with commas, `all`, or its only or newest one where none is named."""
    return [*_subjects(model, [part.strip() for part in revisions.split(",") if part.strip()], 0)]


def _called(model: str, revisions: Sequence[str], seed: int) -> Iterator[Subject]:
    """Yield the subjects of a model; after `NAME=`, of a folder or a run, under that name."""
    name, separator, source = model.partition("=")
    if not separator or Path(model).exists() or runs.find(model) is not None:
        yield from _subjects(model, revisions, seed)
        return
    if not source or not re.fullmatch(r"[\w.-]+", name):
        raise InputError(f"{model}: give NAME=MODEL, with a name of letters, digits, dots, - and _.")
    for subject in _subjects(source, revisions, seed):
        if subject.kind not in ("folder", "run"):  # the others' names say what they are
            raise InputError(f"{model}: NAME= is for folders and runs; {source} keeps its name, remove {name}=.")
        yield replace(subject, model=name, series=name if subject.series else "")


def _subjects(model: str, revisions: Sequence[str], seed: int) -> Iterator[Subject]:
    path, run = Path(model), runs.find(model)
    if model.endswith(UNTRAINED) and model.startswith(RANDOM):
        raise InputError(f"{model}: a random model is untrained; name {model.removesuffix(UNTRAINED)}.")
    if model.endswith(UNTRAINED):
        twin = next(_subjects(model.removesuffix(UNTRAINED), revisions, seed))
        yield Subject(twin.model + UNTRAINED, f"seed{seed}", 0, "untrained", twin.source, twin=twin)
    elif model.startswith(RANDOM):
        yield Subject(model, f"seed{seed}", 0, "random", model.removeprefix(RANDOM))
    elif run is not None and not (run / "config.json").is_file():
        yield from _of_run(run, revisions)
    elif path.exists():
        yield from _of_folder(path, revisions)
    elif model.startswith((".", "/", "~", f"{runs.CHECKPOINTS}/")):
        raise InputError(f"there is no model at {model}: the folder does not exist.")
    else:
        yield from _of_hub(model, revisions)


def _of_run(run: Path, revisions: Sequence[str]) -> Iterator[Subject]:
    paths = runs.kept_weights(run)
    if not paths:
        raise InputError(
            f"the run {run.name} kept no weights (nothing in {run / 'weights'}): train with --monitor.keep_weights all."
        )
    steps = set(paths)
    if revisions and list(revisions) != ["all"]:
        named = {part: int(part) if part.isdigit() else step_of(part) for part in revisions}
        if missing := [part for part, step in named.items() if step not in paths]:
            kept = ", ".join(map(str, sorted(paths)))
            raise InputError(f"{run.name} has no revision {missing[0]}: it kept the steps {kept}.")
        steps = {step for step in named.values() if step is not None}
    for step in sorted(steps):
        yield Subject(run.name, f"step{step}", step, "run", str(paths[step]), run.name)


def _of_folder(path: Path, revisions: Sequence[str]) -> Iterator[Subject]:
    if not path.is_dir():
        raise InputError(f"{path} is no folder: name the folder that holds config.json and the weights.")
    # A link keeps its own name: that distinguishes two folders of the same name.
    name = path.resolve().name if path.name in ("", "..") else path.name
    inside = {part.name: part for part in path.iterdir() if (part / "config.json").is_file()}
    if not revisions:
        if not (Path(_weights(path)) / "config.json").is_file():
            hint = f"; --revisions {','.join(sorted(inside))} are in it" if inside else ""
            raise InputError(f"{path} holds no model (there is no config.json in it{hint}).")
        yield Subject(name, "local", step_of(name) or 0, "folder", str(path))
        return
    names = sorted(inside) if list(revisions) == ["all"] else revisions
    if missing := [part for part in names if part not in inside]:
        raise InputError(
            f"{path} has no revision {missing[0]}: it holds {', '.join(sorted(inside)) or 'no folder with a model'}."
        )
    yield from _series(name, "folder", [(part, str(inside[part])) for part in names])


def _of_hub(model: str, revisions: Sequence[str]) -> Iterator[Subject]:
    name, _, revision = model.partition("@")
    revisions = [revision] if revision else revisions
    if list(revisions) == ["all"]:
        revisions = _published(name)
    multibert = MULTIBERT.fullmatch(name)
    series = multibert[1] if multibert and multibert[2] else ""
    if revisions:
        is_apart = multibert and not series
        yield from _series(name, "hub", [(part, f"{name}-{part}" if is_apart else name) for part in revisions])
    else:
        yield Subject(name, "main", step_of(name) or 0, "hub", name, series)


def _weights(folder: str | Path) -> str:
    """Return the folder that holds config.json: this one, or the only `0_Transformer` or the like in it."""
    inside = [path.parent for path in Path(folder).glob("0_*/config.json")]
    return str(inside[0] if len(inside) == 1 and not (Path(folder) / "config.json").is_file() else folder)


def _series(name: str, kind: str, revisions: Sequence[tuple[str, str]]) -> list[Subject]:
    """Return revisions, each with its source, in the order of their steps; one without a step is off the step axis."""
    steps = [(step_of(revision), revision, source) for revision, source in revisions]
    subjects = [
        Subject(name, part, step or 0, kind, source, "" if step is None else name) for step, part, source in steps
    ]
    return sorted(subjects, key=lambda subject: (subject.series == "", subject.step))


def _published(name: str) -> list[str]:
    """Return the published steps of a model on the hub; those in the cache where there is no network.

    They are branches of its repository (Pythia), or repositories of their own (MultiBERTs).
    """
    from huggingface_hub import HfApi, constants

    is_apart, cache = MULTIBERT.fullmatch(name) is not None, Path(constants.HF_HUB_CACHE)
    try:
        if is_apart:
            names = [model.id for model in HfApi().list_models(search=f"{name}-step_")]
        else:
            names = [branch.name for branch in HfApi().list_repo_refs(name).branches]
    except Exception:  # of a network; the library's clients for it each raise their own
        if is_apart:
            names = [path.name.removeprefix("models--").replace("--", "/") for path in cache.glob("models--*")]
        else:
            names = [path.name for path in (cache / f"models--{name.replace('/', '--')}" / "refs").glob("*")]
    if is_apart:
        names = [model.removeprefix(f"{name}-") for model in names if model.startswith(f"{name}-step_")]
    steps = [revision for revision in names if step_of(revision) is not None]
    if not steps:
        raise InputError(
            f"the revisions of {name} cannot be listed (no network and none in the cache, or none names a step): "
            "name them, as in --revisions step0,step512."
        )
    return steps
