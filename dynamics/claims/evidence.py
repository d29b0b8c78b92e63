"""What claims are judged by: the models of a study, and the rows of its probes and cones. No torch here."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynamics import record, runs
from dynamics.claims.base import NotMeasurable
from dynamics.claims.foreign import is_foreign, read_foreign
from dynamics.claims.members import CONVOLUTIONAL, Member, Population, kind_of
from dynamics.claims.statistics import UNITS, Measured, mean_of
from dynamics.errors import InputError
from dynamics.report import study as studies
from dynamics.report.arms import design, flatten, settings_of
from dynamics.report.study import Study
from dynamics.run_info import FitInfo, RunInfo, ScanInfo, SweepInfo

CHARACTERS = r"canine|byt5|charformer|characterbert|manta"  # models that read characters or bytes
CONE_SITES = ("sentence", "token")
APART = ("seed", "objective", "is_causal", "causal", "kind", "lambda", "regularizer", "synthetic")  # of a condition
# Settings, by the last part of their name, that do not make another design: the twins', and what follows from them.
SHARED = (
    *("objective", "is_causal", "label", "parameters", "epoch_steps", "devices", "precision", "_class_path"),
    *("model_class", "run", "wandb_id"),
)
BLOCKS = ("metrics", "regularizers", "data.compressors", "data.notes")  # and so do all settings below these


@dataclass(frozen=True)
class Evidence:
    """The models of one population, and the rows of probes and cones with a column for every key of a condition."""

    members: tuple[Member, ...]
    population: Population
    probe: pd.DataFrame
    cone: pd.DataFrame
    study: Study

    @cached_property
    def trained(self) -> list[Member]:
        """Return the models of this population that are no control and were not fine-tuned."""
        return [m for m in self.members if m.population == self.population and not m.control and not m.is_tuned]

    @cached_property
    def main(self) -> list[Member]:
        """Return the models that claims about one kind, or about twins, are judged by.

        Of training runs: those without a regulariser, of the designs with the most twins (kinds), so that an arm that
        varies something else beside the twins is not averaged into them.
        """
        plain = [m for m in self.trained if not m.regularizer[1]]
        if self.population == "models":
            return plain
        kinds: dict[str, set[str]] = {}
        for member in plain:
            kinds.setdefault(member.design, set()).add(member.kind)
        most = max(map(len, kinds.values()), default=0)
        return [m for m in plain if len(kinds[m.design]) == most]

    def of(self, *kinds: str) -> list[Member]:
        """Return the main models of some kinds; all where none is named."""
        return [m for m in self.main if not kinds or m.kind in kinds]

    def control(self, member: Member, kind: str) -> Member | None:
        """Return the control of a model, `untrained` or `shuffled`; None where the record has none."""
        return next((m for m in self.members if m.control == kind and m.name == member.name), None)

    def effects(self, members: Sequence[Member], measure: Callable[[Member], Measured | None]) -> dict[str, Measured]:
        """Return the mean of a measure in every unit; refuse fewer than `UNITS` units that have it."""
        return self.by_unit((member.unit, measure(member)) for member in members)

    def by_unit(self, values: Iterable[tuple[str, Measured | None]]) -> dict[str, Measured]:
        """Return the mean of what each unit has that is finite; refuse fewer than `UNITS` units."""
        found: dict[str, list[Measured]] = {}
        for unit, value in values:
            if value is not None and np.isfinite(value.value):
                found.setdefault(unit, []).append(value)
        self.enough(found)
        return {unit: mean_of(members) for unit, members in found.items()}

    def enough(self, units: Sized) -> None:
        """Refuse fewer than `UNITS` units."""
        if len(units) < UNITS:
            raise NotMeasurable(f"{UNITS} {self.population} at least, found {len(units)}")


def last_step(members: Sequence[Member]) -> int | None:
    """Return the last step that all members have measured; None where they share none, or have none."""
    shared = set.intersection(*(set(member.steps) for member in members)) if members else set()
    return max(shared, default=None)


def load(names: Sequence[str | Path]) -> Study:
    """Read runs by name or path, the runs of a sweep, and files or folders of Parquet that are no runs of ours."""
    ours: list[str | Path] = []
    foreign: list[Path] = []
    for name in names:
        if is_foreign(name):
            foreign.append(Path(name))
        else:
            ours += _runs_of(name)
    if not foreign:
        return studies.load(list(dict.fromkeys(ours)))
    own = studies.load(list(dict.fromkeys(ours))) if ours else None
    infos, records = (dict(own.runs), dict(own.records)) if own is not None else ({}, {})
    for path in dict.fromkeys(foreign):
        for name, rows in read_foreign(path).items():
            run = name if name not in records else f"{name} ({path})"
            infos[run], records[run] = RunInfo.from_dict({}), rows.assign(run=run)
    return studies.study_of(infos, records, [], own.skipped if own else ())


def _runs_of(name: str | Path) -> Iterator[str | Path]:
    """Yield the runs that a name stands for: of a sweep, those that have begun; else the run itself."""
    folder = runs.find(name)
    info = runs.read(folder) if folder is not None and (folder / "run.json").is_file() else None
    if folder is None or not isinstance(info, SweepInfo):
        yield name
        return
    yield from (folder.parent / run for run in info.runs if (folder.parent / run / "record").is_dir())


def evidence(study: Study) -> Evidence:
    """Return what claims are judged by; its population is that of seeds."""
    members: list[Member] = []
    probes, cones = [], []
    for run, rows in sorted(study.records.items()):  # of two runs of one design and seed, claims take the same one
        is_cone, is_probe = rows["site"].isin(CONE_SITES), _is_probe(rows)
        cones.append(rows[is_cone])
        probes.append(rows[is_probe & ~is_cone])
        members += _members(run, rows[~is_cone & ~is_probe], study.runs[run])
    return Evidence(tuple(members), "seeds", pd.concat(probes), pd.concat(cones), study)


def _is_probe(rows: pd.DataFrame) -> "pd.Series[bool]":
    if not {"beta", "bias"} <= {*rows.columns}:
        return pd.Series(False, index=rows.index)
    return pd.to_numeric(rows["beta"], errors="coerce").notna() & rows["bias"].notna()


def _members(run: str, rows: pd.DataFrame, info: RunInfo) -> Iterator[Member]:
    """Yield the models of a run: one of a training run; of a scan, one for each model or series, and each condition."""
    if rows.empty:
        return
    subjects = info.subjects if isinstance(info, ScanInfo) else {}
    names = {
        subject: str(subjects.get(subject, {}).get("series") or (subject if subjects else subject.split("@")[0]))
        for subject in rows["subject"].unique()
    }
    rows = rows.assign(model=rows["subject"].map(names))
    for (name, condition), part in rows.groupby(["model", "condition"], sort=True):
        facts = dict(subjects.get(part["subject"].iloc[-1], {}))
        keys = record.parse_condition(str(condition))
        if keys.get("protocol") == "shape-of-learning":
            part = _with_final_norm(part)
        yield _member(run, str(name), keys, part, info, facts)


def _member(
    run: str, name: str, keys: dict[str, str], rows: pd.DataFrame, info: RunInfo, facts: dict[str, Any]
) -> Member:
    rest = record.condition(**{key: value for key, value in keys.items() if key not in APART})
    seed = keys.get("seed", str(info.to_dict().get("seed", "")))
    control = keys.get("synthetic", "")
    if facts.get("kind") in ("untrained", "random") or ":untrained" in name:
        control, name = "untrained", str(facts.get("model", name)).removesuffix(":untrained")
    is_seed = isinstance(info, FitInfo) or (not isinstance(info, ScanInfo) and ("seed" in keys or not name))
    common = Member(
        name=f"{name.split('@')[0] or run}{', ' + rest if rest else ''}",
        unit=(f"seed {seed}" if seed else run) if is_seed else name.split("@")[0],
        population="seeds" if is_seed else "models",
        kind=_kind(run, name, keys, info, facts),
        design=rest,
        rows=rows,
        modality=_modality(name, keys, facts),
        control=control,
        regularizer=(keys.get("regularizer", "IStar"), _weight(keys["lambda"])) if "lambda" in keys else ("", 0.0),
        settings=keys,
    )
    if not isinstance(info, FitInfo):
        return common
    settings = flatten(design(settings_of(info)))
    settings |= {f"regularizer.{key}": value for key, value in next(iter(info.regularizers.values()), {}).items()}
    return replace(
        common,
        design=design_key(settings),
        settings=settings,
        modality="characters" if not info.task else "text",
        regularizer=_regularizer([term for term in info.regularizers.values() if term.get("weight")]),
        is_tuned=bool(info.task),
    )


def _regularizer(terms: Sequence[Mapping[str, Any]]) -> tuple[str, float]:
    """Return the class and weight of the only term; of several all together, without a weight that they share."""
    if len(terms) > 1:
        return " + ".join(f"{term.get('class')} {term['weight']:g}" for term in terms), np.nan
    return next(((str(term.get("class", "")), float(term["weight"])) for term in terms), ("", 0.0))


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"A record has the condition lambda={text}: it must be a number, the weight.") from None


def design_key(settings: Mapping[str, Any], *aside: str) -> str:
    """Return what runs of one design share: their settings, without the twins' switches and those `aside`."""
    kept = {
        key: value
        for key, value in settings.items()
        if key.rpartition(".")[2] not in (*SHARED, *aside)
        and not key.startswith((*BLOCKS, "regularizer."))
        and not key.startswith(tuple(f"{name}." for name in aside))
    }
    return json.dumps(kept, sort_keys=True, default=str)


