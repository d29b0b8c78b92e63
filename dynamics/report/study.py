"""The study that a page is about: the runs, their rows, and the arms that they form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from dynamics import record, runs
from dynamics.errors import InputError
from dynamics.report.arms import Arm, ArmEntry, arms_of, entries
from dynamics.report.forks import joined, with_parents
from dynamics.report.names import AUDIT, LAYERS, Descriptions, Words, capital, site, words
from dynamics.report.tables import RANGE
from dynamics.run_info import AuditInfo, ConeInfo, Facts, FitInfo, ProbeInfo, RunInfo, ScanInfo

Info = TypeVar("Info", bound=RunInfo)
ALL_HEADS: list[tuple[str, str, Any]] = [("head", "=", -1)]


@dataclass(frozen=True)
class Study:
    """What the page is about: `rows` and `arrays` are those that arms have.

    Both have the columns `arm` (its name), `seed`, `along` (what the geometry is followed along: `step`, or the name
    of a condition that varies) and `at` (where on it, a number).
    """

    rows: pd.DataFrame
    arrays: pd.DataFrame  # those that stand for all heads of a layer, with their numbers in `values`
    arms: tuple[Arm, ...]  # what is compared; probes and cones have none
    runs: dict[str, RunInfo]  # what `run.json` says of each, by name
    records: dict[str, pd.DataFrame]  # all rows of each run, with conditions as columns
    skipped: tuple[str, ...] = ()  # a sentence for each run without rows, or of which parts could not be read

    @property
    def arm_names(self) -> list[str]:
        """Return the names of the arms, in order."""
        return [arm.name for arm in self.arms]

    def of_kind(self, kind: type[Info]) -> dict[str, Info]:
        """Return the runs of one kind, by name."""
        return {run: info for run, info in self.runs.items() if isinstance(info, kind)}

    @property
    def verdicts(self) -> dict[str, dict[str, Facts]]:
        """Return the verdicts on checkpoints, by run and subject, of the runs that audited any."""
        audits = {run: info.audit for run, info in self.runs.items() if isinstance(info, AuditInfo | ScanInfo)}
        return {run: verdicts for run, verdicts in audits.items() if verdicts}

    def rows_of(self, run: str, keys: Sequence[str]) -> pd.DataFrame:
        """Return all rows of a run with a column for each of `keys`, empty where a condition does not have it."""
        rows = self.records[run]
        return rows.assign(**{key: rows[key].fillna("") if key in rows else "" for key in keys})

    def words(self, metric: str) -> Words:
        """Return the words of a metric, as the runs describe it where they do."""
        return words(metric, _descriptions(self.runs))

    def heading(self, place: str, metric: str) -> str:
        """Return the title of a metric at a site, for example `Drift (queries)`."""
        return f"{capital(self.words(metric).title)} ({self.site(place)})"

    def site(self, place: str) -> str:
        """Return the words of a site."""
        return "hidden states" if place == "residual" and self._has_stages else site(place)

    def layers(self, place: str) -> str:
        """Return what the layers of a site are; empty where it has none."""
        stages = "layer 0 = embeddings, 1..L = stages of convolutions"
        return stages if place == "residual" and self._has_stages else LAYERS.get(place, "")

    @property
    def _has_stages(self) -> bool:
        return bool(self.arms) and all(arm.is_convolutional for arm in self.arms)


def load(names: Sequence[str | Path]) -> Study:
    """Read runs given by name or path, `NAME=` before it to call a run that, and sort their rows into arms.

    The runs that forks continue come with them.

    Parts that cannot be read and runs without rows are left out, and named in `Study.skipped`.

    Raises:
        InputError: no run was named, one does not exist, or none has rows.
    """
    folders = with_parents(list(dict.fromkeys(map(_named, names))))
    if not folders:
        raise InputError("name at least one run to report on, for example `dynamics report NAME --out report.html`.")
    infos: dict[str, RunInfo] = {}
    records: dict[str, pd.DataFrame] = {}
    arrays: list[dict[str, Any]] = []
    places: dict[str, Path] = {}
    skipped, empty = [], []
    for folder, name in folders:
        run = next(text for text in (name or folder.name, str(folder)) if text not in infos)
        info = runs.read(folder) if (folder / "run.json").is_file() else RunInfo.from_dict({})
        damaged: list[Path] = []
        rows = record.read(folder, conditions=True, damaged=damaged)
        if rows.empty:
            why = (
                "none of its parts can be read (`dynamics verify` names them)"
                if damaged
                else "nothing has been measured yet"
            )
            empty.append(f"run {run} has no rows in {folder / 'record'}: {why}.")
            continue
        infos[run], places[run] = _called(info, name) if name else info, folder
        records[run] = rows.assign(run=run)
        arrays += [vars(array) | {"run": run} for array in record.read_arrays(folder, ALL_HEADS, damaged)]
        if damaged:
            skipped.append(_without(run, damaged))
    if not records:
        raise InputError(empty[0])
    return study_of(infos, joined(infos, records, places), arrays, (*skipped, *map(capital, empty)))


def _without(run: str, damaged: Sequence[Path]) -> str:
    """Return which parts of a run the page is made without, in a sentence."""
    parts = (
        f"{len(damaged)} part{'s' * (len(damaged) > 1)} cannot be read and {'are' if damaged[1:] else 'is'} left out"
    )
    more = f" and {len(damaged) - 1} more (`dynamics verify {run}` names them)" if damaged[1:] else ""
    return f"Of run {run}, {parts}: {damaged[0].name}{more}."


def _named(name: str | Path) -> tuple[Path, str]:
    """Return the folder of a run and what it is to be called, empty where it keeps its name."""
    called, separator, run = str(name).partition("=")
    if not separator or runs.find(name) is not None:
        return runs.resolve(name).resolve(), ""
    if not called or not run:
        raise InputError(f"{name}: give NAME=RUN, with a name and a run.")
    return runs.resolve(run).resolve(), called


def _called(info: Info, name: str) -> Info:
    """Return what `run.json` says, under another name."""
    if isinstance(info, FitInfo):
        return replace(info, label=name)
    return replace(info, unknown=info.unknown | {"label": name})


def of_rows(rows: pd.DataFrame) -> Study:
    """Return the study of a frame as `record.read` returns it, of which no `run.json` is known."""
    records = {str(run): record.with_conditions(part[record.COLUMNS]) for run, part in rows.groupby("run")}
    return study_of({run: RunInfo.from_dict({}) for run in records}, records, [])


def study_of(
    infos: dict[str, RunInfo],
    records: dict[str, pd.DataFrame],
    arrays: list[dict[str, Any]],
    skipped: tuple[str, ...] = (),
) -> Study:
    """Return the study of runs by their name: what they say of themselves, their rows, and their arrays."""
    facts = _descriptions(infos)
    records = {run: _with_range(rows, facts) for run, rows in records.items()}
    compared = {run: info for run, info in infos.items() if not isinstance(info, ProbeInfo | ConeInfo | AuditInfo)}
    measured = {run: records[run][~records[run]["metric"].isin(AUDIT)] for run in compared}
    owners = arms_of([entry for run, info in compared.items() for entry in entries(run, measured[run], info)], compared)
    labels = pd.DataFrame([*owners], columns=ArmEntry._fields).assign(arm=[arm.name for arm in owners.values()])
    labels = labels.drop(columns=["rest", "key"]).astype({"at": float})
    columns = [*record.COLUMNS, *RANGE]
    rows = pd.concat([measured[run][columns] for run in compared] or [pd.DataFrame(columns=columns)])
    table = pd.DataFrame(arrays, columns=[*record.KEY, "values"])
    arms = tuple({arm.name: arm for arm in owners.values()}.values())
    return Study(_label(rows, labels), _label(table, labels), arms, infos, records, skipped)


def _descriptions(infos: Mapping[str, RunInfo]) -> Descriptions:
    """Return what runs say of metrics, by name."""
    return {name: facts for info in infos.values() for name, facts in info.descriptions.items()}


def _with_range(rows: pd.DataFrame, descriptions: Descriptions) -> pd.DataFrame:
    """Return the rows with the range of each one's metric in the columns `RANGE`; no interval leaves it."""
    ranges = {metric: words(metric, descriptions).range for metric in rows["metric"].unique()}
    ends = (rows["metric"].map({metric: ends[i] for metric, ends in ranges.items()}) for i in (0, 1))
    rows = rows.assign(**{name: end.astype(float) for name, end in zip(RANGE, ends, strict=True)})
    bounds = {name: rows[name].clip(rows[RANGE[0]], rows[RANGE[1]]) for name in ("low", "high")}
    return rows.assign(**bounds)


def _label(table: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that belong to an arm, with its columns."""
    table = table.merge(labels, on=["run", "subject", "condition"])
    return table.assign(at=table["at"].fillna(table["step"]).astype(float))
