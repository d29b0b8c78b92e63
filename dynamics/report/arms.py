"""Which rows belong together: an arm is a set of runs (or conditions) that differ in their seed alone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dynamics import record
from dynamics.report.names import APART
from dynamics.run_info import RunInfo, ScanInfo

HISTORY = (
    *("run", "created", "finished", "status", "error", "seed", "commit", "hardware", "command", "versions"),
    "wandb_id",
)
"""Keys of `run.json` that say how a run went, not what it was: two seeds of one arm may differ in them."""
# Keys, at any depth, that do not make another arm.
ASIDE = ("probe", "capture", "seed", "seed_everything", "source", "notes", "parent", "parent_state")
HIDDEN = ("schema", "descriptions", "audit")  # keys of `run.json` that are no settings
NAMING = ("model", "revision", "step", "series")  # facts of a scanned model that its name on the page says
SOURCES = ("text", "images", "audio")  # what a scan reads: the facts of a model name its own

Settings = dict[str, Any]

ABOUT: dict[tuple[str, Any], str] = {
    ("clm", True): "Causal mask: a character sees only what comes before it; learns to predict the next one (clm).",
    ("mlm", False): "No mask: a character sees the whole window; learns to restore masked characters (mlm).",
    ("mlm", True): "Causal mask, yet learns to restore masked characters (mlm): separates the mask from the objective.",
}


@dataclass(frozen=True)
class Arm:
    """One arm of the comparison; its name is unique on the page."""

    name: str
    runs: tuple[str, ...]
    seeds: tuple[str, ...]
    along: str  # what its geometry is followed along
    settings: Settings = field(default_factory=dict, repr=False)  # that its runs share

    @property
    def objective(self) -> str:
        """Return what its runs learn; empty where they do not say."""
        return str(self.settings.get("objective") or "")

    @property
    def width(self) -> int | None:
        """Return the width of its states; None where its runs do not say, or it changes on the way."""
        width = self.settings.get("width")
        return width if isinstance(width, int) else None

    @property
    def is_convolutional(self) -> bool:
        """Whether its model has no attention and so no residual stream of blocks: its layers are stages."""
        heads = self.settings.get("heads")
        return isinstance(heads, list) and not any(heads)

    @property
    def about(self) -> str:
        """Return what this arm is, in a sentence; empty where its runs do not say."""
        text, fork = ABOUT.get((self.objective, self.settings.get("is_causal")), ""), self.settings.get("fork")
        if not fork:
            return text
        changed = (f"{key} {json.dumps(was)} to {json.dumps(now)}" for key, (was, now) in fork["changed"].items())
        parents = Path(fork["parent"]).name if len(self.runs) == 1 else "other runs"
        return (
            f"{text} Continues {parents} from step {fork['step']}; changed: {', '.join(changed) or 'nothing'}.".strip()
        )


class ArmEntry(NamedTuple):
    """The rows of one run that share a subject and a condition; entries with one `key` differ in their seed."""

    run: str
    subject: str
    condition: str
    rest: str
    seed: str
    along: str
    at: float | None
    key: str


def flatten(settings: Any, prefix: str = "") -> Settings:
    """Return nested settings as one level of dotted keys.

    >>> flatten({"layers": 4, "data": {"corpus": "enwik8"}, "devices": [0, 1]})
    {'layers': 4, 'data.corpus': 'enwik8', 'devices': '[0, 1]'}
    """
    if not isinstance(settings, dict):
        return {prefix: json.dumps(settings, default=str) if isinstance(settings, list) else settings}
    parts = (flatten(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in settings.items())
    return {key: value for part in parts for key, value in part.items()}


def settings_of(info: RunInfo) -> Settings:
    """Return what `run.json` says that is shown as settings."""
    return {key: value for key, value in info.to_dict().items() if key not in HIDDEN}


def design(settings: Any) -> Any:
    """Return what a run was: its settings without its history and its seed."""
    if not isinstance(settings, dict):
        return settings
    if settings.get("objective") in ("clm", "mlm"):  # an older run.json says nothing of what had one value then
        settings = {"architecture": "char_transformer", **settings, "overrides": settings.get("overrides") or None}
    if "recipe" in settings:  # with which versions a text was cleaned is history: its counts say if it became another
        settings = settings | {"recipe": str(settings["recipe"]).partition(",")[0]}
    return {key: design(value) for key, value in settings.items() if key not in HISTORY + ASIDE}


def differing(settings: Settings, others: Sequence[Settings]) -> list[str]:
    """Return those settings that are not the same in all others, each as its key's last part and its value.

    >>> differing({"model.width": 32, "depth": 2}, [{"model.width": 64, "depth": 2}])
    ['width 32']
    """
    keys = [key for key, value in settings.items() if any(other.get(key) != value for other in others)]
    return list(dict.fromkeys(f"{key.split('.')[-1]} {settings[key]}" for key in keys))


def unusual(settings: Settings, others: Sequence[Settings]) -> Settings:
    """Return the settings without those that more than half of the others have too.

    >>> unusual({"width": 32, "depth": 2}, [{"width": 64, "depth": 2}, {"width": 32, "depth": 2}])
    {'width': 32}
    """
    return {k: v for k, v in settings.items() if 2 * sum(other.get(k) == v for other in others) <= len(others)}


def entries(run: str, rows: pd.DataFrame, info: RunInfo) -> Iterator[ArmEntry]:
    """Return the entries of a run, from its rows and its `run.json`."""
    pairs = list(rows[["subject", "condition"]].drop_duplicates().itertuples(index=False, name=None))
    conditions = [record.parse_condition(condition) for _, condition in pairs]
    along, settings = _along(rows, conditions), settings_of(info)
    for (subject, condition), keys in zip(pairs, conditions, strict=True):
        seed = str(keys.pop("seed", settings.get("seed", "")))
        at = _number(keys.pop(along)) if along in keys else None
        key = json.dumps([design(settings), _series(info, subject), keys, along], sort_keys=True, default=str)
        yield ArmEntry(run, subject, condition, record.condition(**keys), seed, along, at, key)


def _along(rows: pd.DataFrame, conditions: Sequence[Mapping[str, str]]) -> str:
    """Return what a run is followed along: its steps, else the condition with the most numbers, three at least."""
    if rows.loc[~rows["site"].isin(APART), "step"].nunique() > 1:
        return "step"
    keys = dict.fromkeys(key for condition in conditions for key in condition if key != "seed")
    values = {key: {_number(condition[key]) for condition in conditions if key in condition} for key in keys}
    counts = {key: len(numbers) for key, numbers in values.items() if None not in numbers and len(numbers) >= 3}
    return max(counts, key=counts.__getitem__, default="step")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _series(info: RunInfo, subject: str) -> str:
    """Return the model of a scan that revisions on one step axis share, else the subject itself."""
    facts = info.subjects.get(subject, {}) if isinstance(info, ScanInfo) else {}
    return str(facts.get("series") or subject)


def _arm_settings(info: RunInfo, subject: str) -> Settings:
    """Return the settings of an arm: of a scan's, those that all its models share and the facts of this one."""
    settings, subjects = settings_of(info), info.subjects if isinstance(info, ScanInfo) else {}
    facts = {key: value for key, value in subjects.get(subject, {}).items() if key not in NAMING}
    if facts:
        shared = {key: value for key, value in settings.pop("settings", {}).items() if key not in SOURCES}
        del settings["subjects"]
        settings |= shared | facts
    return settings


