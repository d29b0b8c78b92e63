"""Settings, cost and provenance of the runs, as tables."""

import numpy as np

from dynamics.lineage import fork_of
from dynamics.missing import not_measured as not_in_record
from dynamics.report.arms import HISTORY, Settings, flatten, settings_of
from dynamics.report.blocks import Section, Table, TableRow
from dynamics.report.names import DASH, number
from dynamics.report.study import Study
from dynamics.report.summary import by_arm

SHOWN = 40  # rows at most of what was not measured


def applies(study: Study) -> bool:
    """Whether there is a run."""
    return bool(study.runs)


def section(study: Study) -> Section:
    """Return the tables of all runs."""
    heading = "Settings, cost, provenance"
    shared = [row for row in settings(study) if not row.differs]
    title = "Settings that all share" if len(study.arms) > 1 else "Settings"
    tables = [by_arm(study, shared, title), not_measured(study), cost(study), history(study)]
    return Section(heading, "settings", heading, [table for table in tables if table.rows])


def differences(study: Study) -> Table | None:
    """Return the settings in which the arms differ; None where they agree in all."""
    rows = [row for row in settings(study) if row.differs]
    return by_arm(study, rows, "What differs between the runs") if rows else None


def settings(study: Study) -> list[TableRow]:
    """Return every setting of every arm (of its first run), those that differ first."""
    columns: list[Settings] = []
    for arm in study.arms:
        flat = flatten({key: value for key, value in arm.settings.items() if key not in HISTORY})
        flat = {key: value for key, value in flat.items() if not _repeats(key, value, arm.settings)}
        columns.append({"seed": ", ".join(filter(None, arm.seeds)) or arm.settings.get("seed")} | flat)
    rows = [row._replace(differs=len(set(row.cells)) > 1) for row in setting_rows(columns) if {*row.cells} != {DASH}]
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


def not_measured(study: Study) -> Table:
    """Return what was asked for and has no value, in the runs that have ended, each with its reason."""
    rows: list[TableRow] = []
    for run, info in study.runs.items():
        names = info.descriptions if info.status == "done" else ()
        missing = info.failed | not_in_record(study.records[run], names)
        at = f" in {run}" if len(study.runs) > 1 else ""
        rows += [TableRow(f"{name}{at}", (reason,)) for name, reason in missing.items()]
    more = [TableRow(f"and {len(rows) - SHOWN} more", (DASH,))] if len(rows) > SHOWN else []
    note = "What was asked for and not delivered. With --strict it is a failure."
    return Table(("reason",), [*rows[:SHOWN], *more], "Not measured", note)


def history(study: Study) -> Table:
    """Return where every run comes from: a column for each run."""
    owners = {run: arm.name for arm in study.arms for run in arm.runs}
    arms = [TableRow("arm", tuple(owners.get(run, DASH) for run in study.runs))] if owners else []
    keys, columns = [key for key in HISTORY if key != "run"], [settings_of(info) for info in study.runs.values()]
    rows = setting_rows([flatten({key: column[key] for key in keys if key in column}) for column in columns])
    return Table(tuple(study.runs), [*arms, *rows], "Provenance")


def cost(study: Study) -> Table:
    """Return the seconds of every run: training, measuring (with its share of both), and each metric."""
    rows = study.rows[(study.rows["site"] == "cost") & study.rows["value"].notna()]
    runs = [run for run in study.runs if (rows["run"] == run).any()]
    spent = rows.pivot_table(index="metric", columns="run", values="value", aggfunc="sum").reindex(columns=runs)
    parts = spent[spent.index.str.startswith("measure_seconds/")]
    whole = spent.reindex(["measure_seconds"]).iloc[0].fillna(parts.sum(min_count=1))
    steps = rows[rows["metric"] == "step_seconds"].sort_values(["run", "step"])
    # A row is the mean of a step since the row before it, or since a fork began.
    begins = {run: fork["step"] for run, info in study.runs.items() if (fork := fork_of(info))}
    since = steps["step"] - steps["run"].map(begins).astype(float).fillna(0)  # a float where no run has steps, too
    seconds = steps["value"] * steps.groupby("run")["step"].diff().fillna(since)
    training = seconds.groupby(steps["run"]).sum(min_count=1).reindex(runs)
    median = steps.groupby("run")["value"].median().reindex(runs)
    table = [
        TableRow("training, seconds", tuple(map(number, training))),
        TableRow("a training step, seconds (median)", tuple(map(number, median))),
        TableRow("measuring, seconds (share of the run)", tuple(map(_share, whole, training + whole))),
    ]
    for metric, seconds in parts.loc[parts.max(axis=1).sort_values(ascending=False, kind="stable").index].iterrows():
        name = str(metric).split("/", 1)[1]
        label = "forward passes" if name == "forward" else study.words(name).title
        table.append(TableRow(f"of it: {label}", tuple(map(_share, seconds, whole))))
    note = "Shares of a quantity are of the time spent measuring; quantities that share an accumulator share its time "
    note += "evenly."
    return Table(tuple(runs), [row for row in table if any(cell != DASH for cell in row.cells)], "Cost", note)


def _share(part: float, whole: float) -> str:
    return number(part) + (f" ({part / whole:.0%})" if whole > 0 and np.isfinite(part / whole) else "")
