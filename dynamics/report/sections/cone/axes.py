"""The axes of the cone: what lies at their ends, against one another, and along the steps of training."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from dynamics.report.blocks import Figure
from dynamics.report.names import estimate, number
from dynamics.report.plot import heat
from dynamics.report.plot.canvas import Axes, Canvas
from dynamics.report.plot.style import Look, looks, plain
from dynamics.report.plot.values import StepScale
from dynamics.report.sections.cone.runs import MAIN, ConeModel, ConeRun
from dynamics.report.sections.cone.sentences import COLUMNS, DepthLine, draw_line, ticks

STABLE = 0.8  # stability from which on an axis is one: as much as the intervals of cosines between axes take
LETTERS = 110  # that fit under all the panels of a row; longer names are tilted
LONGEST = 18  # letters of a name at most
MOST_PAIRS = 8  # that are read out in numbers
NUMBERS = {
    "share of the variance": "axis_share",
    "stability": "axis_stability",
    "cosine with the mean direction": "axis_to_mean",
    "with the uncentred axis": "axis_to_uncentered",
}
ENDS = {"most": "Highest projection", "least": "Lowest projection"}
TEXTS = ("most", "most_tokens", "least", "least_tokens")
Matrix = tuple[str, list[str], np.ndarray]  # title, names, and the values between them


@dataclass(frozen=True)
class Cards:
    """The block of all cards of a run: `title`, `numbers`, `note` and two `ends`: title, sentences and tokens."""

    kind: ClassVar[str] = "cards"
    cards: list[dict[str, Any]]


def cards(run: ConeRun) -> Cards | None:
    """Return a card for the axis of every model and corpus."""
    blocks = []
    for model in run.displayed:
        for corpus, facts in model.facts.get("cards", {}).items():
            finals = {label: run.final(model, metric, corpus=corpus) for label, metric in NUMBERS.items()}
            numbers = [f"{label} {estimate(row, 'undefined')}" for label, row in finals.items()]
            count = run.info.corpora.get(corpus, {}).get("sentences")
            numbers.insert(2, verdict(finals["stability"]))
            numbers.append(f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{count}")
            texts = {key: [(text, number(float(value))) for text, value in facts.get(key) or ()] for key in TEXTS}
            ends = [(title, texts[end], texts[f"{end}_tokens"]) for end, title in ENDS.items()]
            title = model.name + (f", {corpus}" if len(run.corpora) > 1 else "")
            blocks.append({"title": title, "numbers": numbers, "ends": ends, "note": str(facts.get("vocabulary", ""))})
    return Cards(blocks) if blocks else None


def verdict(stability: Any) -> str:
    """Return what the stability of an axis (a row, or None) means for what lies at its ends.

    >>> verdict({"value": 0.69}), verdict({"value": 0.95})
    ('no stable axis: other sentences would give another one, with other ends', 'a stable axis')
    """
    if stability is None or not np.isfinite(stability["value"]):
        return "stability unknown"
    if stability["value"] >= STABLE:
        return "a stable axis"
    return "no stable axis: other sentences would give another one, with other ends"


def matrices(run: ConeRun) -> Figure | None:
    """Return cosines between axes: of a model's corpora, of the models; beside them CKA."""
    models, corpora, has_models = [model.name for model in run.displayed], run.corpora, len(run.displayed) > 1
    panels: list[Matrix] = []
    if has_models:
        panels += [("axes of the models", models, _between_models(run, "axis_cosine"))]
        panels += [("linear CKA of the models", models, _between_models(run, "linear_cka"))]
    for model in run.displayed if len(corpora) > 1 else ():
        panels += [(f"axes by corpus<br>{plain(model.name, 34)}", corpora, _between_corpora(run, model))]
    panels = [panel for panel in panels if np.isfinite(panel[2][~np.eye(len(panel[1]), dtype=bool)]).any()]
    if not panels:
        return None
    columns = len(panels) if len(panels) <= COLUMNS else 3
    size = max(150, 44 * max(len(names) for _, names, _ in panels))
    titles = [f"<b>{title}</b>" for title, _, _ in panels]
    canvas = Canvas.grid(titles, columns, panel=size, gap=130, top=64, right=90, between=0.14)
    # Each name takes the room of the longest.
    tilted = [len(names) * (2 + min(max(map(len, names)), LONGEST)) > LETTERS / columns for _, names, _ in panels]
    for axes, (_, names, values), is_tilted in zip(canvas.panels, panels, tilted, strict=False):
        _matrix(axes, [plain(name, LONGEST) for name in names], values, 40 if is_tilted else 0)
    canvas.set(coloraxis=heat.shares({**canvas.bar("absolute cosine, or CKA"), "tickvals": [0, 0.5, 1]}))
    below = 44 if any(tilted[(canvas.rows - 1) * columns :]) else 0
    canvas.set(margin={"l": 130, "r": 90, "t": 64, "b": 46 + below}, height=canvas.layout["height"] + below)
    meaning = "Absolute cosine between the axes of corpora and of models: 1 where they are one line, 0 where at right "
    meaning += "angles. On the diagonal: how well an axis agrees with itself when sentences are resampled."
    caption = "Off-diagonal cosines cannot be told from 1 any better than the diagonal is. Brackets: 95 % interval, "
    caption += "the basic bootstrap's over sentences: resampled axes lie apart, and the value itself may be low; there "
    caption += "is none where an axis agrees with itself by less than 0.8."
    if has_models:
        caption += " CKA compares whole clouds of the same sentences, also of different width; it is biased upwards "
        caption += "where sentences are not far more than the width. Blank: axes of different width."
    return Figure(
        "Axes against axes",
        canvas.figure(),
        meaning,
        _reading(run),
        caption,
        data=run.having("axis_cosine", "axis_stability", "linear_cka"),
    )


