"""Lines, bands and error bars in a panel."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dynamics.report import tables
from dynamics.report.plot.canvas import ASIDE, Axes
from dynamics.report.plot.style import SOFT, Look, plain
from dynamics.report.plot.values import StepScale


def line(axes: Axes, x: ArrayLike, y: ArrayLike, hover: str = "", **style: Any) -> None:
    """Draw one line, with markers where `style` (of plotly's scatter trace) has a `marker`.

    `hover` is plotly's template of what a point says; empty: nothing.
    """
    mode = "lines+markers" if "marker" in style else "lines"
    label = {"hovertemplate": f"{hover}<extra></extra>"} if hover else {"hoverinfo": "skip"}
    axes.add(**{"type": "scatter", "mode": mode, "x": np.asarray(x), "y": np.asarray(y), **label, **style})


def along(axes: Axes, scale: StepScale, rows: pd.DataFrame, label: str, **style: Any) -> None:
    """Draw one line along the positions `at`; a point says `label`, its true position and its value.

    The column `true` replaces the value in what it says.
    """
    rows = rows.sort_values("at")
    spoken = rows[["at", "true" if "true" in rows else "value"]].to_numpy(dtype=float)
    hover = f"{label}<br>%{{customdata[0]:.6~g}}: %{{customdata[1]:.4g}}"
    line(axes, scale.place(rows["at"]), rows["value"], hover, customdata=spoken, **style)


def band(axes: Axes, x: ArrayLike, rows: pd.DataFrame, look: Look) -> None:
    """Fill the interval from `low` to `high` of rows that lie at `x`; the band is broken where there is none."""
    x, low, high = np.asarray(x), rows["low"].to_numpy(), rows["high"].to_numpy()
    bounded = np.isfinite(low) & np.isfinite(high)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bounded.astype(int), [0]])))
    xs: list[float | None] = []
    ys: list[float | None] = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        xs += [*x[start:end], *x[start:end][::-1], None]
        ys += [*low[start:end], *high[start:end][::-1], None]
    if xs:
        fill = {"fill": "toself", "fillcolor": look.faint, "line": {"width": 0}, "hoverinfo": "skip"}
        axes.add(type="scatter", mode="lines", x=xs, y=ys, legendgroup=look.group, **fill)


def means(
    axes: Axes, scale: StepScale, rows: pd.DataFrame, name: str, look: Look,
    width: float = 1.8, size: float = 5, is_banded: bool = True, is_joined: bool = True,
) -> None:  # fmt: skip
    """Draw the mean over seeds of an arm along the positions, its band, and each of several seeds (see `_thin`)."""
    rows = rows[rows["arm"] == name]
    averaged = tables.drawn(tables.over_seeds(rows)).sort_values("at")
    bars = {} if is_joined else {"mode": "markers", "error_y": error_bars(averaged, look.colour)}
    if is_banded:
        seeds = _seeds(rows)
        for seed, part in seeds:
            style = _thin(look, len(seeds)) | ({} if is_joined else _points(look))
            along(axes, scale, part, f"{plain(name)}, seed {plain(seed)}", **style)
    if is_banded and is_joined:
        band(axes, scale.place(averaged["at"]), averaged, look)
    along(axes, scale, averaged, plain(name), **look.drawn(width, size), **bars)


def last_profile(axes: Axes, rows: pd.DataFrame, name: str, look: Look, shift: float = 0.0) -> None:
    """Draw the last profile of an arm over the layers: mean and interval, and each of several seeds (see `_thin`).

    `shift` sets it aside, so that the intervals of arms do not lie on one another; layer 0 sets no axis.
    """
    rows = rows[rows["arm"] == name]
    averaged = tables.drawn(tables.final(tables.over_seeds(rows))).sort_values("layer")
    if (averaged["layer"] > 0).any():
        axes.start = 0.5
    seeds = _seeds(rows[rows["at"].isin(averaged["at"])])
    for _, part in seeds:
        line(axes, part["layer"] + shift, part["value"], **_thin(look, len(seeds)))
    style = {"error_y": error_bars(averaged, look.colour), "customdata": averaged["layer"], **look.drawn(1.8, 6)}
    hover = f"{plain(name)}<br>layer %{{customdata}}: %{{y:.4g}}"
    line(axes, averaged["layer"] + shift, averaged["value"], hover, **style)


def _seeds(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each seed, none where there is but one."""
    return [(str(seed), part) for seed, part in rows.groupby("seed")] if rows["seed"].nunique() > 1 else []


def _thin(look: Look, seeds: int) -> dict[str, Any]:
    """Return the style of one of several seeds: points where they are too few for a band, else a line."""
    if seeds < tables.BANDS:
        return _points(look)
    return {"line": {"color": look.colour, "width": 0.8}, "opacity": 0.5, "legendgroup": look.group}


def _points(look: Look) -> dict[str, Any]:
    return {"mode": "markers", "marker": look.marker(3.5), "opacity": 0.6, "legendgroup": look.group}


def error_bars(rows: pd.DataFrame, colour: str) -> dict[str, Any]:
    """Return plotly's settings of error bars from `low` to `high` about `value`, none where there is no interval."""
    above, below = (rows["high"] - rows["value"]).fillna(0), (rows["value"] - rows["low"]).fillna(0)
    ends = {"array": above.to_numpy(), "arrayminus": below.to_numpy()}
    return {"type": "data", "symmetric": False, **ends, "thickness": 1.2, "width": 3, "color": colour}


def dotted(axes: Axes, x: ArrayLike, y: ArrayLike, colour: str = SOFT) -> None:
    """Draw a dotted line to compare with; it does not set the axes."""
    line(axes, x, y, meta=ASIDE, line={"dash": "dot", "width": 1.2, "color": colour})
