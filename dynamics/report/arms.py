"""Which rows belong together: an arm is a set of runs (or conditions) that differ in their seed alone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dynamics import record
from dynamics.report.names import CURVES
from dynamics.run_info import RunInfo, ScanInfo

HISTORY = ("run", "created", "finished", "status", "seed", "commit", "hardware", "command", "versions")
"""Keys of `run.json` that say how a run went, not what it was: two seeds of one arm may differ in them."""
ASIDE = ("probe", "seed", "seed_everything", "source", "notes")
"""Keys, at any depth, that do not make another arm either."""
HIDDEN = ("schema", "descriptions")
"""Keys of `run.json` that are no settings."""
NAMING = ("model", "revision", "step", "series")
"""Facts of a scanned model that its name on the page says."""
SOURCES = ("text", "images", "audio")
"""What a scan reads: the facts of a model name its own."""

Settings = dict[str, Any]

ABOUT: dict[tuple[str, Any], str] = {
    ("clm", True): "Causal mask: a character sees only what comes before it; learns to predict the next one (clm).",
    ("mlm", False): "No mask: a character sees the whole window; learns to restore masked characters (mlm).",
    ("mlm", True): "Causal mask, yet learns to restore masked characters (mlm): separates the mask from the objective.",
}


@dataclass(frozen=True)
class Arm:
    """One arm of the comparison.

    Args:
        name: unique on the page.
        runs, seeds: that it consists of.
        along: what its geometry is followed along.
        settings: that its runs share.
    """

    name: str
    runs: tuple[str, ...]
    seeds: tuple[str, ...]
    along: str
    settings: Settings = field(default_factory=dict, repr=False)

    @property
    def objective(self) -> str:
        """Return what its runs learn; empty where they do not say."""
        return str(self.settings.get("objective") or "")

    @property
    def about(self) -> str:
        """Return what this arm is, in a sentence; empty where its runs do not say."""
        return ABOUT.get((self.objective, self.settings.get("is_causal")), "")


@dataclass(frozen=True)
class ArmEntry:
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
    if isinstance(settings, dict):
        flat: Settings = {}
        for key, value in settings.items():
            flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: json.dumps(settings, default=str) if isinstance(settings, list) else settings}


def settings_of(info: RunInfo) -> Settings:
    """Return what `run.json` says that is shown as settings."""
    return {key: value for key, value in info.to_dict().items() if key not in HIDDEN}


def design(settings: Any) -> Any:
    """Return what a run was: its settings without its history and its seed."""
    if not isinstance(settings, dict):
        return settings
    if settings.get("objective") in ("clm", "mlm"):  # an older run.json says nothing of what had one value then
        settings = {"architecture": "char_transformer", **settings, "overrides": settings.get("overrides") or None}
    return {key: design(value) for key, value in settings.items() if key not in HISTORY + ASIDE}


def differing(settings: Settings, others: Sequence[Settings]) -> list[str]:
    """Return those settings that are not the same in all others, each as its key's last part and its value.

    >>> differing({"model.width": 32, "depth": 2}, [{"model.width": 64, "depth": 2}])
    ['width 32']
    """
    keys = [key for key, value in settings.items() if any(other.get(key) != value for other in others)]
    return list(dict.fromkeys(f"{key.split('.')[-1]} {settings[key]}" for key in keys))


def entries(run: str, rows: pd.DataFrame, info: RunInfo) -> Iterator[ArmEntry]:
    """Return the entries of a run, from its rows and its `run.json`."""
    pairs = list(rows[["subject", "condition"]].drop_duplicates().itertuples(index=False, name=None))
    conditions = [record.parse_condition(condition) for _, condition in pairs]
    along, settings = _along(rows, conditions), settings_of(info)
    for (subject, condition), keys in zip(pairs, conditions, strict=True):
        seed = keys.pop("seed", settings.get("seed", ""))
        at = _number(keys.pop(along)) if along in keys else None
        key = json.dumps([design(settings), _series(info, subject), keys, along], sort_keys=True, default=str)
        yield ArmEntry(run, subject, condition, record.condition(**keys), str(seed), along, at, key)


def _along(rows: pd.DataFrame, conditions: Sequence[Mapping[str, str]]) -> str:
    """Return what a run is followed along: its steps, else the condition with the most numbers, three at least."""
    if rows.loc[~rows["site"].isin([*CURVES, "cost"]), "step"].nunique() > 1:
        return "step"
    values: dict[str, set[float | None]] = {}
    for condition in conditions:
        for key, text in condition.items():
            values.setdefault(key, set()).add(_number(text))
    counts = {key: len(numbers) for key, numbers in values.items() if None not in numbers and key != "seed"}
    best = max(counts, key=counts.__getitem__, default="step")
    return best if counts.get(best, 0) >= 3 else "step"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _facts(info: RunInfo, subject: str) -> Settings:
    """Return what a scan says of one of its models; nothing where the run is no scan."""
    return info.subjects.get(subject, {}) if isinstance(info, ScanInfo) else {}


def _series(info: RunInfo, subject: str) -> str:
    """Return the model that revisions on one step axis share, else the subject itself."""
    return str(_facts(info, subject).get("series") or subject)


def _arm_settings(info: RunInfo, subject: str) -> Settings:
    """Return the settings of an arm: of a scan's, those that all its models share and the facts of this one."""
    settings = settings_of(info)
    facts = {key: value for key, value in _facts(info, subject).items() if key not in NAMING}
    if not facts or not isinstance(info, ScanInfo):
        return settings
    shared = {key: value for key, value in info.settings.items() if key not in SOURCES}
    return {key: value for key, value in settings.items() if key not in ("settings", "subjects")} | shared | facts


