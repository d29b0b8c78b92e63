"""What is not in the core: other quantities, those of one layer or position, and histograms."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dynamics.report import summary, tables
from dynamics.report.blocks import Figure, Section
from dynamics.report.names import capital
from dynamics.report.plot import histograms
from dynamics.report.plot.panels import Panel, grid
from dynamics.report.plot.panels import data as panels_data
from dynamics.report.plot.style import looks, panel_title
from dynamics.report.sections import geometry, glance
from dynamics.report.study import Study


def applies(study: Study) -> bool:
    """Whether any geometry was measured."""
    return bool(tables.quantities(study.rows) or len(study.arrays))


def section(study: Study) -> Section | None:
    """Return the figures that wait for a click."""
    quantities = tables.quantities(study.rows)
    wide, core = [each for each in quantities if geometry.has_columns(study, each)], tables.core(quantities)
    figures = [geometry.figure(study, quantity) for quantity in wide if quantity not in core]
    shown = [*wide, *glance.elsewhere(study, quantities)]
    figures += _small(study, [quantity for quantity in quantities if quantity not in shown]) + _histograms(study)
    blocks = [figure.folded() for figure in figures]
    return Section("More quantities", "more", "More quantities", blocks) if blocks else None


def _small(study: Study, quantities: Sequence[tables.Quantity]) -> list[Figure]:
    """Return a figure for each site, with the quantities of one layer or position, or of too many arms for columns."""
    panels: dict[str, list[Panel]] = defaultdict(list)
    notes: dict[str, dict[str, str]] = defaultdict(dict)
    for along, place, metric in quantities:
        panel = replace(glance.panel_of(study, place, metric, along), title=panel_title(study.words(metric).title))
        table, has_steps = panel.table, panel.table["at"].nunique() > 1
        if np.isfinite(table["value"]).any():
            panels[place] += [replace(panel, along=along)] * has_steps
            panels[place] += [panel] * (table["layer"].nunique() > 1 or not has_steps)
            notes[place][metric] = f"{panel.words.title}: {panel.words.estimator or metric}, {summary.points(table)}"
    figures = []
    for place, drawn in panels.items():
        data = panels_data(drawn)
        caption = [*notes[place].values(), study.layers(place), summary.intervals(data, "bars and bands")]
        plot = grid(drawn, looks(study.arm_names))
        figures.append(Figure(capital(study.site(place)), plot, caption=summary.join(caption), data=data))
    return figures


def _histograms(study: Study) -> list[Figure]:
    figures = []
    for along, place, name in histograms.names(study.arrays):
        table, edges = histograms.shares(study.arrays, place, name, along)
        arms = {arm: look for arm, look in looks(study.arm_names).items() if arm in set(table["arm"])}
        caption = "All heads of a layer together, seeds pooled. Colour: share of the values that fall into a bin, on a "
        caption += "square root scale; blank: none. Bins are drawn equally high; the outermost hold what lies beyond."
        title = f"Histogram of {name.replace('_', ' ')} ({study.site(place)})"
        shares, starts = table.explode("shares"), [-np.inf, *edges]
        shares = shares.assign(bin_from=np.tile(starts, len(table)))
        shares = shares[shares["shares"] > 0]
        figures.append(Figure(title, histograms.plot(table, edges, name, arms, along), caption=caption, data=shares))
    return figures
