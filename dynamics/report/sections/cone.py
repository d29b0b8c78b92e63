"""What a cone shows: sentences against tokens over depth, the axes, what transforms change.

Pure: frames and `run.json` in, plotly figures out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dynamics.report.drawn import Drawn
from dynamics.report.names import number
from dynamics.report.plot.canvas import Canvas, Cell
from dynamics.report.plot.style import ARMS, INK, SOFT, SYMBOLS, Look, looks, plain
from dynamics.report.sections.cone_axes import COLUMNS, axes, turning
from dynamics.report.sections.cone_lines import DEPTHS, Line, draw_legend, draw_line, layer_axis
from dynamics.report.sections.cone_runs import MAIN, Cone, Model, between

POOLINGS = {"mean": "mean pooling", "cls": "first token (cls)", "last": "last token", "max": "maximum"}
TRANSFORMS = ("none", "centred", "all-but-the-top", "whitened")


def drawn(cone: Cone) -> list[Drawn]:
    """The figures of a run, in the order of the experiments: those above the cards of the axes."""
    made = [_depth(cone), _corpora(cone)]
    return [one for one in made if one]


def compared(cone: Cone) -> list[Drawn]:
    """The figures below the cards: axes against axes, and what transforms buy."""
    made = [axes(cone), *turning(cone), _similarity(cone)]
    transforms = [_transforms(cone, model) for model in cone.shown]
    found = [one for one in transforms if one]
    if len(found) > 1:
        found = [found[0], *(one._replace(folded=True) for one in found[1:])]
    return [one for one in made if one] + found


def _depth(cone: Cone) -> Drawn | None:
    """E1 and E2: mean cosine of sentences, pooled in every way, and of tokens; below, the gap."""
    own_look = looks(list(POOLINGS))
    token = Look(INK, "x", SYMBOLS[5][1], "dash")
    panels, told = [], []
    for model in cone.shown:
        lines = []
        for mode, look in own_look.items():
            mine = mode == model.pooling
            rows = cone.of(model, "mean_cosine", pooling="" if mine else mode)
            rows = rows[rows["site"] == "sentence"]
            lines.append(Line(POOLINGS[mode], rows, look, 2.8 if mine else 1.2, mine))
        tokens = cone.of(model, "mean_cosine")
        tokens = tokens[tokens["site"] == "token"]
        lines.append(Line("tokens", tokens, token, 2.0, True))
        gap = cone.of(model, "cone_gap")
        panels.append((model, lines, [Line("gap", gap, own_look[model.pooling], 2.2, True)]))
        told.append(_told_gap(model, lines, gap))
    if not panels:
        return None
    names = [*POOLINGS.values(), "tokens"]
    legend = dict(zip(names, [*own_look.values(), token], strict=True))
    return Drawn(
        "Sentences against tokens",
        _over_depth(panels, "mean cosine", "gap", legend),
        "Top: cosine of two sentence vectors taken at random, for every way of pooling (bold: the model's own), "
        "and of two tokens of the same sentences (black, dashed). Bottom: the gap, sentences less tokens.",
        " ".join(told),
        f"{DEPTHS} All pairs, not centred. Bands: 95 % interval, of the gap by resampling sentences.",
    )


def _told_gap(model: Model, lines: Sequence[Line], gap: pd.DataFrame) -> str:
    own = next(line.rows for line in lines if line.banded)
    tokens = lines[-1].rows
    if own.empty or tokens.empty or gap.empty:
        return ""
    last, end = int(own["layer"].max()), int(own["depth"].max())
    parts = []
    ends = f"last ({last})" if end == last else "output"
    for what, depth in ((f"middle layer ({last // 2})", last // 2), (ends, end)):
        one, other, apart = (rows[rows["depth"] == depth].iloc[0] for rows in (own, tokens, gap))
        parts.append(f"{what} {number(one['value'])} against {number(other['value'])}, gap {between(apart)}")
    return f"{model.name}: {'; '.join(parts)}."


def _corpora(cone: Cone) -> Drawn | None:
    """The same for every corpus, in the model's own pooling."""
    if len(cone.corpora) < 2:
        return None
    look = looks(cone.corpora)
    panels = []
    for model in cone.shown:
        both: dict[str, list[Line]] = {}
        for metric in ("mean_cosine", "cone_gap"):
            found = {name: cone.of(model, metric, corpus="" if name == MAIN else name) for name in look}
            both[metric] = [
                Line(name, rows[rows["site"] == "sentence"], look[name], 1.8, True) for name, rows in found.items()
            ]
        panels.append((model, both["mean_cosine"], both["cone_gap"]))
    return Drawn(
        "Corpus by corpus",
        _over_depth(panels, "mean cosine", "gap", look),
        "The mean cosine of sentence vectors and its gap to the tokens, for every corpus.",
        "",
        f"{DEPTHS} The model's own pooling. Bands: 95 % interval.",
    )