def arms_of(members: Sequence[ArmEntry], infos: Mapping[str, RunInfo]) -> dict[ArmEntry, Arm]:
    """Return the arm of each entry, arm by arm."""
    by_key: dict[str, list[ArmEntry]] = {}
    for entry in members:
        by_key.setdefault(entry.key, []).append(entry)
    groups: list[list[ArmEntry]] = []
    for group in by_key.values():
        repetitions = {(entry.run, entry.seed) for entry in group}
        is_one = len(repetitions) == len({seed for _, seed in repetitions})
        # Runs of one seed are no independent repetitions: they stay apart. The entries of a run follow one another.
        groups += [group] if is_one else [[*part] for _, part in groupby(group, key=lambda entry: entry.run)]
    owners: dict[ArmEntry, Arm] = {}
    for group, name in zip(groups, _names(groups, infos), strict=True):
        runs = tuple(dict.fromkeys(entry.run for entry in group))
        seeds = tuple(dict.fromkeys(entry.seed for entry in group))
        settings = _arm_settings(infos[runs[0]], group[-1].subject)
        owners |= dict.fromkeys(group, Arm(name, runs, seeds, group[0].along, settings))
    return owners


def _base(entry: ArmEntry, info: RunInfo, is_short: bool) -> str:
    """Return label, subject and condition, in short without a revision that is the only one there can be."""
    label = info.to_dict().get("label") or ("" if entry.subject else entry.run)
    subject = _series(info, entry.subject)
    subject = subject.removesuffix("@local").removesuffix("@main") if is_short else subject
    return ", ".join(str(part) for part in (label, subject, entry.rest) if part)


def _names(groups: Sequence[Sequence[ArmEntry]], infos: Mapping[str, RunInfo]) -> list[str]:
    """Name each arm by label, subject and condition; where those agree, by the settings that differ, else the run."""
    runs = [group[0].run for group in groups]
    flat = [flatten(design(settings_of(infos[run]))) for run in runs]
    full, short_names = (
        [_base(group[0], infos[group[0].run], is_short) for group in groups] for is_short in (False, True)
    )
    bases = [short if short_names.count(short) == 1 else name for name, short in zip(full, short_names, strict=True)]
    names = []
    for base, settings in zip(bases, flat, strict=True):
        alike = [other for other, name in zip(flat, bases, strict=True) if name == base]
        short = {key: value for key, value in settings.items() if len(str(value)) <= 24 and key != "parameters"}
        names.append(", ".join([base, *differing(unusual(short, alike), alike)[:2]]))
    return [name if names.count(name) == 1 else f"{name}, {run}" for name, run in zip(names, runs, strict=True)]
