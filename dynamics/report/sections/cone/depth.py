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


DepthPanels = tuple[ConeModel, list[DepthLine], list[DepthLine]]  # the upper and the lower panel of a model


def draw_line(axes: Axes, line: DepthLine) -> None:
    """Draw a line over `depth` with its band and its marks."""
    if line.is_banded:
        lines.band(axes, line.rows["depth"], line.rows, line.look)
    style = {"line": line.look.line(line.width), "marker": line.look.marker(3.5 + line.width)}
    lines.line(axes, line.rows["depth"], line.rows["value"], f"{plain(line.name)}, %{{x}}: %{{y:.4g}}", **style)


def ticks(rows: pd.DataFrame) -> dict[str, list[Any]]:
    """Return at most nine ticks for whole layers, and one for the output."""
    last, end = int(rows["layer"].max()), int(rows["depth"].max())
    every = -(-(last + 1) // 9)
    at = [layer for layer in range(0, last + 1, every) if end == last or layer <= end - every]
    out = [end] if end > last else []
    return {"tickvals": at + out, "ticktext": [*map(str, at), *("out" for _ in out)]}


def _panel(axes: Axes, drawn: Sequence[DepthLine], title: str = "layer") -> None:
    """Draw lines over the layers."""
    for line in drawn:
        draw_line(axes, line)
    rows = pd.concat(line.rows for line in drawn)
    if len(rows):
        axes.x(**ticks(rows), range=[-0.3, float(rows["depth"].max()) + 0.3])
    axes.x(title={"text": title})


def sentences_and_tokens(run: ConeRun) -> Figure | None:
    """Return the mean cosine of sentences, pooled in every way, and of tokens; below, the gap (E1 and E2)."""
    if not run.displayed:
        return None
    styles, token = looks(list(POOLINGS)), Look(INK, "x", SYMBOLS[5][1], "dash")
    panels: list[DepthPanels] = []
    for model in run.displayed:
        upper = []
        for mode, look in styles.items():
            is_own = mode == model.pooling
            rows = run.of(model, "mean_cosine", pooling="" if is_own else mode)
            upper.append(DepthLine(POOLINGS[mode], rows, look, 2.8 if is_own else 1.2, is_own))
        upper.append(DepthLine("tokens", run.of(model, "mean_cosine", "token"), token, 2.0))
        panels.append((model, upper, [DepthLine("gap", run.of(model, "cone_gap"), styles[model.pooling], 2.2)]))
    return Figure(
        "Sentences against tokens",
        _plot(panels, {**{POOLINGS[mode]: look for mode, look in styles.items()}, "tokens": token}),
        "Top: cosine of two sentence vectors taken at random, for every way of pooling (bold: the model's own), "
        "and of two tokens of the same sentences (black, dashed). Bottom: the gap, sentences less tokens.",
        " ".join(_gap_reading(*panel) for panel in panels),
        f"{DEPTHS} All pairs, not centred. Bands: 95 % interval, of the gap by resampling sentences.",
    )


def _gap_reading(model: ConeModel, upper: Sequence[DepthLine], lower: Sequence[DepthLine]) -> str:
    sentences = next(line.rows for line in upper if line.is_banded)
    tables = sentences, upper[-1].rows, lower[0].rows
    if any(rows.empty for rows in tables):
        return ""
    last, end = int(sentences["layer"].max()), int(sentences["depth"].max())
    parts = []
    for name, depth in (
        (f"middle layer ({last // 2})", last // 2),
        (f"last ({last})" if end == last else "output", end),
    ):
        cosine, other, gap = (rows[rows["depth"] == depth].iloc[0] for rows in tables)
        values = f"{number(cosine['value'])} against {number(other['value'])}"
        parts.append(f"{name} {values}, gap {estimate(gap, 'undefined')}")
    return f"{model.name}: {'; '.join(parts)}."


def by_corpus(run: ConeRun) -> Figure | None:
    """Return the same for every corpus, in the model's own pooling."""
    if len(run.corpora) < 2:
        return None
    styles = looks(run.corpora)

    def drawn(model: ConeModel, metric: str) -> list[DepthLine]:
        return [DepthLine(name, run.of(model, metric, **where_corpus(name)), look) for name, look in styles.items()]

    return Figure(
        "Corpus by corpus",
        _plot([(model, drawn(model, "mean_cosine"), drawn(model, "cone_gap")) for model in run.displayed], styles),
        "The mean cosine of sentence vectors and its gap to the tokens, for every corpus.",
        caption=f"{DEPTHS} The model's own pooling. Bands: 95 % interval.",
    )


def _plot(panels: Sequence[DepthPanels], styles: Looks) -> go.Figure:
    """Draw two panels for each model, one above the other; models side by side, four in a row."""
    columns, titles = min(COLUMNS, len(panels)), list[str]()
    for start in range(0, len(panels), columns):
        names = [panel_title(model.name, width=34) for model, _, _ in panels[start : start + columns]]
        titles += names + [""] * (2 * columns - len(names))
    canvas = Canvas(len(titles) // columns, columns, titles, panel=200, gap=58, top=88, lift=40)
    for axes in canvas.panels:
        i, is_lower = axes.row // 2 * columns + axes.col, axes.row % 2 == 1
        if i >= len(panels):
            axes.hide()
            continue
        _, upper, lower = panels[i]
        _panel(axes, *(lower, "layer") if is_lower else (upper, ""))
        axes.y(zeroline=True, zerolinecolor=SOFT, zerolinewidth=1)
        if axes.col == 0:
            axes.y(title={"text": "gap" if is_lower else "mean cosine"})
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
    canvas = Canvas.grid([panel_title(title) for _, title, _ in panels], panel=240, top=84, between=0.07, lift=34)
    for axes, (metric, _, title) in zip(canvas.panels, panels, strict=True):
        _panel(axes, [DepthLine(model.name, run.of(model, metric), styles[model.name]) for model in run.displayed])
        axes.y(title={"text": title})
    canvas.legend(styles)
    scored = [model for model in run.displayed if run.final(model, "spearman") is not None]
    scores = "; ".join(f"{model.name} {run.estimate(model, 'spearman')}" for model in scored)
    return Figure(
        "Similarity, layer by layer",
        canvas.figure(),
        "Left: whether sentences that are similar at the end are close already. Rank correlation of all pairwise "
        "cosines at a layer with those of the last.",
        f"Against the scores, last layer: {scores}." if scores else "",
        f"{DEPTHS} The model's own pooling, nothing subtracted. "
        "Bands: 95 % interval over resampled sentences or pairs.",
    )