def _kind(run: str, name: str, keys: dict[str, str], info: RunInfo, facts: dict[str, Any]) -> str:
    if isinstance(info, FitInfo):
        return kind_of(info.objective, info.is_causal, f"{run} {info.label}")
    heads = facts.get("heads")
    if isinstance(heads, list) and not any(heads):
        return CONVOLUTIONAL
    causal = keys.get("is_causal", keys.get("causal", "")).lower()
    is_causal = facts.get("is_causal") if not causal else causal in ("true", "1", "yes")
    if keys.get("stack") in ("encoder", "decoder"):
        is_causal = keys["stack"] == "decoder"
    named = [keys.get("kind", ""), keys.get("arm", ""), keys.get("model", ""), name, run]
    return next(filter(None, (kind_of(keys.get("objective", ""), is_causal, text) for text in named)), "")


def _modality(name: str, keys: dict[str, str], facts: dict[str, Any]) -> str:
    """Return what a model reads; bytes count as characters."""
    if facts.get("kind") == "run" or re.search(CHARACTERS, name.lower()):
        return "characters"
    return str(facts.get("modality") or keys.get("modality") or "text")


def _with_final_norm(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows whose last layer is the one after the final norm, as the code of 2311.05928 takes it."""
    output = rows[rows["site"] == "output"]
    is_replaced = (rows["site"] == "residual") & rows["layer"].isin(output["layer"])
    return pd.concat([rows[~is_replaced & (rows["site"] != "output")], output.assign(site="residual")])
