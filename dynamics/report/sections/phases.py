"""Phases of training: between which steps a quantity rises or falls, where seeds agree on it."""

from collections.abc import Iterator

import pandas as pd

from dynamics import changepoints
from dynamics.changepoints import Phases
from dynamics.report import tables
from dynamics.report.blocks import Section, Table, TableRow
from dynamics.report.names import APART, DASH, number
from dynamics.report.plot.style import looks
from dynamics.report.study import Study

LEVEL = 0.05  # share of all changes below which a phase is called level
NONE = "no change point"
NOTE = (
    "Mean over the layers 1..L. A phase is a stretch of about constant change per doubling of the step; brackets hold "
    "the 95 % interval of the step. Tested over seeds: at most 5 % of the quantities without a change point are given "
    "one. Changes are those of the mean of the seeds."
)


def applies(study: Study) -> bool:
    """Whether an arm has the seeds and steps that a search for change points takes."""
    rows = study.rows[study.rows["along"] == "step"]
    counts = rows[~rows["site"].isin(APART)].groupby("arm")[["seed", "at"]].nunique()
    return bool(((counts["seed"] >= changepoints.SEEDS) & (counts["at"] >= changepoints.fewest(1))).any())


def section(study: Study) -> Section | None:
    """Return a table of the core quantities that have change points, None where none has."""
    found = list(_found(study))
    names = [arm for arm in study.arm_names if any(arm in row for _, row in found)]
    rows = [
        TableRow(title, tuple(words(row[arm]) if arm in row else DASH for arm in names))
        for title, row in found
        if any(phases.points for phases in row.values())
    ]
    if not rows:
        return None
    seeds = sorted({phases.seeds for _, row in found for phases in row.values()})
    counts = f"{seeds[0]} seeds" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    styles = looks(study.arm_names)
    table = Table(tuple(names), rows, "", f"{counts}. {NOTE}", tuple(styles[name] for name in names))
    return Section("Phases of training", "phases", "Phases", [table])


def words(phases: Phases) -> str:
    """Return phases in words: `rises by 3.00 until step 64 [45, 91], then falls by 1.00`."""
    total = sum(map(abs, phases.changes))
    if not phases.points:
        return NONE
    verbs = [
        "stays level"
        if abs(change) < LEVEL * total
        else f"{'rises' if change > 0 else 'falls'} by {number(abs(change))}"
        for change in phases.changes
    ]
    ends = [*(f" until step {point.text}" for point in phases.points), ""]
    return ", then ".join(f"{verb}{end}" for verb, end in zip(verbs, ends, strict=True))


def _found(study: Study) -> Iterator[tuple[str, dict[str, Phases]]]:
    """Yield the title of every core quantity, and its phases by arm."""
    for along, site, metric in tables.core(tables.quantities(study.rows)):
        if along == "step":
            table = tables.over_layers(tables.without_heads(tables.geometry(study.rows, site, metric)))
            phases = {str(arm): _of(rows) for arm, rows in table.groupby("arm")}
            yield study.heading(site, metric), {arm: one for arm, one in phases.items() if one is not None}


def _of(rows: pd.DataFrame) -> Phases | None:
    curves = rows.pivot(index="seed", columns="at", values="value")
    return changepoints.phases(curves.columns.to_list(), curves.to_numpy())
