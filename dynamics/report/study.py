"""Which runs belong together: an arm is a set of runs (or conditions) that differ by their seed alone."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dynamics import record, runs
from dynamics.errors import InputError
from dynamics.report.names import CURVES
from dynamics.runs import resolve

HISTORY = ("run", "created", "finished", "status", "seed", "commit", "hardware", "command", "versions")
"""Keys of `run.json` that tell how a run went, not what it was: two seeds of one arm may differ in them."""
ASIDE = ("probe", "seed", "seed_everything", "source", "notes")
"""Keys, at any depth, that do not make another arm either."""

NAMING = ("model", "revision", "step", "series")
"""Facts of a scanned model that its name on the page tells."""
SOURCES = ("text", "images", "audio")
"""What a scan reads: the facts of a model tell of its own."""

Settings = dict[str, Any]
ALL_HEADS = [("head", "=", -1)]

ABOUT = {
    (
        "clm",
        True,
    ): "Causal mask: a character sees only what comes before it; learns to predict the next one (clm).",
    ("mlm", False): "No mask: a character sees the whole window; learns to restore masked characters (mlm).",
    (
        "mlm",
        True,
    ): "Causal mask, yet learns to restore masked characters (mlm): tells the mask from the objective.",
}


@dataclass(frozen=True)
class Arm:
    """One arm of the comparison: `name` is unique on the page, `settings` are those that its runs share."""

    name: str
    runs: tuple[str, ...]
    seeds: tuple[str, ...]
    along: str
    settings: Settings = field(default_factory=dict, repr=False)

    @property
    def objective(self) -> str:
        return str(self.settings.get("objective") or "")

    @property
    def about(self) -> str:
        """What this arm is, in a sentence; empty where its run does not say."""
        return ABOUT.get((self.objective, self.settings.get("is_causal")), "")


@dataclass(frozen=True)
class Study:
    """What the report is about.

    `rows` are those of the record, with the columns `arm` (its name), `seed`, `along` (what the geometry is
    followed along: `step`, or the name of a swept condition) and `at` (where on it, a number). `arrays`
    are those that stand for all heads of a layer, with the same columns and their numbers in `values`.
    """

    rows: pd.DataFrame
    arrays: pd.DataFrame
    arms: tuple[Arm, ...]
    runs: dict[str, Settings]


@dataclass(frozen=True)
class _Entry:
    """The rows of one run that share a subject and a condition."""

    run: str
    subject: str
    condition: str
    rest: str
    seed: str
    along: str
    at: float | None
    key: str


def flatten(settings: Any, prefix: str = "") -> Settings:
    """Nested settings as one level of dotted keys.

    >>> flatten({"layers": 4, "data": {"corpus": "enwik8"}, "devices": [0, 1]})
    {'layers': 4, 'data.corpus': 'enwik8', 'devices': '[0, 1]'}
    """
    if isinstance(settings, dict):
        flat: Settings = {}
        for key, value in settings.items():
            flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: json.dumps(settings, default=str) if isinstance(settings, list) else settings}


def load(runs: Sequence[str | Path]) -> Study:
    """Read runs given by name or path and sort their rows into arms.

    Raises:
        InputError: no run was named, one does not exist, or one has no rows.
    """
    folders = list(dict.fromkeys(resolve(run).resolve() for run in runs))
    if not folders:
        raise InputError("name at least one run to report on, for example `dynamics report NAME --out report.html`.")
    frames, told, arrays = {}, {}, []
    for folder in folders:
        name = _unique(folder, told)
        told[name] = _settings(folder)
        frames[name] = record.read(folder).assign(run=name)
        if frames[name].empty:
            raise InputError(f"run {name} has no rows in {folder / 'record'}: nothing has been measured yet.")
        arrays += [vars(array) | {"run": name} for array in record.read_arrays(folder, ALL_HEADS)]
    entries = [entry for name, frame in frames.items() for entry in _entries(name, frame, told[name])]
    arms, owner = _arms(entries, told)
    labels = pd.DataFrame(
        [(e.run, e.subject, e.condition, owner[e].name, e.seed, e.along, e.at) for e in entries],
        columns=["run", "subject", "condition", "arm", "seed", "along", "at"],
    ).astype({"at": float})
    rows = _label(pd.concat(frames.values()), labels)
    empty = pd.DataFrame(columns=[*record.KEY, "values"])
    return Study(rows, _label(pd.DataFrame(arrays) if arrays else empty, labels), arms, told)


def _label(table: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    table = table.merge(labels, on=["run", "subject", "condition"], how="left")
    return table.assign(at=table["at"].fillna(table["step"]).astype(float))


def _unique(folder: Path, taken: Settings) -> str:
    return folder.name if folder.name not in taken else str(folder)


def _settings(folder: Path) -> Settings:
    if not (folder / "run.json").is_file():
        return {}
    told = runs.read(folder).to_dict()
    if not isinstance(told, dict):
        raise InputError(f"{folder / 'run.json'} must hold one JSON object (found {type(told).__name__}).")
    return told


def _parse(condition: str) -> dict[str, str]:
    return dict(pair.split("=", 1) if "=" in pair else (pair, "") for pair in condition.split(",") if pair)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _swept(frame: pd.DataFrame, conditions: Sequence[dict[str, str]]) -> str:
    """What a run is followed along: its steps, else the condition with the most numbers, three at least."""
    if frame.loc[~frame["site"].isin([*CURVES, "cost"]), "step"].nunique() > 1:
        return "step"
    values: dict[str, set[float | None]] = {}
    for condition in conditions:
        for key, text in condition.items():
            values.setdefault(key, set()).add(_number(text))
    counts = {key: len(found) for key, found in values.items() if None not in found and key != "seed"}
    best = max(counts, key=counts.__getitem__, default="step")
    return best if counts.get(best, 0) >= 3 else "step"


def _entries(run: str, frame: pd.DataFrame, told: Settings) -> Iterator[_Entry]:
    pairs = frame[["subject", "condition"]].drop_duplicates()
    parsed = [_parse(condition) for condition in pairs["condition"]]
    along = _swept(frame, parsed)
    what = design(told)
    for (subject, condition), keys in zip(pairs.itertuples(index=False), parsed, strict=True):
        seed = keys.pop("seed", told.get("seed", ""))
        at = _number(keys.pop(along)) if along in keys else None
        key = json.dumps([what, _series(told, subject), keys, along], sort_keys=True, default=str)
        yield _Entry(run, subject, condition, record.condition(**keys), str(seed), along, at, key)


def _facts(told: Settings, subject: str) -> Settings:
    """What a scan knows of one of its models; nothing where the run is no scan."""
    subjects = told.get("subjects")
    known = subjects.get(subject) if isinstance(subjects, dict) else None
    return known if isinstance(known, dict) else {}


def _series(told: Settings, subject: str) -> str:
    """The model that revisions on one step axis share, else the subject itself."""
    return str(_facts(told, subject).get("series") or subject)


def _own(told: Settings, subject: str) -> Settings:
    """The settings of an arm: of a scan's, those that all models share and the facts of its own."""
    facts = {key: value for key, value in _facts(told, subject).items() if key not in NAMING}
    if not facts:
        return told
    shared = {key: value for key, value in (told.get("settings") or {}).items() if key not in SOURCES}
    return {key: value for key, value in told.items() if key not in ("settings", "subjects")} | shared | facts


