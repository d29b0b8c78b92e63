"""The axes of the cone: against one another, and along the steps of training."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dynamics.report.figure import Figure
from dynamics.report.names import estimate, number
from dynamics.report.plot import heat
from dynamics.report.plot.canvas import Axes, Canvas
from dynamics.report.plot.style import INK, Look, looks, plain
from dynamics.report.plot.values import StepScale
from dynamics.report.sections.cone.depth import COLUMNS, DepthLine, draw_line, ticks
from dynamics.report.sections.cone.runs import MAIN, ConeModel, ConeRun, where_corpus

CKA = (
    " CKA compares whole clouds of the same sentences, also of different width; it is biased upwards where sentences "
    "are not far more than the width. Blank: axes of different width."
)
LETTERS = 110
"""Letters that fit under all the panels of a row; longer names are tilted."""
LONGEST = 18
"""Letters of a name at most."""
MOST_PAIRS = 8
"""Pairs that are read out in numbers."""


class Matrix(NamedTuple):
    """Values between named things, of shape (names, names)."""

    title: str
    names: list[str]
    values: np.ndarray


def matrices(run: ConeRun) -> Figure | None:
    """Return cosines between axes: of a model's corpora, of the models; beside them CKA."""
    panels = []
    if len(run.displayed) > 1:
        names = [model.name for model in run.displayed]
        panels += [Matrix("axes of the models", names, _between_models(run, "axis_cosine"))]
        panels += [Matrix("linear CKA of the models", names, _between_models(run, "linear_cka"))]
    if len(run.corpora) > 1:
        panels += [
            Matrix(f"axes by corpus<br>{plain(model.name, 34)}", run.corpora, _between_corpora(run, model))
            for model in run.displayed
        ]
    panels = [panel for panel in panels if np.isfinite(panel.values[~np.eye(len(panel.names), dtype=bool)]).any()]
    if not panels:
        return None
    columns = len(panels) if len(panels) <= COLUMNS else 3
    size = max(150, 44 * max(len(panel.names) for panel in panels))
    titles = [f"<b>{panel.title}</b>" for panel in panels]
    canvas = Canvas.grid(titles, columns, panel=size, gap=130, top=64, right=90, between=0.14)
    tilted = [_letters(panel.names) > LETTERS / columns for panel in panels]
    for axes, panel, is_tilted in zip(canvas.panels, panels, tilted, strict=False):
        _matrix(axes, panel, 40 if is_tilted else 0)
    canvas.set(coloraxis=heat.shares({**canvas.bar("absolute cosine, or CKA"), "tickvals": [0, 0.5, 1]}))
    is_tilted_below = any(tilted[(canvas.rows - 1) * columns :])
    canvas.set(margin={"l": 130, "r": 90, "t": 64, "b": 90 if is_tilted_below else 46})
    figure = canvas.figure()
    if is_tilted_below:
        figure.update_layout(height=figure.layout.height + 44)
    return Figure(
        "Axes against axes",
        figure,
        "Absolute cosine between the axes of corpora and of models: 1 where they are one line, 0 where at right "
        "angles. On the diagonal: how well an axis agrees with itself when sentences are resampled.",
        _reading(run),
        "Off-diagonal cosines cannot be told from 1 any better than the diagonal is. Brackets: 95 % interval, the "
        "basic bootstrap's over sentences: resampled axes lie apart, and the value itself may be low; "
        "there is none where an axis agrees with itself by less than 0.8." + (CKA if len(run.displayed) > 1 else ""),
    )


def _between_corpora(run: ConeRun, model: ConeModel) -> np.ndarray:
    def cosine(i: int, j: int) -> float:
        where = where_corpus(run.corpora[i])
        if i == j:
            return _value(run.final(model, "axis_stability", **where))
        return _value(run.final(model, "axis_cosine", **where, against_corpus=run.corpora[j]))

    return _symmetric(len(run.corpora), cosine)


def _between_models(run: ConeRun, metric: str) -> np.ndarray:
    def similarity(i: int, j: int) -> float:
        model, other = run.displayed[i], run.displayed[j]
        if i == j:
            return 1.0 if metric == "linear_cka" else _value(run.final(model, "axis_stability"))
        rows = run.final(model, metric, against=other.subject), run.final(other, metric, against=model.subject)
        return next((_value(row) for row in rows if row is not None), np.nan)

    return _symmetric(len(run.displayed), similarity)


def _symmetric(size: int, entry: Callable[[int, int], float]) -> np.ndarray:
    """Return the symmetric matrix whose entries on and below the diagonal are `entry(i, j)`."""
    lower = np.array([[entry(i, j) if j <= i else np.nan for j in range(size)] for i in range(size)])
    return np.where(np.tri(size, dtype=bool), lower, lower.T)


def _value(row: Any) -> float:
    return float("nan") if row is None else float(row["value"])