def _over_depth(
    panels: Sequence[tuple[Model, list[Line], list[Line]]], top: str, bottom: str, legend: dict[str, Look]
) -> Any:
    """Two panels a model, one above the other; models side by side, four in a row."""
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    titles = [""] * (2 * lines * columns)
    for i, (model, _, _) in enumerate(panels):
        titles[(i // columns) * 2 * columns + i % columns] = f"<b>{plain(model.name, 34)}</b>"
    canvas = Canvas(2 * lines, columns, titles, panel=200, gap=58, top=88, lift=40)
    for i, (_, upper, lower) in enumerate(panels):
        row, col = 2 * (i // columns), i % columns
        for cell, shown, title in (((row, col), upper, top), ((row + 1, col), lower, bottom)):
            for line in shown:
                draw_line(canvas, cell, line)
            layer_axis(canvas, cell, pd.concat(line.rows for line in shown))
            if col == 0:
                canvas.y(cell, title={"text": title})
            canvas.y(cell, zeroline=True, zerolinecolor=SOFT, zerolinewidth=1)
        canvas.x((row + 1, col), title={"text": "layer"})
    for i in range(len(panels), lines * columns):
        for row in (2 * (i // columns), 2 * (i // columns) + 1):
            canvas.x((row, i % columns), visible=False)
            canvas.y((row, i % columns), visible=False)
    draw_legend(canvas, legend)
    return canvas.figure()


def _similarity(cone: Cone) -> Drawn | None:
    """How early the final similarities are there, and how they agree with scores."""
    panels = [
        ("similarity_preservation", "with the last layer's similarities", "Spearman correlation"),
        ("spearman", "with the scores of the pairs", "Spearman correlation \N{MULTIPLICATION SIGN} 100"),
    ]
    look = looks([model.name for model in cone.shown])
    shown = [panel for panel in panels if (cone.rows["metric"] == panel[0]).any()]
    if not shown:
        return None
    titles = [f"<b>{title}</b>" for _, title, _ in shown]
    canvas = Canvas(1, len(shown), titles, panel=240, top=84, between=0.07, share_y=False, lift=34)
    for col, (metric, _, axis) in enumerate(shown):
        rows = [(model, cone.of(model, metric)) for model in cone.shown]
        for model, mine in rows:
            draw_line(canvas, (0, col), Line(model.name, mine, look[model.name], 1.8, True))
        layer_axis(canvas, (0, col), pd.concat(mine for _, mine in rows))
        canvas.x((0, col), title={"text": "layer"})
        canvas.y((0, col), title={"text": axis})
    draw_legend(canvas, look)
    last = [(model.name, cone.final(model, "spearman")) for model in cone.shown]
    told = "; ".join(f"{name} {between(row)}" for name, row in last if row is not None)
    return Drawn(
        "Similarity, layer by layer",
        canvas.figure(),
        "Left: do sentences that are alike in the end stand close already? Rank correlation of all pairwise cosines at "
        "a layer with those of the last.",
        f"Against the scores, last layer: {told}." if told else "",
        f"{DEPTHS} It stands one place behind the model's last layer. The model's own pooling, nothing subtracted. "
        "Bands: 95 % interval over resampled sentences or pairs.",
    )


def _transforms(cone: Cone, model: Model) -> Drawn | None:
    """What each transform does to the mean cosine and to the agreement with scores."""
    mine = cone.rows[(cone.rows["subject"] == model.subject) & (cone.rows["site"] == "sentence")]
    done = mine[mine["transform"] != ""]
    if done.empty:
        return None
    last = mine[mine["depth"] == mine["depth"].max()]
    cosines = last[(last["metric"] == "mean_cosine") & (last["pooling"] == "") & (last["corpus"] == "")]
    panels = [("mean cosine", cosines)]
    scores = last[last["metric"] == "spearman"]
    if len(scores):
        panels.append(("Spearman correlation \N{MULTIPLICATION SIGN} 100", scores))
    places = pd.concat(rows for _, rows in panels)[["transform", "fitted"]].drop_duplicates()
    ordered = sorted(
        places.itertuples(index=False), key=lambda p: (TRANSFORMS.index(p[0] or "none"), p[1] != "own", p[1])
    )
    names = [_place(model, cone, transform, fitted) for transform, fitted in ordered]
    titles = [f"<b>{plain(title)}</b>" for title, _ in panels]
    canvas = Canvas(1, len(panels), titles, panel=max(120, 24 * len(names)), top=70, between=0.03)
    for col, (_, rows) in enumerate(panels):
        for i, (transform, fitted) in enumerate(ordered):
            row = rows[(rows["transform"] == transform) & (rows["fitted"] == fitted)]
            if len(row):
                _dot(canvas, (0, col), row.iloc[0], names[i], TRANSFORMS.index(transform or "none"), fitted)
        raw = rows[rows["transform"] == ""]
        if len(raw):
            level = float(raw["value"].iloc[0])
            dots = {"line": {"dash": "dot", "width": 1.2, "color": SOFT}, "hoverinfo": "skip"}
            canvas.add((0, col), type="scatter", mode="lines", x=[level] * 2, y=[names[0], names[-1]], **dots)
    canvas.y((0, 0), type="category", categoryorder="array", categoryarray=names[::-1], automargin=True)
    canvas.set(margin={"l": 250, "r": 16, "t": 70, "b": 46})
    return Drawn(
        f"What centring buys: {model.name}",
        canvas.figure(),
        "Each transform fitted on the sentences that it is applied to (filled), or on another corpus or model (open): "
        "dotted, the vectors as they are.",
        _told_transforms(cone, model),
        "Centred: less the mean. All-but-the-top: also without the leading principal components (a hundredth of the "
        "width unless told). Whitened: principal components of equal variance, as many as a quarter of the sentences "
        "fitted on. Bars: 95 % interval over resampled sentences or pairs, the fit held fixed. "
        "Fitted on themselves, vectors have a mean cosine near 0 by construction.",
    )


def _place(model: Model, cone: Cone, transform: str, fitted: str) -> str:
    if not transform:
        return "as they are"
    kind, _, source = fitted.partition(":")
    if kind == "model":
        source = next((one.name for one in cone.models if one.subject == source), source)
    return plain(transform + ("" if fitted == "own" else f", from {source}"))


def _dot(canvas: Canvas, cell: Cell, row: pd.Series, name: str, kind: int, fitted: str) -> None:
    colour = INK if not row["transform"] else ARMS[kind - 1]
    symbol = SYMBOLS[kind][0] + ("" if fitted in ("", "own") else "-open")
    low, high = row["value"] - row["low"], row["high"] - row["value"]
    canvas.add(
        cell,
        type="scatter",
        mode="markers",
        x=[row["value"]],
        y=[name],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high if np.isfinite(high) else 0],
            "arrayminus": [low if np.isfinite(low) else 0],
            **{"thickness": 1.4, "width": 4, "color": colour},
        },
        marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 1.8, "color": colour}},
        hovertemplate=f"{name}: %{{x:.4g}}<extra></extra>",
    )


def _told_transforms(cone: Cone, model: Model) -> str:
    told = []
    for transform in TRANSFORMS[1:]:
        after = cone.final(model, "spearman", transform=transform, fitted="own")
        change = cone.final(model, "spearman_change", transform=transform, fitted="own")
        if after is not None and change is not None:
            told.append(f"{transform} {between(after)}, a change of {between(change)}")
    raw = cone.final(model, "spearman")
    return f"Spearman \N{MULTIPLICATION SIGN} 100 as they are {between(raw)}; {'; '.join(told)}." if told else ""
