"""Every core quantity in two figures: through training, and over depth at the end."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dynamics.report import summary, tables
from dynamics.report.blocks import Figure, Section
from dynamics.report.plot.panels import Panel, grid
from dynamics.report.plot.panels import data as panels_data
from dynamics.report.plot.style import looks, panel_title
from dynamics.report.sections import geometry, scan
from dynamics.report.study import Study
from dynamics.run_info import ScanInfo

applies = geometry.applies  # whether any geometry was measured


def section(study: Study) -> Section | None:
    """Return the two figures, as far as there are layers and steps; of scans, what their own section does not show."""
    profiles, steps = [], []
    quantities = tables.quantities(study.rows)
    shown = elsewhere(study, quantities)
    for quantity in tables.core(quantities):
        along, place, metric = quantity
        panel = panel_of(study, place, metric, along)
        if np.isfinite(panel.table["value"]).any() and quantity not in shown:
            profiles += [panel] * (panel.table["layer"].nunique() > 1)
            steps += [replace(panel, along=along)] * (panel.table["at"].nunique() > 1)
    figures = [through_training(study, steps)] if steps else []
    figures += [over_depth(study, profiles)] if profiles else []
    return Section("At a glance", "glance", "At a glance", figures) if figures else None


def elsewhere(study: Study, quantities: Sequence[tables.Quantity]) -> list[tables.Quantity]:
    """Return the quantities that a page of scans alone shows in the section of the models."""
    if len(study.of_kind(ScanInfo)) < len(study.runs):
        return []
    return [quantity for quantity in quantities if quantity[1] == "residual" and quantity[2] in scan.PROFILES]


def panel_of(study: Study, place: str, metric: str, along: str = "step") -> Panel:
    """Return a quantity over the layers, under its title and its site."""
    table, words = tables.without_heads(tables.geometry(study.rows, place, metric, along)), study.words(metric)
    return Panel(panel_title(words.title, study.site(place)), words, table, width=summary.width(study, metric))


def through_training(study: Study, panels: list[Panel], columns: int = 4) -> Figure:
    """Return the means over layers along the positions."""
    at_0 = any((panel.table["at"] == 0).any() for panel in panels)
    caption = ["mean over the layers 1..L", "log axis; step 0 (before any update) is set apart at its left end" * at_0]
    data = panels_data(panels)
    caption.append(summary.intervals(data, "bands"))
    plot = grid(panels, looks(study.arm_names), columns)
    return Figure("Through training", plot, "", "", summary.join(caption), min(columns, len(panels)), data=data)


def over_depth(study: Study, panels: list[Panel], columns: int = 4) -> Figure:
    """Return the last profiles over the layers."""
    data, meaning = panels_data(panels), "The last measured profile over the layers."
    layer_0 = summary.LAYER_0 if any(tables.aside(panel.table).any() for panel in panels) else ""
    caption = summary.join([summary.intervals(data, "bars"), layer_0])
    plot = grid(panels, looks(study.arm_names), columns)
    return Figure("Over depth, at the end", plot, meaning, "", caption, min(columns, len(panels)), data=data)
