"""Plotly figures from tidy frames (`tables`): pure, each complete in itself.

Frames keep their seeds; figures average them. `look` says how each arm looks (`style.looks`): its keys are the
arms to draw, in their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics.report import tables
from dynamics.report.names import words
from dynamics.report.plot import draw
from dynamics.report.plot.canvas import Canvas
from dynamics.report.plot.style import DEPTH, SOFT, TIME, Look, Scale, plain
from dynamics.report.plot.values import Values

Looks = dict[str, Look]


@dataclass(frozen=True)
class Panel:
    """A small panel for all arms: over the layers at the last position or, with `along`, over the positions."""

    title: str
    metric: str
    table: pd.DataFrame
    along: str = ""


def curves(
    table: pd.DataFrame, metric: str, panels: dict[str, list[str]], look: Looks, marks: dict[str, float]
) -> go.Figure:
    """Learning curves, a panel for each objective: never two objectives on one axis.

    Args:
        table: `tables.curves`.
        metric: its name.
        panels: names of the arms in each panel, by the panel's title.
        look: of the arms.
        marks: levels to compare with, by label, drawn where every character counts.
    """
    scale, means = Scale.of(table["at"]), tables.curve_means(table)
    titles = [f"<b>{plain(title)}</b>" for title in panels]
    canvas = Canvas(1, len(panels), titles, panel=270, top=74, between=0.07, share_y=False)
    for col, (title, group) in enumerate(panels.items()):
        cell = (0, col)
        for name in group:
            _train(canvas, cell, table[table["arm"] == name], scale, name, look[name])
        for name in group:
            mine = means[(means["arm"] == name) & (means["site"] == "validation")]
            each = table[(table["arm"] == name) & (table["site"] == "validation")]
            draw.seeds(canvas, cell, scale, each, name, look[name])
            draw.band(canvas, cell, scale, mine, look[name])
            shown = {"line": look[name].line(2), "marker": look[name].marker(6.5)}
            draw.line(canvas, cell, scale, mine, plain(name), **shown)
        for label, level in marks.items() if "masked" not in title else ():
            _level(canvas, cell, scale, level, label)
        canvas.x(cell, **scale.axis("step"))
        canvas.y(cell, title={"text": plain(words(metric).axis)})
    _legend(canvas, look)
    return canvas.figure()


def geometry(table: pd.DataFrame, metric: str, look: Looks, along: str = "step") -> go.Figure:
    """One quantity through training: a column for each arm and one for all of them.

    Rows: the profile over layers, a line for each position; each layer along the positions; layers x positions
    as a map. The last column has the last profile, the mean over layers 1..L and the layer with the highest.

    Args:
        table: `tables.geometry`, without heads.
        metric: its name.
        look: of the arms.
        along: what the positions are: `step`, or a swept condition.
    """
    table = tables.thin(table)
    means, scale, names = tables.over_seeds(table), Scale.of(table["at"]), list(look)
    layers, values = sorted(table["layer"].unique()), Values.of(metric, means["value"])
    last = len(names)
    heads = [_headline(name, look[name]) for name in names]
    blank = [""] * last
    titles = [*heads, "<b>last profile</b>", *blank, "<b>mean over layers</b>", *blank, "<b>highest layer</b>"]
    canvas = Canvas(3, last + 1, titles, panel=176, right=96)
    depth = {"title": {"text": "layer"}, **_layer_ticks(layers)}
    span = [layers[0] - 0.5, layers[-1] + 0.5]
    for col, name in enumerate(names):
        mine = means[means["arm"] == name]
        draw.profiles(canvas, (0, col), mine, scale, along)
        draw.each_layer(canvas, (1, col), mine, scale, layers)
        draw.heat(canvas, (2, col), mine, "layer", along, values)
        canvas.x((2, col), title={"text": plain(along)})
    highest, over_layers = tables.highest(means), tables.over_layers(table)
    for i, name in enumerate(names):
        draw.final(canvas, (0, last), table, name, look[name])
        draw.along(canvas, (1, last), scale, over_layers, name, look[name])
        draw.peaks(canvas, (2, last), highest, scale, names, i, look[name])
    for col in range(last + 1):
        canvas.x((0, col), **depth, range=[layers[0] - 0.25, layers[-1] + 0.25])
        canvas.x((1, col), **scale.axis(plain(along)))
        canvas.y((0, col), **values.axis())
        canvas.y((1, col), **values.axis())
        canvas.y((2, col), range=span, **_layer_ticks(layers))
    canvas.x((2, last), **scale.axis(plain(along)))
    for row, title in enumerate((values.title, values.title, "layer")):
        canvas.y((row, 0), title={"text": plain(title, 26)})
    _bars(canvas, values, scale, layers, along)
    return canvas.figure()


def heads(table: pd.DataFrame, metric: str, look: Looks, along: str = "step") -> go.Figure:
    """Every head of one quantity, heads x positions, a row of maps for each layer; arguments of `geometry`."""
    means = tables.over_seeds(tables.thin(table[table["head"] >= 0]))
    names, layers = list(look), sorted(means["layer"].unique())
    titles = [_headline(name, look[name]) for name in names]
    count, values = means["head"].nunique(), Values.of(metric, means["value"])
    canvas = Canvas(len(layers), len(names), titles, panel=max(58, 9 * count), gap=16, right=96)
    for row, layer in enumerate(layers):
        for col, name in enumerate(names):
            mine = means[(means["arm"] == name) & (means["layer"] == layer)]
            draw.heat(canvas, (row, col), mine, "head", along, values)
            bottom = row == len(layers) - 1
            canvas.x((row, col), showticklabels=bottom, title={"text": plain(along) if bottom else ""})
        canvas.y((row, 0), title={"text": f"layer {layer}<br>head"}, tickformat="d", dtick=-(-count // 5))
    canvas.set(coloraxis3=values.colours(canvas.bar("")))
    return canvas.figure()


def grid(panels: Sequence[Panel], look: Looks, columns: int = 4) -> go.Figure:
    """Small panels, all arms in each."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    titles = [panel.title for panel in panels]
    canvas = Canvas(rows, columns, titles, panel=165, gap=92, top=98, between=0.055, share_y=False, lift=46)
    for i, panel in enumerate(panels):
        cell, table = divmod(i, columns), tables.thin(panel.table)
        scale, layers = Scale.of(table["at"]), sorted(table["layer"].unique())
        shown = tables.over_layers(table) if panel.along else tables.final(table)
        for name in look:
            if panel.along:
                draw.along(canvas, cell, scale, shown, name, look[name])
            else:
                draw.final(canvas, cell, table, name, look[name])
        values = Values.of(panel.metric, shown["value"])
        canvas.y(cell, **values.axis(), title={"text": "log axis" if values.log else ""})
        depth = {"title": {"text": "layer"}, **_layer_ticks(layers)}
        canvas.x(cell, **(scale.axis(plain(panel.along)) if panel.along else depth))
    for i in range(len(panels), rows * columns):
        canvas.x(divmod(i, columns), visible=False)
        canvas.y(divmod(i, columns), visible=False)
    _legend(canvas, look)
    return canvas.figure()