def _reading(run: ConeRun) -> str:
    rows = run.rows[run.rows["metric"] == "axis_cosine"]
    names = {model.subject: model.name for model in run.displayed}
    pairs = []
    for row in rows.to_dict("records"):
        if row["subject"] not in names or (row["against"] and row["against"] not in names):
            continue
        if row["against"]:
            pair = f"{names[row['subject']]} and {names[row['against']]}"
        else:
            model = f"{names[row['subject']]}, " if len(names) > 1 else ""
            pair = f"{model}{row['corpus'] or MAIN} and {row['against_corpus']}"
        pairs.append(f"{pair} {estimate(row, 'undefined')}")
    more = [f"{len(pairs) - MOST_PAIRS} more"] if len(pairs) > MOST_PAIRS else []
    return f"{'; '.join([*pairs[:MOST_PAIRS], *more])}." if pairs else ""


def _letters(names: Sequence[str]) -> int:
    """Return the letters that names take side by side, each in the room of the longest."""
    return len(names) * (2 + max(min(len(name), LONGEST) for name in names))


def _matrix(axes: Axes, matrix: Matrix, angle: int) -> None:
    labels, values = [plain(name, LONGEST) for name in matrix.names], matrix.values
    heat.heat(axes, labels, labels, values, "%{y} and %{x}: %{z:.4g}", xgap=2, ygap=2)
    finite = np.argwhere(np.isfinite(values))
    axes.add(
        type="scatter",
        mode="text",
        x=[labels[j] for _, j in finite],
        y=[labels[i] for i, _ in finite],
        text=[number(values[i, j]) for i, j in finite],
        # What plotly chooses by itself is hard to read on the middle of the scale.
        textfont={"size": 12, "color": [INK if values[i, j] > 0.45 else "white" for i, j in finite]},
        hoverinfo="skip",
    )
    axes.x(showgrid=False, tickangle=angle, showline=False, ticks="")
    axes.y(showgrid=False, autorange="reversed", showline=False, ticks="")


def turning(run: ConeRun) -> list[Figure]:
    """Return the axis along training steps, a figure for each series."""
    figures = []
    for series in dict.fromkeys(model.series for model in run.models if model.series):
        subjects = [model.subject for model in run.models if model.series == series]
        rows = run.rows[run.rows["subject"].isin(subjects)]
        if rows[rows["metric"] == "axis_cosine_first"]["step"].nunique() > 1:
            figures.append(_turning(series, rows))
    return figures


def _turning(series: str, rows: pd.DataFrame) -> Figure:
    plain_rows = rows[(rows[["corpus", "pooling", "transform"]] == "").all(axis=1)]
    cosines = plain_rows[plain_rows["metric"] == "mean_cosine"]
    ends = {end: rows[rows["metric"] == f"axis_cosine_{end}"] for end in ("first", "last")}
    turns, states = {end: f"axis with the {end} step's" for end in ends}, ("sentences", "tokens")
    styles = looks([*turns.values(), *states])
    titles = ["<b>the cone, last layer</b>", "<b>its axis, last layer</b>"]
    titles += [f"<b>axis of each layer,<br>with the {end} step's</b>" for end in ends]
    canvas = Canvas.grid(titles, panel=250, top=100, right=90)
    for name in states:
        _steps(canvas[0, 0], name, cosines[cosines["site"] == name.removesuffix("s")], styles[name])
    canvas[0, 0].y(title={"text": "mean cosine"})
    canvas[0, 1].y(title={"text": "absolute cosine"}, range=[-0.03, 1.03])
    readings = []
    for axes, (end, rows_of_end) in zip(canvas.panels[2:], ends.items(), strict=True):
        last = _steps(canvas[0, 1], turns[end], rows_of_end, styles[turns[end]])
        table = rows_of_end.pivot(index="depth", columns="step", values="value")
        x = heat.positions(axes, list(table.columns))
        heat.heat(axes, x, table.index, table.to_numpy(), "step %{x}, layer %{y}: %{z:.4g}")
        axes.x(title={"text": "step"})
        axes.y(title={"text": "layer"}, **ticks(rows_of_end))
        edge = last.iloc[-1] if end == "first" else last.iloc[0]
        readings.append(f"step {edge['step']} against the {end}: {estimate(edge, 'undefined')}")
    canvas.set(coloraxis=heat.shares(canvas.bar("absolute cosine", 0)))
    canvas.legend(styles)
    return Figure(
        f"The axis turning: {series}",
        canvas.figure(),
        "How narrow the cone is at each step, and the cosine of its axis with what it was at the first step and with "
        "what it is at the last.",
        f"{'; '.join(readings)}.",
        "Sentences are the same at every step; last layer: as the model returns them. Bands: 95 % "
        "interval, of two axes the basic bootstrap's. Maps: the steps are equally wide.",
    )


def _steps(axes: Axes, name: str, rows: pd.DataFrame, look: Look) -> pd.DataFrame:
    """Draw a quantity at its last depth along the steps; return its rows."""
    last = rows[rows["depth"] == rows["depth"].max()].sort_values("step")
    scale = StepScale.of(last["step"])
    draw_line(axes, DepthLine(name, last.assign(depth=scale.place(last["step"])), look, 2.0))
    axes.x(**scale.axis("step"))
    return last
