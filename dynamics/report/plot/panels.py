"""A grid of small panels with all arms in each."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from dynamics.report import tables
from dynamics.report.names import Words
from dynamics.report.plot import lines
from dynamics.report.plot.canvas import Canvas
from dynamics.report.plot.style import Looks, plain
from dynamics.report.plot.values import StepScale, Values


@dataclass(frozen=True)
class Panel:
    """A small panel: over the layers at the last position or, with `along`, over the positions."""

    title: str
    words: Words
    table: pd.DataFrame
    along: str = ""


def grid(panels: Sequence[Panel], looks: Looks) -> go.Figure:
    """Return small panels, at most four side by side."""
    canvas = Canvas.grid([panel.title for panel in panels], panel=165, gap=92, between=0.055)
    for axes, panel in zip(canvas.panels, panels, strict=False):
        table = tables.thin(panel.table)
        scale = StepScale.of(table["at"])
        drawn = tables.over_layers(table) if panel.along else tables.final(table)
        for name, look in looks.items():
            if panel.along:
                lines.means(axes, scale, drawn, name, look)
            else:
                lines.last_profile(axes, table, name, look)
        values = Values.of(panel.words, drawn["value"])
        axes.y(**values.axis(), title={"text": "log axis" if values.log else ""})
        depth = {"title": {"text": "layer"}, "tickvals": layer_ticks(table["layer"].unique())}
        axes.x(**(scale.axis(plain(panel.along)) if panel.along else depth))
    return canvas.figure(looks)


def layer_ticks(layers: Sequence[int]) -> list[int]:
    """Return at most nine layers.

    >>> layer_ticks(range(13))
    [0, 2, 4, 6, 8, 10, 12]
    """
    return [int(layer) for layer in sorted(layers)[:: -(-len(layers) // 9)]]
