"""A grid of panels as a plotly figure: measured in pixels from top to bottom, in shares of the width across."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics.report.plot.style import INK, SOFT, TEMPLATE, Looks, plain

ASIDE = "aside"  # `meta` of a trace that does not set the axes: a level to compare with, the embeddings


class Canvas:
    """Collects traces and axes as plain dictionaries; `figure()` has plotly check them once, at the end.

    Plotly's own `make_subplots` with an update for each axis takes ten times as long for these figures.

    The `titles` stand above the panels, row by row. In pixels: the height of a `panel`, the `gap` between two rows,
    and the margins `top` (a legend stands at its upper edge) and `right`. `between`: space between two columns as a
    share of the width. `share_y`: one value axis for each row.
    """

    def __init__(
        self, rows: int, cols: int, titles: Sequence[str] = (), *, panel: int, gap: int = 62, top: int = 56,
        right: int = 16, between: float = 0.025, share_y: bool = True,
    ) -> None:  # fmt: skip
        self.rows, self.cols = rows, cols
        self._plot, self._panel, self._gap = rows * panel + (rows - 1) * gap, panel, gap
        self._width, self._between = (1 - (cols - 1) * between) / cols, between
        self.data: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {
            **{"template": TEMPLATE, "height": self._plot + top + 46},
            **{"margin": {"l": 66, "r": right, "t": top, "b": 46}, "showlegend": False},
            **{"legend": {"y": 1 + max(28, top - 52) / self._plot}, "annotations": []},
        }
        self.panels = [Axes(self, i, *divmod(i, cols)) for i in range(rows * cols)]
        for axes in self.panels if share_y else ():
            if axes.col:
                axes.y(matches=f"y{self[axes.row, 0].number}", showticklabels=False)
        for axes, title in zip(self.panels, titles, strict=False):
            middle, top_edge = sum(self.run(axes.col)) / 2, self.rise(axes.row)[1]
            self.write(title, 12.5, INK, "paper", "paper", x=middle, y=top_edge, xanchor="center", yshift=3)

    @classmethod
    def grid(cls, titles: Sequence[str], columns: int = 4, **sizes: Any) -> "Canvas":
        """Return panels with axes of their own, one for each title, at most `columns` side by side.

        What is left of the last row is hidden. `sizes` are as in the constructor.
        """
        columns = min(columns, len(titles))
        sizes = {"panel": 210, "gap": 88, "top": 98, "between": 0.06, "share_y": False, **sizes}
        canvas = cls(-(-len(titles) // columns), columns, titles, **sizes)
        for axes in canvas.panels[len(titles) :]:
            axes.hide()
        return canvas

    def __getitem__(self, cell: tuple[int, int]) -> "Axes":
        """Return the panel at (row, column), counted from 0."""
        return self.panels[cell[0] * self.cols + cell[1]]

    def set(self, **settings: Any) -> None:
        """Set anything of the layout."""
        self.layout |= settings

    def write(self, text: str, size: float, colour: str, xref: str, yref: str, **place: Any) -> None:
        """Write a text whose lower edge is at a place, in plotly's names."""
        text_style = {"text": text, "showarrow": False, "font": {"size": size, "color": colour}}
        self.layout["annotations"].append({**text_style, "xref": xref, "yref": yref, "yanchor": "bottom", **place})

    def bar(self, title: str, row: int | None = None, col: int | None = None) -> dict[str, Any]:
        """Return a colour bar beside a panel, beside a row of panels, or beside the upper rows if none is named."""
        bottom, top = self.rise(row or 0)
        bottom = max(0.0, top - 300 / self._plot) if row is None else bottom
        return {
            **{"title": {"text": title, "side": "right", "font": {"size": 11}}, "tickfont": {"size": 10}},
            **{"x": 1.008 if col is None else self.run(col)[1] + 0.004, "xanchor": "left"},
            **{"y": (bottom + top) / 2, "yanchor": "middle"},
            **{"len": (top - bottom) * 1.05, "thickness": 11, "outlinewidth": 0},
        }

    def legend_beside(self) -> None:
        """Name the traces that ask for it, to the right of the panels."""
        self.set(showlegend=True, legend={"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top"})

    def figure(self, legend: Looks | None = None) -> go.Figure:
        """Return the figure, checked by plotly; each look of `legend` is named above the panels."""
        for name, look in (legend or {}).items():
            style = {**look.drawn(2, 7), "name": plain(name), "showlegend": True}
            self[0, 0].add(type="scatter", mode="lines+markers", x=[None], y=[None], **style)
        self.layout["showlegend"] |= legend is not None
        for axis in "xy":
            self._fit(axis)
        return go.Figure({"data": self.data, "layout": self.layout})

    def _fit(self, axis: str) -> None:
        """Set the axes by the values: a wide interval runs out of the panel, unless all of them swallow the values."""
        drawn: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
        for trace in self.data:
            if trace["type"] == "scatter":
                name = str(self.layout[f"{axis}axis{trace[f'{axis}axis'][1:]}"].get("matches", trace[f"{axis}axis"]))
                start = self.panels[int(trace["xaxis"][1:] or 1) - 1].start if axis == "y" else -np.inf
                drawn.setdefault(name, []).append(_extent(trace, axis, start))
        for name, parts in drawn.items():
            settings = self.layout[f"{axis}axis{name[1:]}"]
            values, lows, highs = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            if settings.get("type") == "log":
                values, lows, highs = (np.log10(array[array > 0]) for array in (values, lows, highs))
            if {"range", "autorange"} & settings.keys() or not len(values) or (axis == "x" and not len(lows)):
                continue
            low, high = values.min(), values.max()
            span = max(high - low, 0.01 * max(abs(low), abs(high))) or 1.0
            # Where the intervals are wider than the trend, an axis of the trend alone would show what is not there.
            most = np.inf if len(lows) and np.median(highs) - np.median(lows) > span else 0.25 * span
            ends = (low - lows.min(), highs.max() - high) if len(lows) and len(highs) else (0.0, 0.0)
            least = 0.06 * span + max(0.0, span - (high - low)) / 2
            below, above = (float(np.clip(gap, least, max(least, most))) for gap in ends)
            settings["range"] = [low - below, high + above]

    def rise(self, row: int) -> tuple[float, float]:
        """Return lower and upper edge of a row as shares of the height."""
        top = self._plot - row * (self._panel + self._gap)
        return max(0.0, (top - self._panel) / self._plot), min(1.0, top / self._plot)

    def run(self, col: int) -> tuple[float, float]:
        """Return left and right edge of a column as shares of the width."""
        left = col * (self._width + self._between)
        return left, min(1.0, left + self._width)


