"""A grid of panels as a plotly figure: measured in pixels from top to bottom, in shares of the width across."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dynamics.report.plot.style import INK, SOFT, TEMPLATE

Cell = tuple[int, int]
"""Row and column of a panel, from 0."""


class Canvas:
    """Collects traces and axes as plain dictionaries; `figure()` has plotly check them once, at the end.

    Plotly's own `make_subplots` with an update for each axis takes ten times as long for these figures.

    Args:
        rows, cols: of panels.
        titles: above the panels, row by row; fewer leave the rest bare.
        panel, gap: height of a panel and of the space between two rows, in pixels.
        top, right: margins in pixels.
        between: space between two columns as a share of the width.
        share_y: one value axis for each row.
        lift: of the legend above the panels, in pixels.
    """

    def __init__(
        self,
        rows: int,
        cols: int,
        titles: Sequence[str] = (),
        *,
        panel: int,
        gap: int = 62,
        top: int = 56,
        right: int = 16,
        between: float = 0.025,
        share_y: bool = True,
        lift: int = 28,
    ) -> None:
        self.rows, self.cols, self._share_y = rows, cols, share_y
        self._plot = rows * panel + (rows - 1) * gap
        self._panel, self._gap, self._width = panel, gap, (1 - (cols - 1) * between) / cols
        self._between = between
        self._data: list[dict[str, Any]] = []
        self._layout: dict[str, Any] = {
            "template": TEMPLATE,
            "height": self._plot + top + 46,
            "margin": {"l": 66, "r": right, "t": top, "b": 46},
            "showlegend": False,
            "legend": {"y": 1 + lift / self._plot},
            "annotations": [],
        }
        for row in range(rows):
            for col in range(cols):
                self._place((row, col))
        for i, title in enumerate(titles):
            self._title((i // cols, i % cols), title)

    def add(self, cell: Cell, **trace: Any) -> None:
        """Add a trace to a panel: what plotly takes, in its names."""
        number = self._number(cell)
        self._data.append({"showlegend": False, **trace, "xaxis": f"x{number}", "yaxis": f"y{number}"})

    def x(self, cell: Cell, **settings: Any) -> None:
        """Set the horizontal axis of a panel."""
        self._layout[f"xaxis{self._number(cell)}"] |= settings

    def y(self, cell: Cell, **settings: Any) -> None:
        """Set the vertical axis of a panel."""
        self._layout[f"yaxis{self._number(cell)}"] |= settings

    def note(self, cell: Cell, x: float, y: float, text: str) -> None:
        """Write a note above a point of a panel, to the right of it; a log axis takes the logarithm of x."""
        number = self._number(cell)
        where = {
            "xref": f"x{number}",
            "x": x,
            "xanchor": "left",
            "yref": f"y{number}",
            "y": y,
            "yanchor": "bottom",
        }
        note = {"text": text, "showarrow": False, "font": {"size": 11, "color": SOFT}}
        self._layout["annotations"].append(note | where)

    def set(self, **settings: Any) -> None:
        """Set anything else of the layout."""
        self._layout |= settings

    def bar(self, title: str, row: int | None = None, col: int | None = None) -> dict[str, Any]:
        """A colour bar to the right of a panel, of a row of panels, or of the upper rows where none is given."""
        bottom, top = self._rise(0 if row is None else row)
        if row is None:
            bottom = max(0.0, top - 300 / self._plot)
        return {
            "title": {"text": title, "side": "right", "font": {"size": 11}},
            "tickfont": {"size": 10},
            **{
                "x": 1.008 if col is None else self._run(col)[1] + 0.004,
                "xanchor": "left",
                "y": (bottom + top) / 2,
                "yanchor": "middle",
            },
            **{"len": (top - bottom) * 1.05, "thickness": 11, "outlinewidth": 0},
        }

    def figure(self) -> go.Figure:
        """The figure, checked."""
        return go.Figure({"data": self._data, "layout": self._layout})

    def _number(self, cell: Cell) -> str:
        number = cell[0] * self.cols + cell[1] + 1
        return "" if number == 1 else str(number)

    def _rise(self, row: int) -> tuple[float, float]:
        """Lower and upper edge of a row as shares of the height."""
        top = self._plot - row * (self._panel + self._gap)
        return max(0.0, (top - self._panel) / self._plot), min(1.0, top / self._plot)

    def _run(self, col: int) -> tuple[float, float]:
        """Left and right edge of a column as shares of the width."""
        left = col * (self._width + self._between)
        return left, min(1.0, left + self._width)

    def _place(self, cell: Cell) -> None:
        number, (row, col) = self._number(cell), cell
        self._layout[f"xaxis{number}"] = {"anchor": f"y{number}", "domain": self._run(col)}
        vertical: dict[str, Any] = {"anchor": f"x{number}", "domain": self._rise(row)}
        if self._share_y and col > 0:
            vertical |= {"matches": f"y{self._number((row, 0))}", "showticklabels": False}
        self._layout[f"yaxis{number}"] = vertical

    def _title(self, cell: Cell, text: str) -> None:
        (left, right), (_, top) = self._run(cell[1]), self._rise(cell[0])
        self._layout["annotations"].append(
            {
                "text": text,
                "showarrow": False,
                "font": {"size": 12.5, "color": INK},
                **{"xref": "paper", "x": (left + right) / 2, "xanchor": "center"},
                **{"yref": "paper", "y": top, "yanchor": "bottom", "yshift": 3},
            }
        )