def arms_of(members: Sequence[ArmEntry], infos: Mapping[str, RunInfo]) -> dict[ArmEntry, Arm]:
    """Return the arm of each entry, arm by arm."""
    by_key: dict[str, list[ArmEntry]] = {}
    for entry in members:
        by_key.setdefault(entry.key, []).append(entry)
    groups: list[list[ArmEntry]] = []
    for group in by_key.values():
        per_run = [[entry for entry in group if entry.run == run] for run in dict.fromkeys(e.run for e in group)]
        seeds = [seed for part in per_run for seed in {entry.seed for entry in part}]
        # Runs of one seed are no independent repetitions: they stay apart.
        groups += [group] if len(set(seeds)) == len(seeds) else per_run
    owners: dict[ArmEntry, Arm] = {}
    for group, name in zip(groups, _names(groups, infos), strict=True):
        runs = tuple(dict.fromkeys(entry.run for entry in group))
        settings = _arm_settings(infos[runs[0]], group[-1].subject)
        arm = Arm(name, runs, tuple(dict.fromkeys(entry.seed for entry in group)), group[0].along, settings)
        owners |= dict.fromkeys(group, arm)
    return owners


def _names(groups: Sequence[Sequence[ArmEntry]], infos: Mapping[str, RunInfo]) -> list[str]:
    """Name each arm by label, subject and condition; where those agree, by the settings that differ, else the run."""
    bases = [_base_name(group[0], infos[group[0].run]) for group in groups]
    flat = [flatten(design(settings_of(infos[group[0].run]))) for group in groups]
    names = []
    for base, group, settings in zip(bases, groups, flat, strict=True):
        alike = [other for other, name in zip(flat, bases, strict=True) if name == base]
        if len(alike) > 1:
            short = {key: value for key, value in settings.items() if len(str(value)) <= 24}
            base = f"{base}, {', '.join(differing(short, alike)[:2]) or group[0].run}"
        names.append(base)
    return [
        name if names.count(name) == 1 else f"{name}, {group[0].run}" for name, group in zip(names, groups, strict=True)
    ]


def _base_name(entry: ArmEntry, info: RunInfo) -> str:
    label = info.to_dict().get("label") or ("" if entry.subject else entry.run)
    return ", ".join(str(part) for part in (label, _series(info, entry.subject), entry.rest) if part)
