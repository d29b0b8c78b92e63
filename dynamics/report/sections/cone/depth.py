"""Sentence vectors over the layers of a model: against tokens, by corpus, and how early similarities are there."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from dynamics.report.figure import Figure
from dynamics.report.names import estimate, number
from dynamics.report.plot import lines
from dynamics.report.plot.canvas import Axes, Canvas
from dynamics.report.plot.style import INK, SOFT, SYMBOLS, Look, Looks, looks, panel_title, plain
from dynamics.report.sections.cone.runs import ConeModel, ConeRun, where_corpus

COLUMNS = 4
DEPTHS = (
    "Layer 0 = embeddings, 1..L = residual stream after each block; 'out' = what the model returns, where that is "
    "more: after a final norm and, for sentences, its dense layers."
)
POOLINGS = {"mean": "mean pooling", "cls": "first token (cls)", "last": "last token", "max": "maximum"}


class DepthLine(NamedTuple):
    """One line of a panel over depth."""

    name: str
    rows: pd.DataFrame
    look: Look
    width: float = 1.8
    is_banded: bool = True


class DepthPanels(NamedTuple):
    """The two panels of a model."""

    model: ConeModel
    upper: list[DepthLine]
    lower: list[DepthLine]


def draw_line(axes: Axes, line: DepthLine) -> None:
    """Draw a line over `depth` with its band and its marks."""
    if line.is_banded:
        lines.band(axes, line.rows["depth"], line.rows, line.look)
    style = {"line": line.look.line(line.width), "marker": line.look.marker(3.5 + line.width)}
    hover = f"{plain(line.name)}, %{{x}}: %{{y:.4g}}"
    lines.line(axes, line.rows["depth"], line.rows["value"], hover, **style)


def ticks(rows: pd.DataFrame) -> dict[str, list[Any]]:
    """Return at most nine ticks for whole layers, and one for the output."""
    last, end = int(rows["layer"].max()), int(rows["depth"].max())
    every = -(-(last + 1) // 9)
    at = [layer for layer in range(0, last + 1, every) if end == last or layer <= end - every]
    out = [end] if end > last else []
    return {"tickvals": at + out, "ticktext": [*map(str, at), *("out" for _ in out)]}


def _layer_axis(axes: Axes, drawn: Sequence[DepthLine], title: str) -> None:
    rows = pd.concat(line.rows for line in drawn)
    if len(rows):
        axes.x(**ticks(rows), range=[-0.3, float(rows["depth"].max()) + 0.3])
    axes.x(title={"text": title})


def sentences_and_tokens(run: ConeRun) -> Figure | None:
    """Return the mean cosine of sentences, pooled in every way, and of tokens; below, the gap (E1 and E2)."""
    styles, token = looks(list(POOLINGS)), Look(INK, "x", SYMBOLS[5][1], "dash")
    panels, readings = [], []
    for model in run.displayed:
        upper = []
        for mode, look in styles.items():
            is_own = mode == model.pooling
            rows = run.of(model, "mean_cosine", pooling="" if is_own else mode)
            upper.append(DepthLine(POOLINGS[mode], rows, look, 2.8 if is_own else 1.2, is_own))
        upper.append(DepthLine("tokens", run.of(model, "mean_cosine", "token"), token, 2.0))
        lower = [DepthLine("gap", run.of(model, "cone_gap"), styles[model.pooling], 2.2)]
        panels.append(DepthPanels(model, upper, lower))
        readings.append(_gap_reading(panels[-1]))
    if not panels:
        return None
    return Figure(
        "Sentences against tokens",
        _plot(panels, {**{POOLINGS[mode]: look for mode, look in styles.items()}, "tokens": token}),
        "Top: cosine of two sentence vectors taken at random, for every way of pooling (bold: the model's own), "
        "and of two tokens of the same sentences (black, dashed). Bottom: the gap, sentences less tokens.",
        " ".join(readings),
        f"{DEPTHS} All pairs, not centred. Bands: 95 % interval, of the gap by resampling sentences.",
    )


def _gap_reading(panels: DepthPanels) -> str:
    sentences = next(line.rows for line in panels.upper if line.is_banded)
    tokens, gap = panels.upper[-1].rows, panels.lower[0].rows
    if sentences.empty or tokens.empty or gap.empty:
        return ""
    last, end = int(sentences["layer"].max()), int(sentences["depth"].max())
    parts = []
    for name, depth in (
        (f"middle layer ({last // 2})", last // 2),
        (f"last ({last})" if end == last else "output", end),
    ):
        cosine, other, apart = (rows[rows["depth"] == depth].iloc[0] for rows in (sentences, tokens, gap))
        values = f"{number(cosine['value'])} against {number(other['value'])}"
        parts.append(f"{name} {values}, gap {estimate(apart, 'undefined')}")
    return f"{panels.model.name}: {'; '.join(parts)}."


def by_corpus(run: ConeRun) -> Figure | None:
    """Return the same for every corpus, in the model's own pooling."""
    if len(run.corpora) < 2:
        return None
    styles = looks(run.corpora)
    panels = []
    for model in run.displayed:
        upper, lower = (
            [DepthLine(name, run.of(model, metric, **where_corpus(name)), look) for name, look in styles.items()]
            for metric in ("mean_cosine", "cone_gap")
        )
        panels.append(DepthPanels(model, upper, lower))
    return Figure(
        "Corpus by corpus",
        _plot(panels, styles),
        "The mean cosine of sentence vectors and its gap to the tokens, for every corpus.",
        "",
        f"{DEPTHS} The model's own pooling. Bands: 95 % interval.",
    )


