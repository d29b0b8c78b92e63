"""Sentence vectors: over the layers, against tokens, by corpus, how early similarities are there; transforms."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics.report.blocks import Figure
from dynamics.report.effects import Effect
from dynamics.report.names import estimate, number
from dynamics.report.plot import lines
from dynamics.report.plot.canvas import Axes, Canvas
from dynamics.report.plot.style import ARMS, INK, SOFT, SYMBOLS, Look, Looks, looks, panel_title, plain
from dynamics.report.sections.cone.runs import ConeModel, ConeRun

COLUMNS, TIMES = 4, "\N{MULTIPLICATION SIGN}"
DEPTHS = "Layer 0 = embeddings, 1..L = residual stream after each block; 'out' = what the model returns, where that "
DEPTHS += "is more: after a final norm and, for sentences, its dense layers. Layer 0 sets no axis."
TRANSFORMS = ("", "centred", "all-but-the-top", "whitened")
POOLINGS = {"mean": "mean pooling", "cls": "first token (cls)", "last": "last token", "max": "maximum"}
SIMILARITIES = (  # metric, title and axis of the panels
    ("similarity_preservation", "with the last layer's similarities", "Spearman correlation"),
    ("spearman", "with the scores of the pairs", f"Spearman correlation {TIMES} 100"),
)


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
    for line in drawn:
        draw_line(axes, line)
    rows = pd.concat(line.rows for line in drawn)
    if len(rows):
        axes.x(**ticks(rows), range=[-0.3, float(rows["depth"].max()) + 0.3])
    axes.x(title={"text": title})
    axes.start = 0.5


def sentences_and_tokens(run: ConeRun) -> Figure | None:
    """Return the mean cosine of sentences, pooled in every way, and of tokens; below, the gap (E1 and E2)."""
    if not run.displayed:
        return None
    styles, token = looks([*POOLINGS.values()]), Look(INK, "x", SYMBOLS[5][1], "dash")
    panels: list[DepthPanels] = []
    for model in run.displayed:
        upper = []
        for mode, name in POOLINGS.items():
            is_own = mode == model.pooling
            rows = run.of(model, "mean_cosine", pooling="" if is_own else mode)
            upper.append(DepthLine(name, rows, styles[name], 2.8 if is_own else 1.2, is_own))
        upper.append(DepthLine("tokens", run.of(model, "mean_cosine", "token"), token, 2.0))
        gap = DepthLine("gap", run.of(model, "cone_gap"), styles[POOLINGS[model.pooling]], 2.2)
        panels.append((model, upper, [gap]))
    figure = _plot(panels, styles | {"tokens": token})
    meaning = "Top: cosine of two sentence vectors taken at random, for every way of pooling (bold: the model's own), "
    meaning += "and of two tokens of the same sentences (black, dashed). Bottom: the gap, sentences less tokens."
    reading = " ".join(_gap_reading(*panel) for panel in panels)
    caption = f"{DEPTHS} All pairs, not centred. Bands: 95 % interval, of the gap by resampling sentences."
    data = run.having("mean_cosine", "cone_gap")
    return Figure("Sentences against tokens", figure, meaning, reading, caption, data=data[data["transform"] == ""])


def _gap_reading(model: ConeModel, upper: Sequence[DepthLine], lower: Sequence[DepthLine]) -> str:
    sentences = next(line.rows for line in upper if line.is_banded)
    tables = sentences, upper[-1].rows, lower[0].rows
    if any(rows.empty for rows in tables):
        return ""
    last, end = int(sentences["layer"].max()), int(sentences["depth"].max())
    depths = {f"middle layer ({last // 2})": last // 2, f"last ({last})" if end == last else "output": end}
    parts = []
    for name, depth in depths.items():
        cosine, other, gap = (rows[rows["depth"] == depth].iloc[0] for rows in tables)
        values = f"{number(cosine['value'])} against {number(other['value'])}"
        parts.append(f"{name} {values}, gap {estimate(gap, 'undefined')}")
    return f"{model.name}: {'; '.join(parts)}."


def finding(run: ConeRun, model: ConeModel) -> str:
    """Return whether sentences lie in a narrower cone than their tokens, in a sentence; empty where unknown."""
    gap = run.final(model, "cone_gap")
    if gap is None or not np.isfinite(gap["value"]):
        return ""
    effect = Effect(*gap[["value", "low", "high"]].astype(float))
    kind = "narrower" if effect.value > 0 else "wider"
    says = f"a {kind} cone than its tokens" if effect.is_clear else "no cone that can be told from its tokens'"
    return f"{model.name}: its sentence vectors lie in {says}: a gap of mean cosines of {effect.text}."


def by_corpus(run: ConeRun) -> Figure | None:
    """Return the same for every corpus, in the model's own pooling."""
    if len(run.corpora) < 2:
        return None
    styles, panels = looks(run.corpora), []
    for model in run.displayed:
        upper, lower = (
            [DepthLine(name, run.of(model, metric, corpus=name), look) for name, look in styles.items()]
            for metric in ("mean_cosine", "cone_gap")
        )
        panels.append((model, upper, lower))
    meaning = "The mean cosine of sentence vectors and its gap to the tokens, for every corpus."
    caption = f"{DEPTHS} The model's own pooling. Bands: 95 % interval."
    data = run.having("mean_cosine", "cone_gap")
    data = data[(data["transform"] == "") & (data["pooling"] == "")]
    return Figure("Corpus by corpus", _plot(panels, styles), meaning, caption=caption, data=data)


