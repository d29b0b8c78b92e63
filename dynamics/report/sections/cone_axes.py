"""The axes of the cone: against one another, and along the steps of training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dynamics.report.drawn import Drawn
from dynamics.report.names import number
from dynamics.report.plot.canvas import Canvas, Cell
from dynamics.report.plot.style import INK, MAGNITUDE, Scale, looks, plain
from dynamics.report.sections.cone_lines import Line, draw_legend, draw_line, ticks
from dynamics.report.sections.cone_runs import MAIN, Cone, Model, between

COLUMNS = 4
CKA = (
    " CKA compares whole clouds of the same sentences, also of different width; it is biased upwards where sentences "
    "are not far more than the width. Blank: axes of different width."
)
LETTERS = 110
"""Letters that fit under all the panels of a row; longer names are tilted."""
LONGEST = 18
"""Letters of a name at most."""
TOLD = 8
"""Pairs that are told in numbers."""


def axes(cone: Cone) -> Drawn | None:
    """Cosines between axes: of a model's corpora, of the models; beside them CKA."""
    found = []
    models = cone.shown
    if len(models) > 1:
        names = [model.name for model in models]
        for metric, title in (
            ("axis_cosine", "axes of the models"),
            ("linear_cka", "linear CKA of the models"),
        ):
            found.append((title, names, _of_models(cone, models, metric)))
    if len(cone.corpora) > 1:
        for model in cone.shown:
            found.append((f"axes by corpus<br>{plain(model.name, 34)}", cone.corpora, _of_corpora(cone, model)))
    found = [one for one in found if np.isfinite(one[2][~np.eye(len(one[1]), dtype=bool)]).any()]
    if not found:
        return None
    columns = len(found) if len(found) <= COLUMNS else 3
    lines = -(-len(found) // columns)
    size = max(150, 44 * max(len(names) for _, names, _ in found))
    titles = [f"<b>{title}</b>" for title, _, _ in found]
    canvas = Canvas(lines, columns, titles, panel=size, gap=130, top=64, right=90, between=0.14, share_y=False)
    tilted = [_letters(names) > LETTERS / columns for _, names, _ in found]
    for i, (_, names, values) in enumerate(found):
        _matrix(canvas, divmod(i, columns), names, values, 40 if tilted[i] else 0)
    for i in range(len(found), lines * columns):
        canvas.x(divmod(i, columns), visible=False)
        canvas.y(divmod(i, columns), visible=False)
    bar = {**canvas.bar("absolute cosine, or CKA"), "tickvals": [0, 0.5, 1]}
    canvas.set(coloraxis={"colorscale": MAGNITUDE, "cmin": 0, "cmax": 1, "colorbar": bar})
    below = any(tilted[(lines - 1) * columns :])
    canvas.set(margin={"l": 130, "r": 90, "t": 64, "b": 90 if below else 46})
    figure = canvas.figure()
    if below:
        figure.update_layout(height=figure.layout.height + 44)
    return Drawn(
        "Axes against axes",
        figure,
        "Absolute cosine between the axes of corpora and of models: 1 where they are one line, 0 where at right "
        "angles. On the diagonal: how well an axis agrees with itself when sentences are resampled.",
        _told_pairs(cone),
        "Off-diagonal cosines cannot be told from 1 any better than the diagonal is. Brackets: 95 % interval, the "
        "basic bootstrap's over sentences: resampled axes lie apart, and the value itself may be low; "
        "there is none where an axis agrees with itself by less than 0.8." + (CKA if len(models) > 1 else ""),
    )


def _of_corpora(cone: Cone, model: Model) -> np.ndarray:
    values = np.full((len(cone.corpora),) * 2, np.nan)
    for i, name in enumerate(cone.corpora):
        where = {} if name == MAIN else {"corpus": name}
        values[i, i] = _value(cone.final(model, "axis_stability", **where))
        for j, other in enumerate(cone.corpora[:i]):
            found = _value(cone.final(model, "axis_cosine", **where, against_corpus=other))
            values[i, j] = values[j, i] = found
    return values


def _of_models(cone: Cone, models: Sequence[Model], metric: str) -> np.ndarray:
    values = np.full((len(models),) * 2, np.nan)
    for i, model in enumerate(models):
        values[i, i] = 1.0 if metric == "linear_cka" else _value(cone.final(model, "axis_stability"))
        for j, other in enumerate(models[:i]):
            both = (
                cone.final(model, metric, against=other.subject),
                cone.final(other, metric, against=model.subject),
            )
            values[i, j] = values[j, i] = next((_value(one) for one in both if one is not None), np.nan)
    return values


def _value(row: Any) -> float:
    return float("nan") if row is None else float(row["value"])


def _told_pairs(cone: Cone) -> str:
    rows = cone.rows[cone.rows["metric"] == "axis_cosine"]
    names = {model.subject: model.name for model in cone.shown}
    told = []
    for _, row in rows.iterrows():
        if row["subject"] not in names or (row["against"] and row["against"] not in names):
            continue
        if row["against"]:
            what = f"{names[row['subject']]} and {names[row['against']]}"
        else:
            whose = f"{names[row['subject']]}, " if len(names) > 1 else ""
            what = f"{whose}{row['corpus'] or MAIN} and {row['against_corpus']}"
        told.append(f"{what} {between(row)}")
    more = [f"{len(told) - TOLD} more"] if len(told) > TOLD else []
    return f"{'; '.join([*told[:TOLD], *more])}." if told else ""


def _letters(names: Sequence[str]) -> int:
    """Letters that names take side by side, each in the room of the longest."""
    return len(names) * (2 + max(min(len(name), LONGEST) for name in names))


def _matrix(canvas: Canvas, cell: Cell, names: Sequence[str], values: np.ndarray, angle: int) -> None:
    labels = [plain(name, LONGEST) for name in names]
    canvas.add(
        cell,
        type="heatmap",
        x=labels,
        y=labels,
        z=values,
        coloraxis="coloraxis",
        hovertemplate="%{y} and %{x}: %{z:.4g}<extra></extra>",
        xgap=2,
        ygap=2,
    )
    known = [(i, j) for i, j in np.ndindex(values.shape) if np.isfinite(values[i, j])]
    canvas.add(
        cell,
        type="scatter",
        mode="text",
        x=[labels[j] for _, j in known],
        y=[labels[i] for i, _ in known],
        text=[number(values[place]) for place in known],
        # What plotly chooses by itself is hard to read on the middle of the scale.
        textfont={"size": 12, "color": [INK if values[place] > 0.45 else "white" for place in known]},
        hoverinfo="skip",
    )
    canvas.x(cell, showgrid=False, tickangle=angle, showline=False, ticks="")
    canvas.y(cell, showgrid=False, autorange="reversed", showline=False, ticks="")


def turning(cone: Cone) -> list[Drawn]:
    """The axis along training steps."""
    made = []
    for series in dict.fromkeys(model.series for model in cone.models if model.series):
        subjects = [model.subject for model in cone.models if model.series == series]
        rows = cone.rows[cone.rows["subject"].isin(subjects)]
        ends = {end: rows[rows["metric"] == f"axis_cosine_{end}"] for end in ("first", "last")}
        if ends["first"]["step"].nunique() > 1:
            cosines = rows[(rows["metric"] == "mean_cosine") & (rows["depth"] == rows["depth"].max())]
            own = cosines[(cosines[["corpus", "pooling", "transform"]] == "").all(axis=1)]
            made.append(_turned(series, ends, own))
    return made


def _turned(series: str, ends: dict[str, pd.DataFrame], cosines: pd.DataFrame) -> Drawn:
    turns, states = [f"axis with the {end} step's" for end in ends], ["sentences", "tokens"]
    look = looks([*turns, *states])
    titles = ["<b>the cone, last layer</b>", "<b>its axis, last layer</b>"]
    titles += [f"<b>axis of each layer,<br>with the {end} step's</b>" for end in ends]
    canvas = Canvas(1, 4, titles, panel=250, top=100, right=90, between=0.06, share_y=False, lift=46)
    for name in states:
        mine = cosines[cosines["site"] == name.removesuffix("s")].sort_values("step")
        scale = Scale.of(mine["step"])
        placed = mine.assign(depth=scale.place(mine["step"]))
        draw_line(canvas, (0, 0), Line(name, placed, look[name], 2.0, True))
        canvas.x((0, 0), **scale.axis("step"))
    canvas.y((0, 0), title={"text": "mean cosine"})
    told = []
    for col, ((end, rows), (name, how)) in enumerate(zip(ends.items(), list(look.items())[:2], strict=True), start=2):
        last = rows[rows["depth"] == rows["depth"].max()].sort_values("step")
        scale = Scale.of(last["step"])
        placed = last.assign(depth=scale.place(last["step"]))
        draw_line(canvas, (0, 1), Line(name, placed, how, 2.0, True))
        canvas.x((0, 1), **scale.axis("step"))
        canvas.y((0, 1), title={"text": "absolute cosine"}, range=[-0.03, 1.03])
        table = rows.pivot(index="depth", columns="step", values="value")
        canvas.add(
            (0, col),
            type="heatmap",
            x=[f"{step:g}" for step in table.columns],
            y=table.index.to_numpy(),
            z=table.to_numpy(),
            coloraxis="coloraxis",
            hovertemplate="step %{x}, layer %{y}: %{z:.4g}<extra></extra>",
        )
        canvas.x((0, col), type="category", title={"text": "step"}, showgrid=False, nticks=8, tickangle=0)
        canvas.y((0, col), title={"text": "layer"}, showgrid=False, **ticks(rows))
        edge = last.iloc[-1] if end == "first" else last.iloc[0]
        told.append(f"step {edge['step']} against the {end}: {between(edge)}")
    bar = canvas.bar("absolute cosine", 0)
    canvas.set(coloraxis={"colorscale": MAGNITUDE, "cmin": 0, "cmax": 1, "colorbar": bar})
    draw_legend(canvas, look)
    return Drawn(
        f"The axis turning: {series}",
        canvas.figure(),
        "How narrow the cone is at each step, and the cosine of its axis with what it was at the first step and with "
        "what it is at the last.",
        f"{'; '.join(told)}.",
        "Sentences are the same at every step; last layer: as the model hands them out. Bands: 95 % "
        "interval, of two axes the basic bootstrap's. Maps: the steps are equally wide.",
    )