def _plot(panels: Sequence[DepthPanels], styles: Looks) -> go.Figure:
    """Draw two panels for each model, one above the other; models side by side, four in a row."""
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    titles = [""] * (2 * rows * columns)
    cells = [(2 * (i // columns), i % columns) for i in range(rows * columns)]
    for (row, col), (model, _, _) in zip(cells, panels, strict=False):
        titles[row * columns + col] = panel_title(model.name, width=34)
    canvas = Canvas(2 * rows, columns, titles, panel=200, gap=58, top=88)
    for (row, col), (_, upper, lower) in zip(cells, panels, strict=False):
        for axes, drawn, title in ((canvas[row, col], upper, "mean cosine"), (canvas[row + 1, col], lower, "gap")):
            for line in drawn:
                draw_line(axes, line)
            _layer_axis(axes, drawn, "layer" if drawn is lower else "")
            axes.y(zeroline=True, zerolinecolor=SOFT, zerolinewidth=1)
            if col == 0:
                axes.y(title={"text": title})
    for row, col in cells[len(panels) :]:
        canvas[row, col].hide()
        canvas[row + 1, col].hide()
    canvas.legend(styles)
    return canvas.figure()


def similarity(run: ConeRun) -> Figure | None:
    """Return how early the final similarities are there, and how they agree with scores."""
    panels = [
        ("similarity_preservation", "with the last layer's similarities", "Spearman correlation"),
        ("spearman", "with the scores of the pairs", "Spearman correlation \N{MULTIPLICATION SIGN} 100"),
    ]
    panels = [panel for panel in panels if (run.rows["metric"] == panel[0]).any()]
    if not panels:
        return None
    styles = looks([model.name for model in run.displayed])
    canvas = Canvas.grid([panel_title(title) for _, title, _ in panels], panel=240, top=84, between=0.07)
    for axes, (metric, _, title) in zip(canvas.panels, panels, strict=True):
        drawn = [DepthLine(model.name, run.of(model, metric), styles[model.name]) for model in run.displayed]
        for line in drawn:
            draw_line(axes, line)
        _layer_axis(axes, drawn, "layer")
        axes.y(title={"text": title})
    canvas.legend(styles)
    last = [(model.name, run.final(model, "spearman")) for model in run.displayed]
    scores = "; ".join(f"{name} {estimate(row, 'undefined')}" for name, row in last if row is not None)
    return Figure(
        "Similarity, layer by layer",
        canvas.figure(),
        "Left: whether sentences that are similar at the end are close already. Rank correlation of all pairwise "
        "cosines at a layer with those of the last.",
        f"Against the scores, last layer: {scores}." if scores else "",
        f"{DEPTHS} The model's own pooling, nothing subtracted. "
        "Bands: 95 % interval over resampled sentences or pairs.",
    )
