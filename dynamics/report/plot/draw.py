"""What is drawn into a panel: lines, bands, profiles, maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from plotly.colors import sample_colorscale

from dynamics.report import tables
from dynamics.report.names import compact
from dynamics.report.plot.canvas import Canvas, Cell
from dynamics.report.plot.style import DEPTH, TIME, Look, Scale, plain
from dynamics.report.plot.values import Values


def line(
    canvas: Canvas, cell: Cell, scale: Scale, part: pd.DataFrame, label: str, values: str = "value", **look: Any
) -> None:
    """One line along the positions; hovering tells `label`, the true position and the column `values`."""
    part = part.sort_values("at")
    canvas.add(
        cell,
        type="scatter",
        x=scale.place(part["at"]),
        y=part["value"].to_numpy(),
        customdata=part[["at", values]].to_numpy(dtype=float),
        hovertemplate=f"{label}<br>%{{customdata[0]:.6~g}}: %{{customdata[1]:.4g}}<extra></extra>",
        **({"mode": "lines+markers" if "marker" in look else "lines"} | look),
    )


def seeds(canvas: Canvas, cell: Cell, scale: Scale, table: pd.DataFrame, name: str, look: Look) -> None:
    """A thin line for each seed, where there are several."""
    if table["seed"].nunique() > 1:
        for seed, one in table.groupby("seed"):
            label = f"{plain(name)}, seed {plain(str(seed))}"
            line(canvas, cell, scale, one, label, line={"color": look.colour, "width": 0.8}, opacity=0.5)


def band(canvas: Canvas, cell: Cell, scale: Scale, means: pd.DataFrame, look: Look) -> None:
    """The interval as a filled band, broken where there is none."""
    means = means.sort_values("at")
    x, low, high = np.asarray(scale.place(means["at"])), means["low"].to_numpy(), means["high"].to_numpy()
    known = np.isfinite(low) & np.isfinite(high)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(int), [0]])))
    xs: list[float | None] = []
    ys: list[float | None] = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        xs += [*x[start:end], *x[start:end][::-1], None]
        ys += [*low[start:end], *high[start:end][::-1], None]
    if xs:
        fill = {"fill": "toself", "fillcolor": look.faint, "line": {"width": 0}, "hoverinfo": "skip"}
        canvas.add(cell, type="scatter", mode="lines", x=xs, y=ys, **fill)


def along(canvas: Canvas, cell: Cell, scale: Scale, table: pd.DataFrame, name: str, look: Look) -> None:
    """One value a position of one arm: mean, band, and a thin line for each seed."""
    mine = table[table["arm"] == name]
    means = tables.over_seeds(mine)
    seeds(canvas, cell, scale, mine, name, look)
    band(canvas, cell, scale, means, look)
    line(canvas, cell, scale, means, plain(name), line=look.line(1.8), marker=look.marker(5))


def final(canvas: Canvas, cell: Cell, table: pd.DataFrame, name: str, look: Look) -> None:
    """The last profile of one arm over the layers: mean and interval, and a thin line for each seed."""
    mine = table[table["arm"] == name]
    means = tables.final(tables.over_seeds(mine)).sort_values("layer")
    last = mine[mine["at"].isin(means["at"])]
    if last["seed"].nunique() > 1:
        for _, one in last.groupby("seed"):
            thin = {"line": {"color": look.colour, "width": 0.8}, "opacity": 0.5, "hoverinfo": "skip"}
            canvas.add(cell, type="scatter", mode="lines", x=one["layer"].to_numpy(), y=one["value"].to_numpy(), **thin)
    canvas.add(
        cell,
        type="scatter",
        mode="lines+markers",
        x=means["layer"].to_numpy(),
        y=means["value"].to_numpy(),
        error_y={
            "type": "data",
            "symmetric": False,
            "array": (means["high"] - means["value"]).fillna(0).to_numpy(),
            "arrayminus": (means["value"] - means["low"]).fillna(0).to_numpy(),
            **{"thickness": 1.2, "width": 3, "color": look.colour},
        },
        line=look.line(1.8),
        marker=look.marker(6),
        hovertemplate=f"{plain(name)}<br>layer %{{x}}: %{{y:.4g}}<extra></extra>",
    )


def profiles(canvas: Canvas, cell: Cell, means: pd.DataFrame, scale: Scale, what: str) -> None:
    """The profile over layers at every position, coloured by it; the last one is bold."""
    positions = sorted(means["at"].unique())
    shades = np.clip(scale.fraction(positions), 0, 1) if positions else []
    for at, colour in zip(positions, sample_colorscale(TIME, shades), strict=True):
        part = means[means["at"] == at].sort_values("layer")
        canvas.add(
            cell,
            type="scatter",
            mode="lines",
            x=part["layer"].to_numpy(),
            y=part["value"].to_numpy(),
            line={"color": colour, "width": 2.8 if at == positions[-1] else 1.4},
            hovertemplate=f"{plain(what)} {at:g}, layer %{{x}}: %{{y:.4g}}<extra></extra>",
        )


def each_layer(canvas: Canvas, cell: Cell, means: pd.DataFrame, scale: Scale, layers: Sequence[int]) -> None:
    """Every layer along the positions, coloured by its depth."""
    shades = np.linspace(0, 1, len(layers)) if len(layers) > 1 else [1.0]
    for layer, colour in zip(layers, sample_colorscale(DEPTH, shades), strict=True):
        part = means[means["layer"] == layer]
        look = {"line": {"color": colour, "width": 1.5}, "marker": {"size": 3.5, "color": colour}}
        line(canvas, cell, scale, part, f"layer {layer}", **look)


def peaks(
    canvas: Canvas, cell: Cell, highest: pd.DataFrame, scale: Scale, names: Sequence[str], i: int, look: Look
) -> None:
    """The layer with the highest value of arm `i`; open where its interval does not exclude the runner-up."""
    part = highest[highest["arm"] == names[i]].sort_values("at")
    # Whole layers coincide: arms are set a little apart so that none hides another.
    part = part.assign(value=part["layer"] + 0.16 * (i - (len(names) - 1) / 2))
    fill = [look.colour if clear else "white" for clear in part["clear"]]
    marker = {**look.marker(6.5), "color": fill, "line": {"color": look.colour, "width": 1.3}}
    thin = {"color": look.colour, "width": 0.7}
    line(canvas, cell, scale, part, plain(names[i]), values="layer", line=thin, marker=marker)


def heat(canvas: Canvas, cell: Cell, means: pd.DataFrame, what: str, along: str, values: Values) -> None:
    """A map in the shared colours: `what` (the column `layer` or `head`) by the positions, equally wide."""
    table = means.pivot(index=what, columns="at", values="value")
    told = "customdata" if values.log else "z"
    canvas.add(
        cell,
        type="heatmap",
        x=positions(canvas, cell, table.columns),
        y=table.index.to_numpy(),
        z=values.shade(table.to_numpy()),
        **({"customdata": table.to_numpy()} if values.log else {}),
        coloraxis="coloraxis3",
        hoverongaps=False,
        hovertemplate=f"{plain(along)} %{{x}}, {what} %{{y}}: %{{{told}:.4g}}<extra></extra>",
    )


def positions(canvas: Canvas, cell: Cell, places: Sequence[float], most: int = 7) -> list[str]:
    """Make the axis of a map one of equally wide positions with `most` labels; gives their categories."""
    labels = [f"{at:.10g}" for at in places]
    shown = np.arange(len(labels))
    if len(labels) > most:
        shown = np.unique(np.linspace(0, len(labels) - 1, most - 1).round().astype(int))
    ticks = {"tickvals": [labels[i] for i in shown], "ticktext": [compact(places[i]) for i in shown]}
    canvas.x(cell, type="category", showgrid=False, tickangle=0, **ticks)
    canvas.y(cell, showgrid=False)
    return labels