def _extent(trace: dict[str, Any], axis: str, start: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the values of a trace on an axis, and the bounds of its intervals (a band has bounds alone)."""
    x, values = _numbers(trace["x"]), _numbers(trace[axis])
    lows = highs = none = values[:0]
    if trace.get("meta") == ASIDE or trace["mode"] == "text" or ("fill" in trace and axis == "x"):
        return none, none, none
    if "fill" in trace:
        gaps = np.flatnonzero(~np.isfinite(values))
        parts = np.split(np.stack([x, values]), gaps, axis=1)
        bounds = [part[1][np.isfinite(part[1]) & (part[0] >= start)] for part in parts]
        both = [np.split(part, 2) for part in bounds]  # it goes along the lower bounds, and back along the upper
        lows, highs = (np.concatenate([pair[i] for pair in both]) for i in (0, 1))
        return none, lows, highs
    values = np.where(x < start, np.nan, values)
    if (bars := trace.get(f"error_{axis}")) and np.any(bars["array"]):
        lows, highs = values - bars["arrayminus"], values + bars["array"]
    lows, highs, values = (array[np.isfinite(array)] for array in (lows, highs, values))
    return values, lows, highs


def _numbers(values: Any) -> np.ndarray:
    """Return what stands on an axis as numbers; names are NaN."""
    return np.asarray(pd.to_numeric(pd.Series(values, dtype=object), errors="coerce"), dtype=float)


class Axes:
    """One panel of a canvas."""

    def __init__(self, canvas: Canvas, i: int, row: int, col: int) -> None:
        self.canvas, self.row, self.col, self.number = canvas, row, col, str(i + 1) if i else ""
        self.start = -np.inf  # points left of it, those of layer 0, do not set the axis of values
        canvas.layout[f"xaxis{self.number}"] = {"anchor": f"y{self.number}", "domain": canvas.run(col)}
        canvas.layout[f"yaxis{self.number}"] = {"anchor": f"x{self.number}", "domain": canvas.rise(row)}

    def add(self, **trace: Any) -> None:
        """Add a trace: what plotly takes, in its names."""
        place = {"xaxis": f"x{self.number}", "yaxis": f"y{self.number}"}
        self.canvas.data.append({"showlegend": False, **trace, **place})

    def x(self, **settings: Any) -> None:
        """Set the horizontal axis."""
        self.canvas.layout[f"xaxis{self.number}"] |= settings

    def y(self, **settings: Any) -> None:
        """Set the vertical axis."""
        self.canvas.layout[f"yaxis{self.number}"] |= settings

    def hide(self) -> None:
        """Hide the axes of a panel that stays empty."""
        self.x(visible=False)
        self.y(visible=False)

    def note(self, x: float, y: float, text: str) -> None:
        """Write a note above a point, to the right of it; a log axis takes the logarithm of x."""
        refs = f"x{self.number}", f"y{self.number}"
        self.canvas.write(text, 11, SOFT, *refs, x=x, y=y, xanchor="left")
