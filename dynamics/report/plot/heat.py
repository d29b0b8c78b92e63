"""Heat maps over positions of equal width, or over names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dynamics.report.names import compact
from dynamics.report.plot.canvas import Axes
from dynamics.report.plot.style import MAGNITUDE
from dynamics.report.plot.values import Values


def heat(axes: Axes, x: Sequence[str], y: ArrayLike, z: np.ndarray, hover: str, **more: Any) -> None:
    """Draw a map `z` of shape (y, x); NaN stays blank. `hover` is what a point says."""
    trace = {"type": "heatmap", "x": x, "y": np.asarray(y), "z": z, "hovertemplate": f"{hover}<extra></extra>"}
    axes.add(**{**trace, "coloraxis": "coloraxis", "hoverongaps": False, **more})


def over_positions(axes: Axes, table: pd.DataFrame, values: Values, hover: str, most: int = 7, **more: Any) -> None:
    """Draw a table of layers or heads (its index) by positions (its columns) in the colours of `values`."""
    numbers = table.to_numpy()
    true = {"customdata": numbers} if values.log else {}
    hover += f": %{{{'customdata' if true else 'z'}:.4g}}"
    heat(axes, positions(axes, list(table.columns), most), table.index, values.shade(numbers), hover, **true, **more)


def positions(axes: Axes, places: Sequence[float], most: int = 7) -> list[str]:
    """Make the x axis of a map one of equally wide positions with at most `most` labels; return their categories."""
    labels = [f"{at:.10g}" for at in places]
    at = spread(len(labels), most - 1) if len(labels) > most else range(len(labels))
    ticks = {"tickvals": [labels[i] for i in at], "ticktext": [compact(places[i]) for i in at]}
    axes.x(type="category", showgrid=False, tickangle=0, **ticks)
    axes.y(showgrid=False)
    return labels


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of `count` indices, evenly spread, both ends among them.

    >>> spread(10, 4)
    [0, 3, 6, 9]
    """
    return np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()


def shares(bar: dict[str, Any]) -> dict[str, Any]:
    """Return the colours of what lies between 0 and 1."""
    return {"colorscale": MAGNITUDE, "cmin": 0, "cmax": 1, "colorbar": bar}
