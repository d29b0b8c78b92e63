"""Settings, history and cost of the runs, as tables."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dynamics.report.names import DASH, number, words
from dynamics.report.study import HISTORY, Settings, Study, flatten
from dynamics.report.summary import Line

MEASURE = "measure_seconds"


class Table(NamedTuple):
    """Lines under columns of their own."""

    columns: tuple[str, ...]
    lines: list[Line]


def settings(study: Study) -> list[Line]:
    """Every setting of every arm (of its first run), those that differ first."""
    flat = []
    for arm in study.arms:
        told = flatten({key: value for key, value in arm.settings.items() if key not in HISTORY})
        mine = {key: value for key, value in told.items() if not _repeats(key, value, arm.settings)}
        flat.append({"seed": ", ".join(filter(None, arm.seeds)) or arm.settings.get("seed")} | mine)
    lines = []
    for key in dict.fromkeys(key for mine in flat for key in mine):
        cells = tuple(_cell(mine.get(key)) for mine in flat)
        lines.append(Line(key, cells, len(set(cells)) > 1))
    lines = [line for line in lines if set(line.cells) != {DASH}]
    return sorted(lines, key=lambda line: not line.differs)


def history(study: Study) -> Table:
    """Where every run comes from: a column for each run."""
    flat = {run: flatten({key: told[key] for key in HISTORY if key in told}) for run, told in study.runs.items()}
    owner = {run: arm.name for arm in study.arms for run in arm.runs}
    arms = [Line("arm", tuple(owner.get(run, DASH) for run in flat))] if owner else []
    return _by_run(flat, arms)


def probed(runs: dict[str, Settings]) -> Table:
    """Every setting of the probes among the runs: a column for each."""
    probes = {run: told for run, told in runs.items() if told.get("kind") == "probe"}
    aside = (*HISTORY, "kind", "designs")
    return _by_run({run: flatten({k: v for k, v in told.items() if k not in aside}) for run, told in probes.items()})


def cost(study: Study) -> Table:
    """Seconds of every run: training, measuring (with its share of both), and each metric."""
    rows = study.rows[(study.rows["site"] == "cost") & study.rows["value"].notna()]
    runs = [run for run in study.runs if (rows["run"] == run).any()]
    mine = {run: rows[rows["run"] == run] for run in runs}
    training = {run: _training(mine[run]) for run in runs}
    spent = {run: mine[run].groupby("metric")["value"].sum() for run in runs}
    parts = sorted({m for sums in spent.values() for m in sums.index if m.startswith(f"{MEASURE}/")})
    whole = {
        run: sums.get(MEASURE, sums[[m for m in parts if m in sums]].sum() if parts else np.nan)
        for run, sums in spent.items()
    }
    parts.sort(key=lambda m: -max(sums.get(m, 0.0) for sums in spent.values()))
    lines = [
        Line("training, seconds", tuple(number(training[run]) for run in runs)),
        Line("a training step, seconds (median)", tuple(number(_median(mine[run])) for run in runs)),
        Line(
            "measuring, seconds (share of the run)",
            tuple(_share(whole[run], training[run] + whole[run]) for run in runs),
        ),
    ]
    for part in parts:
        name = part.split("/", 1)[1]
        label = "forward passes" if name == "forward" else words(name).title
        lines.append(Line(f"of it: {label}", tuple(_share(spent[run].get(part, np.nan), whole[run]) for run in runs)))
    return Table(tuple(runs), [line for line in lines if any(cell != DASH for cell in line.cells)])


def _by_run(flat: dict[str, Settings], first: Sequence[Line] = ()) -> Table:
    keys = dict.fromkeys(key for mine in flat.values() for key in mine if key != "run")
    lines = [Line(key, tuple(_cell(mine.get(key)) for mine in flat.values())) for key in keys]
    return Table(tuple(flat), [*first, *lines])


def _repeats(key: str, value: object, settings: Settings) -> bool:
    """Whether a dotted key is private, or says once more what the key of its last part says."""
    *above, name = key.split(".")
    return name.startswith("_") or (bool(above) and (name == "seed" or settings.get(name) == value))


def _training(rows: pd.DataFrame) -> float:
    """Seconds in training steps: a row is the mean of a step since the row before it."""
    steps = rows[rows["metric"] == "step_seconds"].sort_values("step")
    if steps.empty:
        return float("nan")
    return float((steps["value"] * steps["step"].diff().fillna(steps["step"])).sum())


def _median(rows: pd.DataFrame) -> float:
    return float(rows.loc[rows["metric"] == "step_seconds", "value"].median())


def _share(part: float, whole: float) -> str:
    return number(part) + (f" ({part / whole:.0%})" if whole > 0 and np.isfinite(part / whole) else "")


def _cell(value: object) -> str:
    text = DASH if value in (None, "") else str(value)
    return f"{text[:12]}…" if len(text) in (40, 64) and text.isalnum() else text
