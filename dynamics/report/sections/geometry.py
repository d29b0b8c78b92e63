"""The core quantities through training: over layers, over steps, and head by head."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics.report import summary, tables
from dynamics.report.arms import Settings
from dynamics.report.blocks import Figure, Fold, Section, Text
from dynamics.report.names import Words
from dynamics.report.plot import heat, lines
from dynamics.report.plot.canvas import ASIDE, Axes, Canvas
from dynamics.report.plot.panels import layer_ticks, shift_of
from dynamics.report.plot.style import DEPTH, PAPER, TIME, Looks, looks, plain, shades
from dynamics.report.plot.values import StepScale, Values
from dynamics.report.study import Study

COLUMNS = 6  # arms that stand side by side; more are laid over one another


def applies(study: Study) -> bool:
    """Whether any geometry was measured."""
    return bool(tables.quantities(study.rows))


def section(study: Study) -> Section | None:
    """Return a figure for each core quantity that has layers and steps."""
    core = tables.core(tables.quantities(study.rows))
    figures = [figure(study, quantity, is_core=True) for quantity in core if has_columns(study, quantity)]
    text = "In each figure, top: the profile over layers, a line for each measured step, from faint (early) to strong "
    text += "(late). Middle: each layer against the step. Bottom: a map of layers by steps; steps are equally wide, "
    text += "colours are shared by all arms. A gap is a value that is undefined or was not measured."
    return Section("Layer by layer", "geometry", "Layer by layer", [Text(text), *figures]) if figures else None


def has_columns(study: Study, quantity: tables.Quantity) -> bool:
    """Whether a quantity has several layers and steps, of so few arms that they stand side by side."""
    along, site, metric = quantity
    rows = tables.geometry(study.rows, site, metric, along)
    is_grid = rows["layer"].nunique() > 1 and rows["at"].nunique() > 1
    return is_grid and rows["arm"].nunique() <= COLUMNS and bool(np.isfinite(rows["value"]).any())


def figure(study: Study, quantity: tables.Quantity, is_core: bool = False) -> Figure:
    """Return the figure of a quantity, with its heads below; those of signed core quantities are open."""
    along, site, metric = quantity
    rows, words = tables.geometry(study.rows, site, metric, along), study.words(metric)
    table, by_head = tables.without_heads(rows), rows[rows["head"] >= 0]
    styles = {name: look for name, look in looks(study.arm_names).items() if name in set(rows["arm"])}
    title = study.heading(site, metric) + ("" if along == "step" else f", along {along}")
    detail = None
    if by_head["head"].nunique() > 1:
        fold: Fold = "open" if is_core and words.signed else "closed"
        maps, caption = plot_heads(by_head, words, styles, along), summary.caption(study, by_head, site, metric)
        detail = Figure(f"{title}, head by head", maps, words.meaning, "", caption, len(styles), fold, data=by_head)
    parts = (summary.reading(table, list(styles), along), summary.beyond_width(study, table, metric))
    reading, caption = " ".join(filter(None, parts)), summary.caption(study, table, site, metric)
    panels = plot(table, words, styles, along)
    return Figure(title, panels, words.meaning, reading, caption, len(styles) + 1, detail=detail, data=table)


def plot(table: pd.DataFrame, words: Words, looks: Looks, along: str = "step") -> go.Figure:
    """Draw one quantity (`tables.geometry` without heads) through training: a column for each arm and one for all.

    Rows: the profile over layers, a line for each position; each layer along the positions; layers x positions as a
    map. The last column has the last profile, the mean over layers 1..L and the layer with the highest value. Layer 0
    sets neither axes nor colours, and has no place in the map.
    """
    table = tables.thin(table)
    means, scale, last = tables.over_seeds(table), StepScale.of(table["at"]), len(looks)
    blocks = means[~tables.aside(means)]
    layers, values = sorted(table["layer"].unique()), Values.of(words, blocks["value"])
    titles = [*_arm_titles(looks), "<b>last profile</b>"]
    titles += [*[""] * last, "<b>mean over layers</b>", *[""] * last, "<b>highest layer</b>"]
    canvas = Canvas(3, last + 1, titles, panel=176, right=96)
    highest, over_layers = tables.highest(means), tables.over_layers(table)
    for i, (name, look) in enumerate(looks.items()):
        rows = means[means["arm"] == name]
        _arm_lines(canvas, i, rows, scale, layers, along)
        _map(canvas[2, i], blocks[blocks["arm"] == name], "layer", along, values)
        canvas[2, i].x(title={"text": plain(along)})
        shift = shift_of(i, last)
        lines.last_profile(canvas[0, last], table, name, look, shift / 2)
        lines.means(canvas[1, last], scale, over_layers, name, look)
        # Whole layers coincide: arms are set a little apart. Open where the interval does not exclude the runner-up.
        best = highest[highest["arm"] == name].sort_values("at")
        best = best.assign(value=best["layer"] + shift, true=best["layer"])
        fill = [look.colour if is_clear else PAPER for is_clear in best["clear"]]
        marker = {**look.marker(6.5), "color": fill, "line": {"color": look.colour, "width": 1.3}}
        thin = {"color": look.colour, "width": 0.7}
        group = {"legendgroup": look.group}
        lines.along(canvas[2, last], scale, best, plain(name), line=thin, marker=marker, **group)
    ticks = layer_ticks(layers)
    for col in range(last + 1):
        canvas[0, col].x(title={"text": "layer"}, tickvals=ticks, range=[layers[0] - 0.25, layers[-1] + 0.25])
        canvas[0, col].y(**values.axis())
        canvas[1, col].x(**scale.axis(plain(along)))
        canvas[1, col].y(**values.axis())
        canvas[2, col].y(range=[blocks["layer"].min() - 0.5, layers[-1] + 0.5], tickvals=ticks)
    canvas[2, last].x(**scale.axis(plain(along)))
    for row, title in enumerate((values.short_title, values.short_title, "layer")):
        canvas[row, 0].y(title={"text": title})
    _colour_bars(canvas, values, scale, layers, along)
    return canvas.figure()


def plot_heads(table: pd.DataFrame, words: Words, looks: Looks, along: str = "step") -> go.Figure:
    """Draw every head of one quantity, heads x positions, a row of maps for each layer; arguments of `plot`."""
    means = tables.over_seeds(tables.thin(table[table["head"] >= 0]))
    layers, count = sorted(means["layer"].unique()), means["head"].nunique()
    values = Values.of(words, means["value"])
    canvas = Canvas(len(layers), len(looks), _arm_titles(looks), panel=max(58, 9 * count), gap=16, right=96)
    for row, layer in enumerate(layers):
        for col, name in enumerate(looks):
            rows = means[(means["arm"] == name) & (means["layer"] == layer)]
            _map(canvas[row, col], rows, "head", along, values)
            is_bottom = row == len(layers) - 1
            canvas[row, col].x(showticklabels=is_bottom, title={"text": plain(along) if is_bottom else ""})
        canvas[row, 0].y(title={"text": f"layer {layer}<br>head"}, tickformat="d", dtick=-(-count // 5))
    canvas.set(coloraxis=values.colours(canvas.bar(values.short_title)))
    return canvas.figure()


def _arm_titles(looks: Looks) -> list[str]:
    return [f"<b><span style='color:{it.colour}'>{it.mark} {plain(name, 30)}</span></b>" for name, it in looks.items()]


def _arm_lines(canvas: Canvas, col: int, means: pd.DataFrame, scale: StepScale, layers: list[int], along: str) -> None:
    """Draw the profile at every position, coloured by it, the last one bold; below it every layer, by its depth."""
    positions = sorted(means["at"].unique())
    places = scale.fraction(positions)
    for at, colour in zip(positions, shades(TIME, places), strict=True):
        rows, hover = means[means["at"] == at].sort_values("layer"), f"{plain(along)} {at:g}, layer %{{x}}: %{{y:.4g}}"
        width = 2.8 if at == positions[-1] else 1.4
        canvas[0, col].start = 0.5 if layers[-1] > 0 else -np.inf
        lines.line(canvas[0, col], rows["layer"], rows["value"], hover, line={"color": colour, "width": width})
    places = np.linspace(0, 1, len(layers)) if len(layers) > 1 else np.ones(1)
    for layer, colour in zip(layers, shades(DEPTH, places), strict=True):
        style: Settings = {"line": {"color": colour, "width": 1.5}, "marker": {"size": 3.5, "color": colour}}
        style |= {"meta": ASIDE} if layer == 0 < layers[-1] else {}
        lines.along(canvas[1, col], scale, means[means["layer"] == layer], f"layer {layer}", **style)


def _map(axes: Axes, means: pd.DataFrame, what: str, along: str, values: Values) -> None:
    """Draw a map in the shared colours: `what` (the column `layer` or `head`) by the positions."""
    table = means.pivot(index=what, columns="at", values="value")
    heat.over_positions(axes, table, values, f"{plain(along)} %{{x}}, {what} %{{y}}")


def _colour_bars(canvas: Canvas, values: Values, scale: StepScale, layers: Sequence[int], along: str) -> None:
    """Add the three colour bars, each as high as its row of panels."""
    time_bar, depth_bar = canvas.bar(plain(along), 0), {**canvas.bar("layer", 1), "tickvals": layer_ticks(layers)}
    if scale.log:
        at, text = scale.ticks()
        time_bar |= {"tickvals": np.log10(at), "ticktext": text}
    canvas.set(
        coloraxis=values.colours(canvas.bar(values.short_title, 2)),
        coloraxis2={"colorscale": TIME, "cmin": scale.ends[0], "cmax": scale.ends[1], "colorbar": time_bar},
        coloraxis3={"colorscale": DEPTH, "cmin": layers[0], "cmax": layers[-1], "colorbar": depth_bar},
    )
    for row in (0, 1):
        # Lines carry no colour bar of their own: an empty trace brings it.
        marker = {"color": [0], "coloraxis": f"coloraxis{row + 2}"}
        canvas[row, 0].add(type="scatter", mode="markers", x=[None], y=[None], marker=marker)