def design(told: Any) -> Any:
    """What a run was: its settings without its history and its seed."""
    if not isinstance(told, dict):
        return told
    return {key: design(value) for key, value in told.items() if key not in HISTORY + ASIDE}


def _arms(entries: Sequence[_Entry], told: dict[str, Settings]) -> tuple[tuple[Arm, ...], dict[_Entry, Arm]]:
    groups: dict[str, list[_Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.key, []).append(entry)
    split: list[list[_Entry]] = []
    for group in groups.values():
        runs = list(dict.fromkeys(entry.run for entry in group))
        per_run = [[entry for entry in group if entry.run == run] for run in runs]
        seeds = [seed for mine in per_run for seed in {entry.seed for entry in mine}]
        # Runs of one seed are no independent repetitions: they stay apart.
        split += [group] if len(set(seeds)) == len(seeds) else per_run
    names = _names(split, told)
    arms, owner = [], {}
    for group, name in zip(split, names, strict=True):
        runs = tuple(dict.fromkeys(entry.run for entry in group))
        seeds = tuple(dict.fromkeys(entry.seed for entry in group))
        arms.append(Arm(name, runs, seeds, group[0].along, _own(told[runs[0]], group[-1].subject)))
        owner |= dict.fromkeys(group, arms[-1])
    return tuple(arms), owner


def _names(groups: Sequence[Sequence[_Entry]], told: dict[str, Settings]) -> list[str]:
    """Label, subject and condition of each arm; where those agree, the settings that differ, else the run."""
    bases = [_base(group[0], told[group[0].run]) for group in groups]
    flat = [flatten(design(told[group[0].run])) for group in groups]
    names = []
    for base, group, mine in zip(bases, groups, flat, strict=True):
        alike = [other for other, name in zip(flat, bases, strict=True) if name == base]
        differing = [
            f"{key.split('.')[-1]} {value}"
            for key, value in mine.items()
            if any(other.get(key) != value for other in alike) and len(str(value)) <= 24
        ]
        if len(alike) > 1:
            base = f"{base}, {', '.join(list(dict.fromkeys(differing))[:2]) or group[0].run}"
        names.append(base)
    return [
        name if names.count(name) == 1 else f"{name}, {group[0].run}" for name, group in zip(names, groups, strict=True)
    ]


def _base(entry: _Entry, told: Settings) -> str:
    label = told.get("label") or ("" if entry.subject else entry.run)
    return ", ".join(str(part) for part in (label, _series(told, entry.subject), entry.rest) if part)