def _between_corpora(run: ConeRun, model: ConeModel) -> np.ndarray:
    from scipy.spatial.distance import squareform

    diagonal = [run.value(model, "axis_stability", corpus=name) for name in run.corpora]
    pairs = combinations(run.corpora, 2)
    cosines = [run.value(model, "axis_cosine", corpus=name, against_corpus=other) for other, name in pairs]
    return np.asarray(squareform(cosines) + np.diag(diagonal))


def _between_models(run: ConeRun, metric: str) -> np.ndarray:
    from scipy.spatial.distance import squareform

    diagonal = [1.0 if metric == "linear_cka" else run.value(model, "axis_stability") for model in run.displayed]
    similarities = []
    for other, model in combinations(run.displayed, 2):  # the record has one of the two directions
        values = run.value(model, metric, against=other.subject), run.value(other, metric, against=model.subject)
        similarities.append(next((value for value in values if np.isfinite(value)), np.nan))
    return np.asarray(squareform(similarities) + np.diag(diagonal))


def _reading(run: ConeRun) -> str:
    names = {model.subject: model.name for model in run.displayed}
    rows = run.rows[(run.rows["metric"] == "axis_cosine") & run.rows["subject"].isin(names)]
    pairs = []
    for row in rows[rows["against"].isin(["", *names])].to_dict("records"):
        if row["against"]:
            pair = f"{names[row['subject']]} and {names[row['against']]}"
        else:
            model = f"{names[row['subject']]}, " if len(names) > 1 else ""
            pair = f"{model}{row['corpus'] or MAIN} and {row['against_corpus']}"
        pairs.append(f"{pair} {estimate(row, 'undefined')}")
    more = [f"{len(pairs) - MOST_PAIRS} more"] if len(pairs) > MOST_PAIRS else []
    return f"{'; '.join([*pairs[:MOST_PAIRS], *more])}." if pairs else ""


def _matrix(axes: Axes, labels: list[str], values: np.ndarray, angle: int) -> None:
    heat.heat(axes, labels, labels, values, "%{y} and %{x}: %{z:.4g}", xgap=2, ygap=2)
    rows, columns = np.nonzero(np.isfinite(values))
    finite, place = values[rows, columns], {"x": [labels[j] for j in columns], "y": [labels[i] for i in rows]}
    # What plotly chooses by itself is hard to read on the middle of the scale.
    font = {"size": 12, "color": ["black" if value > 0.45 else "white" for value in finite]}
    axes.add(type="scatter", mode="text", **place, text=[*map(number, finite)], textfont=font, hoverinfo="skip")
    axes.x(showgrid=False, tickangle=angle, showline=False, ticks="")
    axes.y(showgrid=False, autorange="reversed", showline=False, ticks="")


def turning(run: ConeRun) -> list[Figure]:
    """Return the axis along training steps, a figure for each series."""
    names = dict.fromkeys(model.series for model in run.models if model.series)
    series = run.rows["subject"].map({model.subject: model.series for model in run.models})
    return [figure for name in names if (figure := _turning(name, run.rows[series == name]))]


def _turning(series: str, rows: pd.DataFrame) -> Figure | None:
    ends = {end: rows[rows["metric"] == f"axis_cosine_{end}"] for end in ("first", "last")}
    if ends["first"]["step"].nunique() < 2:
        return None
    is_plain = (rows[["corpus", "pooling", "transform"]] == "").all(axis=1)
    cosines = rows[is_plain & (rows["metric"] == "mean_cosine")]
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
    meaning = "How narrow the cone is at each step, and the cosine of its axis with what it was at the first step and "
    meaning += "with what it is at the last."
    caption = "Sentences are the same at every step; last layer: as the model returns them. Bands: 95 % interval, of "
    caption += "two axes the basic bootstrap's. Maps: the steps are equally wide."
    title, reading = f"The axis turning: {series}", f"{'; '.join(readings)}."
    data = pd.concat([cosines, *ends.values()])
    return Figure(title, canvas.figure(styles), meaning, reading, caption, data=data)


def _steps(axes: Axes, name: str, rows: pd.DataFrame, look: Look) -> pd.DataFrame:
    """Draw a quantity at its last depth along the steps; return its rows."""
    last = rows[rows["depth"] == rows["depth"].max()].sort_values("step")
    scale = StepScale.of(last["step"])
    draw_line(axes, DepthLine(name, last.assign(depth=scale.place(last["step"])), look, 2.0))
    axes.x(**scale.axis("step"))
    return last
