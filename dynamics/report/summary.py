"""The report in words and numbers: key numbers, what a figure shows, how its numbers were computed."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from dynamics.report import tables
from dynamics.report.arms import Arm, Settings, flatten
from dynamics.report.figure import Table, TableRow
from dynamics.report.names import CORE, DASH, LAYERS, QUALITY, capital, compact, estimate
from dynamics.report.plot.style import looks
from dynamics.report.study import Study

COVERED = {"clm": "every character (clm)", "mlm": "masked characters only (mlm)"}


def objective(arm: Arm) -> str:
    """Return what the learning curves of an arm cover."""
    return COVERED.get(arm.objective, arm.objective or "objective unknown")


def join(parts: Iterable[str]) -> str:
    """Return parts as sentences, empty ones left out.

    >>> join(["layers 1..L", "", "n = 4096."])
    'Layers 1..L. n = 4096.'
    """
    return " ".join(f"{capital(part) if part[:3] != 'n =' else part}".rstrip(".") + "." for part in parts if part)


def by_arm(study: Study, rows: list[TableRow], title: str = "", note: str = "", style: str = "settings") -> Table:
    """Return a table with a column for each arm."""
    return Table(tuple(study.arm_names), rows, title, note, tuple(looks(study.arm_names).values()), style)


def key_numbers(study: Study) -> list[TableRow]:
    """Return what to know first: size, seeds, final validation by objective, and where the geometry went."""
    arms = study.arms
    rows = [
        TableRow("seeds", tuple(str(len(arm.seeds)) if any(arm.seeds) else DASH for arm in arms)),
        TableRow("parameters", tuple(_count(arm.settings.get("parameters")) for arm in arms)),
        TableRow("last step", tuple(_last_step(study, arm) for arm in arms)),
    ]
    for metric in (name for name in tables.curve_metrics(study.rows) if name in QUALITY):
        curves, words = tables.curves(study.rows, metric), study.words(metric)
        means = tables.final(tables.curve_means(curves[curves["site"] == "validation"]))
        for covered in dict.fromkeys(objective(arm) for arm in arms):
            cells = tuple(_value(means, arm.name) if objective(arm) == covered else DASH for arm in arms)
            rows.append(TableRow(f"validation {words.unit or words.title}, {covered}", cells))
    for quantity in tables.quantities(study.rows):
        if quantity[1:] in CORE:
            rows += _quantity(study, quantity)
    return [row for row in rows if any(cell != DASH for cell in row.cells)]


def _quantity(study: Study, quantity: tables.Quantity) -> list[TableRow]:
    along, site, metric = quantity
    table = tables.without_heads(tables.geometry(study.rows, site, metric, along))
    means = tables.over_seeds(tables.over_layers(table))
    names, title = study.arm_names, study.heading(site, metric)
    rows = [TableRow(title, tuple(_change(means, name) for name in names))]
    if (site, metric) == CORE[0]:
        peaks = tables.highest(tables.final(tables.over_seeds(table)))
        rows.append(TableRow(f"{title}, highest layer at the end", tuple(_peak(peaks, name) for name in names)))
    if metric == "intrinsic_dimension":
        moved = means.groupby("arm")["at"].transform("nunique") > 1
        top = means[moved].dropna(subset="value")
        top = top.loc[top.groupby("arm")["value"].idxmax()].assign(low=np.nan)
        cells = tuple(_value(top, name, f" at {along}") for name in names)
        rows.append(TableRow(f"{title}, highest value", cells))
    return rows


def _change(means: pd.DataFrame, arm: str) -> str:
    start, end = _value(tables.first(means).assign(low=np.nan), arm), _value(tables.final(means), arm)
    if means.loc[means["arm"] == arm, "at"].nunique() < 2:
        return end  # a single measurement is no change
    return DASH if (start, end) == (DASH, DASH) else f"{start} → {end}"


def _value(table: pd.DataFrame, arm: str, at: str = "") -> str:
    """Return the value of an arm with its interval, and with `at` its position; a dash unless there is one row."""
    rows = table[table["arm"] == arm]
    text = estimate(rows.iloc[0]) if len(rows) == 1 else DASH
    return f"{text}{at} {compact(rows['at'].iloc[0])}" if at and text != DASH else text


def _peak(peaks: pd.DataFrame, arm: str) -> str:
    rows = peaks[peaks["arm"] == arm]
    return f"layer {rows['layer'].iloc[0]}: {_value(peaks, arm)}" if len(rows) else DASH


def _count(value: object) -> str:
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else DASH


def _last_step(study: Study, arm: Arm) -> str:
    steps = study.rows[study.rows["arm"] == arm.name].groupby("run")["step"].max()
    if steps.max() == 0:
        return DASH  # never trained, or without a step
    return f"{steps.min()}" if steps.nunique() == 1 else f"{steps.min()} to {steps.max()}"


def last_validation(table: pd.DataFrame, names: Sequence[str]) -> str:
    """Return the end of the learning curves, in a sentence.

    Args:
        table: `tables.curves`.
        names: of the arms.
    """
    means = tables.final(tables.curve_means(table[table["site"] == "validation"]))
    parts = [f"{name}: {_value(means, name)}" for name in names if _value(means, name) != DASH]
    return f"Last validation. {'; '.join(parts)}." if parts else ""


def reading(table: pd.DataFrame, names: Sequence[str], along: str) -> str:
    """Return what a figure of geometry shows, in numbers, for the eye and for screen readers.

    Args:
        table: `tables.geometry` without heads.
        names: of the arms.
        along: what the positions are.
    """
    means, peaks = tables.over_seeds(tables.over_layers(table)), tables.highest(tables.final(tables.over_seeds(table)))
    parts = []
    for name in names:
        change, peak = _change(means, name), peaks[peaks["arm"] == name]
        if change != DASH or len(peak):
            parts.append(f"{name}: {change}" + (f", highest at layer {peak['layer'].iloc[0]}" if len(peak) else ""))
    return f"Mean over layers, from the first to the last {along}. {'; '.join(parts)}." if parts else ""


def points(table: pd.DataFrame) -> str:
    """Return the n of a figure: `n = 4096`, or a range."""
    counts = table.loc[table["n"] > 0, "n"]
    if counts.empty:
        return "n unknown"
    low, high = counts.min(), counts.max()
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def gaps(table: pd.DataFrame) -> str:
    """Return a note on values that are missing; empty where none is."""
    missing = int((~np.isfinite(table["value"])).sum())
    return f"{missing} of {len(table)} values are undefined or not measured: left as gaps" if missing else ""


def intervals(table: pd.DataFrame, shape: str) -> str:
    """Return what the intervals of a figure are; `shape` says how they are drawn."""
    seeds = table.groupby("arm")["seed"].nunique()
    several = bool((seeds > 1).any())
    single = bool(np.isfinite(table.loc[table["arm"].map(seeds) == 1, "low"]).any())
    over_seeds = f"mean over seeds, {shape} = 95 % t interval over seeds, thin lines = seeds"
    sampling = f"{shape} = 95 % interval of sampling error"
    return join([over_seeds if several else "", ("One seed: " if several else "") + sampling if single else ""])


def caption(study: Study, table: pd.DataFrame, site: str, metric: str) -> str:
    """Return how the numbers of a figure were computed: estimator, settings, n, layers, intervals, gaps."""
    words, by_head = study.words(metric), bool((table["head"] >= 0).all())
    several = bool((table.groupby("arm")["seed"].nunique() > 1).any())
    heads = "mean over seeds" if by_head and several else ""
    if not by_head and site in ("query", "key", "attention"):
        heads = "values of a layer are means over its heads"
        heads += ", where opposite signs cancel" if words.signed else ""
    drawn, measured = tables.thin(table)["at"].nunique(), table["at"].nunique()
    return join(
        [
            f"Estimator: {words.estimator or metric}{_options(study, site, metric)}",
            points(table),
            LAYERS.get(site, ""),
            heads,
            "" if by_head else intervals(table, "bars and bands"),
            "" if by_head else "highest layer: filled where it has an interval and this excludes the runner-up",
            f"{drawn} of {measured} measured positions are drawn" if drawn < measured else "",
            gaps(table),
        ]
    )


def _options(study: Study, site: str, metric: str) -> str:
    """Return the options that a metric was measured with, in brackets."""
    options: Settings = {}
    for arm in study.arms:
        suite = arm.settings.get("metrics")
        for metrics in (suite, suite.get(site)) if isinstance(suite, dict) else ():
            if isinstance(metrics, dict) and isinstance(metrics.get(metric), dict):
                options |= flatten(metrics[metric])
    return f" ({', '.join(f'{key} = {value}' for key, value in options.items())})" if options else ""


def notes(study: Study) -> list[str]:
    """Return what a reader must know before comparing, for example runs that did not finish."""
    texts = []
    for run, info in study.runs.items():
        if info.status not in ("", "done"):
            texts.append(f"Run {run} is marked {info.status}: its curves may be incomplete.")
        if not info.to_dict():
            texts.append(f"Run {run} has no run.json: its settings and provenance are unknown.")
    flat = [flatten(info.to_dict()) for info in study.runs.values()]
    for key, what in (("probe.sha256", "evaluation tokens"), ("data.sha256", "training text")):
        if len({settings.get(key) for settings in flat} - {None}) > 1:
            texts.append(f"The runs do not share their {what} ({key} differs): compare them with care.")
    for arm in study.arms:
        steps = study.rows[study.rows["arm"] == arm.name].groupby("run")["step"].max()
        if steps.nunique() > 1:
            texts.append(
                f"The runs of {arm.name} end at different steps ({steps.min()} to {steps.max()}): "
                "means over seeds stop at the earliest; leave a short run out to see the others further."
            )
    for _, site, metric in tables.quantities(study.rows):
        rows = study.rows[(study.rows["site"] == site) & (study.rows["metric"] == metric)]
        if not np.isfinite(rows["value"]).any():
            texts.append(f"{study.heading(site, metric)} is undefined wherever it was measured: it has no figure.")
    return texts
