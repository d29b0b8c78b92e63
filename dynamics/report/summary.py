"""The report in words and numbers: key numbers, what a figure shows, how its numbers were made."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dynamics.report import tables
from dynamics.report.names import CORE, DASH, LAYERS, QUALITY, capital, compact, heading, number, words
from dynamics.report.study import Arm, Study, flatten

COVERED = {"clm": "every character (clm)", "mlm": "masked characters only (mlm)"}


class Line(NamedTuple):
    """One line of a table: a label, a cell for each column, and whether the cells differ."""

    label: str
    cells: tuple[str, ...]
    differs: bool = False


def objective(arm: Arm) -> str:
    """What the learning curves of an arm cover."""
    return COVERED.get(arm.objective, arm.objective or "objective not told")


def join(parts: Iterable[str]) -> str:
    """Parts as sentences, empty ones left out.

    >>> join(["layers 1..L", "", "n = 4096."])
    'Layers 1..L. n = 4096.'
    """
    return " ".join(f"{capital(part) if part[:3] != 'n =' else part}".rstrip(".") + "." for part in parts if part)


def key_numbers(study: Study) -> list[Line]:
    """What to know first: size, seeds, final validation by objective, and where the geometry went."""
    lines = [
        Line("seeds", tuple(str(len(arm.seeds)) if any(arm.seeds) else DASH for arm in study.arms)),
        Line("parameters", tuple(_count(arm.settings.get("parameters")) for arm in study.arms)),
        Line("last step", tuple(_last_step(study, arm) for arm in study.arms)),
    ]
    for metric in (name for name in tables.curve_metrics(study.rows) if name in QUALITY):
        curves = tables.curves(study.rows, metric)
        means = tables.final(tables.curve_means(curves[curves["site"] == "validation"]))
        for covered in dict.fromkeys(objective(arm) for arm in study.arms):
            cells = tuple(_value(means, arm.name) if objective(arm) == covered else DASH for arm in study.arms)
            lines.append(Line(f"validation {words(metric).unit or words(metric).title}, {covered}", cells))
    for along, site, metric in tables.quantities(study.rows):
        if (site, metric) in CORE:
            lines += _quantity(study, site, metric, along)
    return [line for line in lines if any(cell != DASH for cell in line.cells)]


def _quantity(study: Study, site: str, metric: str, along: str) -> list[Line]:
    table = tables.without_heads(tables.geometry(study.rows, site, metric, along))
    means = tables.over_seeds(tables.over_layers(table))
    names, title = [arm.name for arm in study.arms], heading(site, metric)
    lines = [Line(title, tuple(_change(means, name) for name in names))]
    if (site, metric) == CORE[0]:
        peaks = tables.highest(tables.final(tables.over_seeds(table)))
        lines.append(Line(f"{title}, highest layer at the end", tuple(_peak(peaks, name) for name in names)))
    if metric == "intrinsic_dimension":
        moved = means.groupby("arm")["at"].transform("nunique") > 1
        top = means[moved].dropna(subset="value")
        top = top.loc[top.groupby("arm")["value"].idxmax()]
        cells = tuple(_value(top, name, interval=False, at=f" at {along}") for name in names)
        lines.append(Line(f"{title}, highest on the way", cells))
    return lines


def _change(means: pd.DataFrame, arm: str) -> str:
    start, end = _value(tables.first(means), arm, interval=False), _value(tables.final(means), arm)
    if means.loc[means["arm"] == arm, "at"].nunique() < 2:
        return end  # one look is no change
    return DASH if (start, end) == (DASH, DASH) else f"{start} → {end}"


def _value(table: pd.DataFrame, arm: str, interval: bool = True, at: str = "") -> str:
    rows = table[table["arm"] == arm]
    if len(rows) != 1 or not np.isfinite(rows["value"].iloc[0]):
        return DASH
    row = rows.iloc[0]
    text = number(row["value"])
    if interval and np.isfinite(row["low"]) and np.isfinite(row["high"]):
        text += f" [{number(row['low'])}, {number(row['high'])}]"
    return text + (f"{at} {compact(row['at'])}" if at else "")


def _peak(peaks: pd.DataFrame, arm: str) -> str:
    rows = peaks[peaks["arm"] == arm]
    return f"layer {rows['layer'].iloc[0]}: {_value(peaks, arm)}" if len(rows) else DASH


def _count(value: object) -> str:
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else DASH


def _last_step(study: Study, arm: Arm) -> str:
    steps = study.rows[study.rows["arm"] == arm.name].groupby("run")["step"].max()
    if steps.max() == 0:
        return DASH  # what was never trained, or bears no step
    return f"{steps.min()}" if steps.nunique() == 1 else f"{steps.min()} to {steps.max()}"


def last_validation(table: pd.DataFrame, names: Sequence[str]) -> str:
    """The end of the learning curves, in a sentence.

    Args:
        table: `tables.curves`.
        names: of the arms.
    """
    means = tables.final(tables.curve_means(table[table["site"] == "validation"]))
    told = [f"{name}: {_value(means, name)}" for name in names if _value(means, name) != DASH]
    return f"Last validation. {'; '.join(told)}." if told else ""


def reading(table: pd.DataFrame, names: Sequence[str], along: str) -> str:
    """What a figure of geometry shows, in numbers, for the eye and for screen readers.

    Args:
        table: `tables.geometry` without heads.
        names: of the arms.
        along: what the positions are.
    """
    means = tables.over_seeds(table)
    summary, peaks = tables.over_seeds(tables.over_layers(table)), tables.highest(tables.final(means))
    told = []
    for name in names:
        change, peak = _change(summary, name), peaks[peaks["arm"] == name]
        if change == DASH and peak.empty:
            continue
        told.append(f"{name}: {change}" + (f", highest at layer {peak['layer'].iloc[0]}" if len(peak) else ""))
    return f"Mean over layers, from the first to the last {along}. {'; '.join(told)}." if told else ""


def points(table: pd.DataFrame) -> str:
    """The n of a figure: `n = 4096`, or a range."""
    found = table.loc[table["n"] > 0, "n"]
    if found.empty:
        return "n not told"
    low, high = found.min(), found.max()
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def gaps(table: pd.DataFrame) -> str:
    """A note on values that are missing; empty where none is."""
    missing = int((~np.isfinite(table["value"])).sum())
    return f"{missing} of {len(table)} values are undefined or not measured: left as gaps" if missing else ""


def intervals(table: pd.DataFrame, shape: str) -> str:
    """What the intervals of a figure are; `shape` says how they are drawn."""
    seeds = table.groupby("arm")["seed"].nunique()
    several = bool((seeds > 1).any())
    single = bool(np.isfinite(table.loc[table["arm"].map(seeds) == 1, "low"]).any())
    over_seeds = f"mean over seeds, {shape} = 95 % t interval over seeds, thin lines = seeds"
    sampling = f"{shape} = 95 % interval of sampling error"
    return join([over_seeds if several else "", ("One seed: " if several else "") + sampling if single else ""])


def caption(study: Study, table: pd.DataFrame, site: str, metric: str) -> str:
    """How the numbers of a figure were made: estimator, settings, n, layers, intervals, gaps."""
    settings = {}
    for arm in study.arms:
        told = arm.settings.get("metrics")
        for mine in (told, told.get(site)) if isinstance(told, dict) else ():
            if isinstance(mine, dict) and isinstance(mine.get(metric), dict):
                settings |= flatten(mine[metric])
    estimator = words(metric).estimator or metric
    if settings:
        estimator += f" ({', '.join(f'{key} = {value}' for key, value in settings.items())})"
    by_head = bool((table["head"] >= 0).all())
    several = bool((table.groupby("arm")["seed"].nunique() > 1).any())
    heads = "mean over seeds" if by_head and several else ""
    if not by_head and site in ("query", "key", "attention"):
        heads = "values of a layer are means over its heads"
        heads += ", where opposite signs cancel" if words(metric).signed else ""
    drawn, measured = tables.thin(table)["at"].nunique(), table["at"].nunique()
    return join(
        [
            f"Estimator: {estimator}",
            points(table),
            LAYERS.get(site, ""),
            heads,
            "" if by_head else intervals(table, "bars and bands"),
            "" if by_head else "highest layer: filled where it has an interval and this excludes the runner-up",
            f"{drawn} of {measured} measured positions are drawn" if drawn < measured else "",
            gaps(table),
        ]
    )


def notes(study: Study) -> list[str]:
    """What a reader must know before comparing: runs that did not finish, arms measured on different text."""
    told = []
    for run, settings in study.runs.items():
        if settings.get("status") not in (None, "done"):
            told.append(f"Run {run} is marked {settings['status']}: its curves end where it stood.")
        if not settings:
            told.append(f"Run {run} has no run.json: its settings and provenance are unknown.")
    flat = [flatten(settings) for settings in study.runs.values()]
    for key, what in (("probe.sha256", "probe tokens"), ("data.sha256", "training text")):
        if len({mine.get(key) for mine in flat} - {None}) > 1:
            told.append(f"The runs do not share their {what} ({key} differs): compare them with care.")
    for arm in study.arms:
        steps = study.rows[study.rows["arm"] == arm.name].groupby("run")["step"].max()
        if steps.nunique() > 1:
            told.append(
                f"The runs of {arm.name} end at different steps ({steps.min()} to {steps.max()}): "
                "means over seeds stop at the earliest; leave a short run out to see the others further."
            )
    for _, site, metric in tables.quantities(study.rows):
        mine = study.rows[(study.rows["site"] == site) & (study.rows["metric"] == metric)]
        if not np.isfinite(mine["value"]).any():
            told.append(f"{heading(site, metric)} is undefined wherever it was measured: it has no figure.")
    return told
