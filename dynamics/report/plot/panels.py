"""A grid of small panels with all arms in each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics.report import tables
from dynamics.report.names import Words
from dynamics.report.plot import lines
from dynamics.report.plot.canvas import Canvas
from dynamics.report.plot.style import SOFT, Looks, plain
from dynamics.report.plot.values import StepScale, Values


@dataclass(frozen=True)
class Panel:
    """A small panel: over the layers at the last position or, with `along`, over the positions.

    `width` is that of the states, where the quantity is a dimension: what lies above it is none.
    """

    title: str
    words: Words
    table: pd.DataFrame
    along: str = ""
    width: int | None = None

    @property
    def rows(self) -> pd.DataFrame:
        """Return the rows that it shows."""
        return tables.over_layers(self.table) if self.along else tables.final(self.table)


def data(panels: Sequence[Panel]) -> pd.DataFrame:
    """Return the rows of panels, with the title of each quantity."""
    return pd.concat([panel.rows.assign(quantity=panel.words.title) for panel in panels], ignore_index=True)


def grid(panels: Sequence[Panel], looks: Looks, columns: int = 4) -> go.Figure:
    """Return small panels, at most `columns` side by side."""
    canvas = Canvas.grid([panel.title for panel in panels], columns, panel=165, gap=92, between=0.055)
    drawn = {name for panel in panels for name in panel.table["arm"].unique()}
    looks = {name: look for name, look in looks.items() if name in drawn}
    for axes, panel in zip(canvas.panels, panels, strict=False):
        table, rows = tables.thin(panel.table), tables.thin(panel.rows)
        scale = StepScale.of(table["at"])
        here = {name: look for name, look in looks.items() if (table["arm"] == name).any()}
        for i, (name, look) in enumerate(here.items()):
            if panel.along:
                # The first are broad: lines on one another stay visible.
                lines.means(axes, scale, rows, name, look, width=1.8 + min(len(here) - 1 - i, 4) * 0.7)
            else:
                lines.last_profile(axes, table, name, look, shift_of(i, len(here)) / 2)
        values = Values.of(panel.words, rows.loc[~tables.aside(rows), "value"])
        axes.y(**values.axis(), title={"text": "log axis" if values.log else ""})
        depth = {"title": {"text": "layer"}, "tickvals": layer_ticks(table["layer"].unique())}
        axes.x(**(scale.axis(plain(panel.along)) if panel.along else depth))
        if panel.width is not None and values.high > panel.width:
            ends = rows["at"] if panel.along else rows["layer"]
            x = scale.place([ends.min(), ends.max()]) if panel.along else [ends.min(), ends.max()]
            lines.line(axes, x, [panel.width] * 2, "width of the states", line={"color": SOFT, "width": 1.2})
            left = np.log10(x[0]) if panel.along and scale.log else x[0]
            axes.note(left, np.log10(panel.width) if values.log else panel.width, "width: above it, no dimension")
    return canvas.figure(looks)


def shift_of(i: int, count: int) -> float:
    """Return how far one of several arms is set aside, in layers, so that equal values are all seen.

    >>> [round(shift_of(i, 3), 2) for i in range(3)], shift_of(0, 1)
    ([-0.16, 0.0, 0.16], 0.0)
    """
    return min(0.16, 0.5 / count) * (i - (count - 1) / 2)


def layer_ticks(layers: Sequence[int]) -> list[int]:
    """Return at most nine layers.

    >>> layer_ticks(range(13))
    [0, 2, 4, 6, 8, 10, 12]
    """
    return [int(layer) for layer in sorted(layers)[:: -(-len(layers) // 9)]]
