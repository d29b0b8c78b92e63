"""Settings, cost and provenance of the runs, as tables."""

import numpy as np
import pandas as pd

from dynamics.report.arms import HISTORY, Settings, flatten, settings_of
from dynamics.report.figure import Section, Table, TableRow
from dynamics.report.names import DASH, number
from dynamics.report.study import Study
from dynamics.report.summary import by_arm

MEASURE = "measure_seconds"


def applies(study: Study) -> bool:
    """Whether there is a run."""
    return bool(study.runs)


def section(study: Study) -> Section:
    """Return the tables of all runs."""
    note = "Entries that differ come first and are marked."
    tables = [by_arm(study, settings(study), "Settings", note), cost(study), history(study)]
    blocks = [table for table in tables if table.rows]
    return Section("Settings, cost, provenance", "settings", "Settings, cost, provenance", blocks)


def settings(study: Study) -> list[TableRow]:
    """Return every setting of every arm (of its first run), those that differ first."""
    by_arm: list[Settings] = []
    for arm in study.arms:
        flat = flatten({key: value for key, value in arm.settings.items() if key not in HISTORY})
        flat = {key: value for key, value in flat.items() if not _repeats(key, value, arm.settings)}
        by_arm.append({"seed": ", ".join(filter(None, arm.seeds)) or arm.settings.get("seed")} | flat)
    rows = [row for row in setting_rows(by_arm) if set(row.cells) != {DASH}]
    rows = [row._replace(differs=len(set(row.cells)) > 1) for row in rows]
    return sorted(rows, key=lambda row: not row.differs)


def setting_rows(columns: list[Settings]) -> list[TableRow]:
    """Return a row for each key of flat settings, with a cell for each column."""
    keys = dict.fromkeys(key for settings in columns for key in settings)
    return [TableRow(key, tuple(_cell(settings.get(key)) for settings in columns)) for key in keys]


def _cell(value: object) -> str:
    text = DASH if value in (None, "") else str(value)
    return f"{text[:12]}…" if len(text) in (40, 64) and text.isalnum() else text


def _repeats(key: str, value: object, settings: Settings) -> bool:
    """Whether a dotted key is private, or repeats what the key of its last part says."""
    *above, name = key.split(".")
    return name.startswith("_") or (bool(above) and (name == "seed" or settings.get(name) == value))


def history(study: Study) -> Table:
    """Return where every run comes from: a column for each run."""
    owners = {run: arm.name for arm in study.arms for run in arm.runs}
    arms = [TableRow("arm", tuple(owners.get(run, DASH) for run in study.runs))] if owners else []
    keys = [key for key in HISTORY if key != "run"]
    all_settings = [settings_of(info) for info in study.runs.values()]
    rows = setting_rows([flatten({key: told[key] for key in keys if key in told}) for told in all_settings])
    return Table(tuple(study.runs), [*arms, *rows], "Provenance")


def cost(study: Study) -> Table:
    """Return the seconds of every run: training, measuring (with its share of both), and each metric."""
    rows = study.rows[(study.rows["site"] == "cost") & study.rows["value"].notna()]
    runs = [run for run in study.runs if (rows["run"] == run).any()]
    by_run = {run: rows[rows["run"] == run] for run in runs}
    training = {run: _training(by_run[run]) for run in runs}
    spent = {run: by_run[run].groupby("metric")["value"].sum() for run in runs}
    parts = sorted({m for sums in spent.values() for m in sums.index if m.startswith(f"{MEASURE}/")})
    parts.sort(key=lambda part: -max(sums.get(part, 0.0) for sums in spent.values()))
    whole = {
        run: sums.get(MEASURE, sums[[part for part in parts if part in sums]].sum() if parts else np.nan)
        for run, sums in spent.items()
    }
    measuring = tuple(_share(whole[run], training[run] + whole[run]) for run in runs)
    lines = [
        TableRow("training, seconds", tuple(number(training[run]) for run in runs)),
        TableRow("a training step, seconds (median)", tuple(number(_median(by_run[run])) for run in runs)),
        TableRow("measuring, seconds (share of the run)", measuring),
    ]
    for part in parts:
        name = part.split("/", 1)[1]
        label = "forward passes" if name == "forward" else study.words(name).title
        cells = tuple(_share(spent[run].get(part, np.nan), whole[run]) for run in runs)
        lines.append(TableRow(f"of it: {label}", cells))
    note = "Shares of a quantity are of the time spent measuring; quantities that share an accumulator share its time "
    note += "evenly."
    return Table(tuple(runs), [line for line in lines if any(cell != DASH for cell in line.cells)], "Cost", note)


def _training(rows: pd.DataFrame) -> float:
    """Return the seconds in training steps: a row is the mean of a step since the row before it."""
    steps = rows[rows["metric"] == "step_seconds"].sort_values("step")
    if steps.empty:
        return float("nan")
    return float((steps["value"] * steps["step"].diff().fillna(steps["step"])).sum())


def _median(rows: pd.DataFrame) -> float:
    return float(rows.loc[rows["metric"] == "step_seconds", "value"].median())


def _share(part: float, whole: float) -> str:
    return number(part) + (f" ({part / whole:.0%})" if whole > 0 and np.isfinite(part / whole) else "")
