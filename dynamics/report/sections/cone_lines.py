"""Lines over the layers of a model, as the figures of the cone draw them."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dynamics.report.plot.canvas import Canvas, Cell
from dynamics.report.plot.style import Look, plain

DEPTHS = (
    "Layer 0 = embeddings, 1..L = residual stream after each block; 'out' = what the model hands out, where that is "
    "more: after a final norm and, for sentences, its dense layers."
)


class Line(NamedTuple):
    """One line of a panel over depth."""

    name: str
    rows: pd.DataFrame
    look: Look
    width: float
    banded: bool


def draw_line(canvas: Canvas, cell: Cell, line: Line) -> None:
    """A line with its band and its marks."""
    rows, name = line.rows, plain(line.name)
    known = rows[np.isfinite(rows["low"]) & np.isfinite(rows["high"])]
    if line.banded and len(known) > 1:
        x = [*known["depth"], *known["depth"][::-1]]
        y = [*known["high"], *known["low"][::-1]]
        fill = {"fill": "toself", "fillcolor": line.look.faint, "line": {"width": 0}, "hoverinfo": "skip"}
        canvas.add(cell, type="scatter", mode="lines", x=x, y=y, **fill)
    canvas.add(
        cell,
        type="scatter",
        mode="lines+markers",
        x=rows["depth"].to_numpy(),
        y=rows["value"].to_numpy(),
        line=line.look.line(line.width),
        marker=line.look.marker(3.5 + line.width),
        hovertemplate=f"{name}, %{{x}}: %{{y:.4g}}<extra></extra>",
    )


def layer_axis(canvas: Canvas, cell: Cell, rows: pd.DataFrame) -> None:
    """Whole layers as ticks, and `out` for what follows the last."""
    if len(rows):
        canvas.x(cell, **ticks(rows), range=[-0.3, float(rows["depth"].max()) + 0.3])


def ticks(rows: pd.DataFrame) -> dict[str, list[Any]]:
    """At most nine ticks for whole layers, and one for the output."""
    last, end = int(rows["layer"].max()), int(rows["depth"].max())
    every = -(-(last + 1) // 9)
    at = [layer for layer in range(0, last + 1, every) if end == last or layer <= end - every]
    out = [end] if end > last else []
    return {"tickvals": at + out, "ticktext": [*map(str, at), *("out" for _ in out)]}


def draw_legend(canvas: Canvas, look: dict[str, Look]) -> None:
    """One entry for every look."""
    for name, how in look.items():
        shown = {"line": how.line(2), "marker": how.marker(7), "name": plain(name)}
        canvas.add((0, 0), type="scatter", mode="lines+markers", x=[None], y=[None], **shown, showlegend=True)
    canvas.set(showlegend=True)
