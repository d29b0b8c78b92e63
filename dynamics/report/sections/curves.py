"""Learning curves: loss and quality of the models as they train."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics.report import summary, tables
from dynamics.report.blocks import Figure, Section
from dynamics.report.names import BITS, CURVES, Words, capital, number
from dynamics.report.plot import lines
from dynamics.report.plot.canvas import Canvas
from dynamics.report.plot.style import Looks, looks, panel_title, plain
from dynamics.report.plot.values import StepScale
from dynamics.report.study import Study


def applies(study: Study) -> bool:
    """Whether anything was trained."""
    return bool(study.rows["site"].isin(CURVES).any())


def section(study: Study) -> Section:
    """Return a figure for each metric; the first is open."""
    first, *rest = [figure(study, metric) for metric in tables.curve_metrics(study.rows)]
    blocks = [first, *(each.folded() for each in rest)]
    return Section("Learning curves", "curves", "Learning curves", blocks)


def figure(study: Study, metric: str) -> Figure:
    """Return the learning curve of a metric."""
    table, words = tables.curves(study.rows, metric), study.words(metric)
    arms = [arm for arm in study.arms if arm.name in set(table["arm"])]
    panels: dict[str, list[str]] = {}
    for arm in arms:
        panels.setdefault(summary.objective(arm), []).append(arm.name)
    is_training, is_validation = ((table["site"] == site) for site in CURVES)
    training = "; broad faint lines: training, averaged within log-spaced bins." if is_training.any() else ""
    gzip = _gzip(study) if metric == BITS else np.nan
    several = "Each objective has a panel and an axis of its own: values on masked characters do not compare with "
    several += "values on every character, nor those of one task with another's."
    caption = (
        "Log axis" + ("; step 0 (before any update) is set apart at its left end" if (table["at"] == 0).any() else ""),
        f"Marks: validation{training}",
        f"dotted, where it lies in the panel: gzip on the same text, {number(gzip)}" if np.isfinite(gzip) else "",
        several if len(panels) > 1 else "",
        "" if is_validation.any() else "no validation was run",
        summary.intervals(table[is_validation], "bars"),
    )
    drawn = plot(table, words, panels, looks(study.arm_names), gzip)
    reading = summary.last_validation(table, [arm.name for arm in arms])
    return Figure(capital(words.axis), drawn, reading=reading, caption=summary.join(caption), data=table)


def _gzip(study: Study) -> float:
    """Return the bits per character of gzip on the text that all arms share; NaN where there is none."""
    texts = [arm.settings.get("data") for arm in study.arms]
    levels = {data.get("gzip_bits_per_character") for data in texts if isinstance(data, dict)}
    level = levels.pop() if len(levels) == 1 else None
    return float(level) if isinstance(level, int | float) else np.nan


def plot(table: pd.DataFrame, words: Words, panels: dict[str, list[str]], looks: Looks, gzip: float) -> go.Figure:
    """Draw `tables.curves`, a panel for each objective: never two objectives on one axis.

    `panels` are names of arms by the title of their panel; `gzip` is a level to compare with where every character
    counts, or NaN.
    """
    scale = StepScale.of(table["at"])
    canvas = Canvas(1, len(panels), [*map(panel_title, panels)], panel=270, top=74, between=0.07, share_y=False)
    training, validation = (table[table["site"] == site].assign(layer=-1, head=-1, n=0) for site in CURVES)
    for axes, (title, names) in zip(canvas.panels, panels.items(), strict=True):
        for name in names:
            style = {"line": {"color": looks[name].colour, "width": 3}, "opacity": 0.35}
            style["legendgroup"] = looks[name].group
            for seed, rows in training[training["arm"] == name].groupby("seed"):
                lines.along(axes, scale, rows, f"{plain(name)}, training, seed {plain(str(seed))}", **style)
        for name in names:
            # A few validations are no curve: a line between them would say what was not measured.
            lines.means(axes, scale, validation, name, looks[name], size=8, is_joined=False)
        if np.isfinite(gzip) and "masked" not in title:
            lines.dotted(axes, [scale.zero if scale.has_zero else scale.smallest, scale.largest], [gzip] * 2)
        axes.x(**scale.axis("step"))
        unit = words.axis.replace("per character", "per masked character") if "masked" in title else words.axis
        axes.y(title={"text": plain(unit)})
    return canvas.figure({name: look for name, look in looks.items() if name in set(table["arm"])})
