"""Every core quantity in two figures: over depth at the end, and through training."""

import numpy as np
import pandas as pd

from dynamics.report import summary, tables
from dynamics.report.figure import Figure, Section
from dynamics.report.names import site
from dynamics.report.plot.panels import Panel, grid
from dynamics.report.plot.style import looks, panel_title
from dynamics.report.sections import geometry
from dynamics.report.study import Study

applies = geometry.applies  # whether any geometry was measured


def section(study: Study) -> Section | None:
    """Return the two figures, as far as there are layers and steps."""
    profiles, steps = [], []
    for along, place, metric in tables.core(tables.quantities(study.rows)):
        table, words = tables.without_heads(tables.geometry(study.rows, place, metric, along)), study.words(metric)
        title = panel_title(words.title, site(place))
        if np.isfinite(table["value"]).any():
            profiles += [Panel(title, words, table)] * (table["layer"].nunique() > 1)
            steps += [Panel(title, words, table, along)] * (table["at"].nunique() > 1)
    styles, figures = looks(study.arm_names), []
    if profiles:
        meaning = "The last measured profile over the layers."
        caption = summary.intervals(pd.concat(panel.table for panel in profiles), "bars")
        figures.append(Figure("Over depth, at the end", grid(profiles, styles), meaning, caption=caption))
    if steps:
        caption = "Mean over the layers 1..L; log axis, step 0 (before any update) set apart at its left end."
        figures.append(Figure("Through training", grid(steps, styles), caption=caption))
    return Section("At a glance", "glance", "At a glance", figures) if figures else None