def _train(canvas: Canvas, cell: draw.Cell, table: pd.DataFrame, scale: Scale, name: str, look: Look) -> None:
    for seed, one in table[table["site"] == "train"].groupby("seed"):
        label = f"{plain(name)}, training, seed {plain(str(seed))}"
        draw.line(canvas, cell, scale, one, label, line={"color": look.colour, "width": 3}, opacity=0.25)


def _level(canvas: Canvas, cell: draw.Cell, scale: Scale, level: float, label: str) -> None:
    ends = [scale.zero if scale.has_zero else scale.smallest, scale.largest]
    look = {"line": {"dash": "dot", "width": 1.2, "color": SOFT}, "hoverinfo": "skip"}
    canvas.add(cell, type="scatter", mode="lines", x=ends, y=[level] * 2, **look)
    canvas.note(cell, scale.ends[0], level, plain(label))


def _legend(canvas: Canvas, look: Looks) -> None:
    for name in look:
        shown = {"line": look[name].line(2), "marker": look[name].marker(7), "name": plain(name)}
        canvas.add((0, 0), type="scatter", mode="lines+markers", x=[None], y=[None], **shown | {"showlegend": True})
    canvas.set(showlegend=True)


def _bars(canvas: Canvas, values: Values, scale: Scale, layers: Sequence[int], along: str) -> None:
    """The three colour bars, each as high as its row of panels."""
    low, high = scale.ends
    time: dict[str, Any] = {
        "colorscale": TIME,
        "cmin": low,
        "cmax": high,
        "colorbar": canvas.bar(plain(along), 0),
    }
    if scale.log:
        at, text = scale.ticks()
        time["colorbar"] |= {"tickvals": np.log10(at), "ticktext": text}
    depth = {"colorscale": DEPTH, "cmin": layers[0], "cmax": layers[-1]}
    canvas.set(
        coloraxis=time,
        coloraxis2={**depth, "colorbar": {**canvas.bar("layer", 1), **_layer_ticks(layers)}},
        coloraxis3=values.colours(canvas.bar("", 2)),
    )
    for row, axis in ((0, "coloraxis"), (1, "coloraxis2")):
        # Lines carry no colour bar of their own: an empty trace brings it.
        marker = {"color": [0], "coloraxis": axis}
        canvas.add((row, 0), type="scatter", mode="markers", x=[None], y=[None], marker=marker)


def _layer_ticks(layers: Sequence[int]) -> dict[str, Any]:
    return {"tickvals": [int(layer) for layer in layers[:: -(-len(layers) // 9)]]}


def _headline(name: str, look: Look) -> str:
    return f"<b><span style='color:{look.colour}'>{look.mark} {plain(name, 30)}</span></b>"