def _plot(panels: Sequence[DepthPanels], styles: Looks) -> go.Figure:
    """Draw two panels for each model, one above the other; models side by side, four in a row."""
    columns, titles = min(COLUMNS, len(panels)), list[str]()
    for start in range(0, len(panels), columns):
        names = [panel_title(model.name, width=34) for model, _, _ in panels[start : start + columns]]
        titles += names + [""] * (2 * columns - len(names))
    canvas = Canvas(len(titles) // columns, columns, titles, panel=200, gap=58, top=88)
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
    return canvas.figure(styles)


def similarity(run: ConeRun) -> Figure | None:
    """Return how early the final similarities are there, and how they agree with scores."""
    panels = [panel for panel in SIMILARITIES if (run.rows["metric"] == panel[0]).any()]
    if not panels:
        return None
    data = run.having(*(metric for metric, _, _ in panels))
    styles = looks([model.name for model in run.displayed])
    canvas = Canvas.grid([panel_title(title) for _, title, _ in panels], panel=240, top=84, between=0.07)
    for axes, (metric, _, title) in zip(canvas.panels, panels, strict=True):
        _panel(axes, [DepthLine(model.name, run.of(model, metric), styles[model.name]) for model in run.displayed])
        axes.y(title={"text": title})
    last = [(model.name, run.final(model, "spearman")) for model in run.displayed]
    scores = "; ".join(f"{name} {estimate(row, 'undefined')}" for name, row in last if row is not None)
    meaning = "Left: whether sentences that are similar at the end are close already. Rank correlation of all pairwise "
    meaning += "cosines at a layer with those of the last."
    reading = f"Against the scores, last layer: {scores}." if scores else ""
    caption = f"{DEPTHS} The model's own pooling, nothing subtracted. Bands: 95 % interval over resampled sentences or "
    caption += "pairs."
    return Figure("Similarity, layer by layer", canvas.figure(styles), meaning, reading, caption, data=data)


def transforms(run: ConeRun) -> list[Figure]:
    """Return what transforms change, a figure for each model; all but the first wait for a click."""
    figures = [figure for model in run.displayed if (figure := _transforms(run, model))]
    return [*figures[:1], *(figure.folded() for figure in figures[1:])]


def _transforms(run: ConeRun, model: ConeModel) -> Figure | None:
    rows = run.rows[(run.rows["subject"] == model.subject) & (run.rows["site"] == "sentence")]
    if (rows["transform"] == "").all():
        return None
    last = rows[rows["depth"] == rows["depth"].max()]
    cosines = last[(last["metric"] == "mean_cosine") & (last["pooling"] == "") & (last["corpus"] == "")]
    scores = last[last["metric"] == "spearman"]
    panels = {"mean cosine": cosines, **({f"Spearman correlation {TIMES} 100": scores} if len(scores) else {})}
    places = pd.concat(panels.values())[["transform", "fitted"]].drop_duplicates().itertuples(index=False, name=None)
    ordered = sorted(places, key=lambda place: (TRANSFORMS.index(place[0]), place[1] != "own", place[1]))
    sources = {f"model:{model.subject}": model.name for model in run.models}
    names = {}
    for transform, fitted in ordered:
        source = "" if fitted == "own" else f", from {sources.get(fitted, fitted.partition(':')[2])}"
        names[transform, fitted] = plain(f"{transform}{source}") if transform else "as they are"
    labels, height = list(names.values()), max(120, 24 * len(names))
    canvas = Canvas(1, len(panels), [panel_title(title) for title in panels], panel=height, top=70, between=0.03)
    for axes, part in zip(canvas.panels, panels.values(), strict=True):
        for (transform, fitted), row in part.drop_duplicates(["transform", "fitted"]).groupby(["transform", "fitted"]):
            kind, is_own = TRANSFORMS.index(transform), fitted in ("", "own")
            colour, symbol = ARMS[kind - 1] if kind else INK, SYMBOLS[kind][0] + ("" if is_own else "-open")
            marker = {"color": colour, "symbol": symbol, "size": 9, "line": {"width": 1.8, "color": colour}}
            bars, label = lines.error_bars(row, colour), names[transform, fitted]
            lines.line(axes, row["value"], [label], f"{label}: %{{x:.4g}}", mode="markers", error_x=bars, marker=marker)
        raw = part[part["transform"] == ""]
        if len(raw):
            lines.dotted(axes, [raw["value"].iloc[0]] * 2, [labels[0], labels[-1]])
    canvas[0, 0].y(type="category", categoryorder="array", categoryarray=labels[::-1], automargin=True)
    canvas.set(margin={"l": 250, "r": 16, "t": 70, "b": 46})
    meaning = "Each transform fitted on the sentences that it is applied to (filled), or on another corpus or model "
    meaning += "(open): dotted, the vectors as they are."
    caption = "Centred: less the mean. All-but-the-top: also without the leading principal components (a hundredth of "
    caption += "the width unless set). Whitened: principal components of equal variance, as many as a quarter of the "
    caption += "sentences fitted on. Bars: 95 % interval over resampled sentences or pairs, the fit held fixed. Fitted "
    caption += "on themselves, vectors have a mean cosine near 0 by construction."
    title, reading = f"What centring changes: {model.name}", _transforms_reading(run, model)
    return Figure(title, canvas.figure(), meaning, reading, caption, data=pd.concat(panels.values()))


def _transforms_reading(run: ConeRun, model: ConeModel) -> str:
    parts = []
    for transform in TRANSFORMS[1:]:
        score = run.final(model, "spearman", transform=transform, fitted="own")
        change = run.final(model, "spearman_change", transform=transform, fitted="own")
        if score is not None and change is not None:
            parts.append(f"{transform} {estimate(score, 'undefined')}, a change of {estimate(change, 'undefined')}")
    raw = estimate(run.final(model, "spearman"), "undefined")
    return f"Spearman {TIMES} 100 as they are {raw}; {'; '.join(parts)}." if parts else ""
