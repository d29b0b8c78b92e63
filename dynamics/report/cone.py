"""What a cone shows: sentences against tokens over depth, the axes, what transforms change.

Pure: frames and `run.json` in, plotly figures out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dynamics.report.canvas import Canvas, Cell
from dynamics.report.cone_runs import MAIN, Cone, Model, between
from dynamics.report.drawn import Drawn
from dynamics.report.names import number
from dynamics.report.style import ARMS, INK, MAGNITUDE, SOFT, SYMBOLS, Look, Scale, looks, plain

POOLINGS = {"mean": "mean pooling", "cls": "first token (cls)", "last": "last token", "max": "maximum"}
TRANSFORMS = ("none", "centred", "all-but-the-top", "whitened")
COLUMNS = 4
DEPTHS = "Layer 0 = embeddings, 1..L = residual stream after each block; 'norm' = after a final norm, if any."


class _Line(NamedTuple):
    """One line of a panel over depth."""

    name: str
    rows: pd.DataFrame
    look: Look
    width: float
    banded: bool


def drawn(cone: Cone) -> list[Drawn]:
    """The figures of a run, in the order of the experiments: those above the cards of the axes."""
    made = [_depth(cone), _corpora(cone)]
    return [one for one in made if one]


def compared(cone: Cone) -> list[Drawn]:
    """The figures below the cards: axes against axes, and what transforms buy."""
    made = [_axes(cone), *_turning(cone), _similarity(cone)]
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
            lines.append(_Line(POOLINGS[mode], rows, look, 2.8 if mine else 1.2, mine))
        tokens = cone.of(model, "mean_cosine")
        tokens = tokens[tokens["site"] == "token"]
        lines.append(_Line("tokens", tokens, token, 2.0, True))
        gap = cone.of(model, "cone_gap")
        panels.append((model, lines, [_Line("gap", gap, own_look[model.pooling], 2.2, True)]))
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


def _told_gap(model: Model, lines: Sequence[_Line], gap: pd.DataFrame) -> str:
    own = next(line.rows for line in lines if line.banded)
    tokens = lines[-1].rows
    if own.empty or tokens.empty or gap.empty:
        return ""
    last, end = int(own["layer"].max()), int(own["depth"].max())
    parts = []
    ends = f"last ({last})" if end == last else "after the norm"
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
        both: dict[str, list[_Line]] = {}
        for metric in ("mean_cosine", "cone_gap"):
            found = {name: cone.of(model, metric, corpus="" if name == MAIN else name) for name in look}
            both[metric] = [
                _Line(name, rows[rows["site"] == "sentence"], look[name], 1.8, True)
                for name, rows in found.items()
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
    panels: Sequence[tuple[Model, list[_Line], list[_Line]]], top: str, bottom: str, legend: dict[str, Look]
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
                _line(canvas, cell, line)
            _layers(canvas, cell, pd.concat(line.rows for line in shown))
            if col == 0:
                canvas.y(cell, title={"text": title})
            canvas.y(cell, zeroline=True, zerolinecolor=SOFT, zerolinewidth=1)
        canvas.x((row + 1, col), title={"text": "layer"})
    for i in range(len(panels), lines * columns):
        for row in (2 * (i // columns), 2 * (i // columns) + 1):
            canvas.x((row, i % columns), visible=False)
            canvas.y((row, i % columns), visible=False)
    _legend(canvas, legend)
    return canvas.figure()


def _line(canvas: Canvas, cell: Cell, line: _Line) -> None:
    rows, name = line.rows, plain(line.name)
    known = rows[np.isfinite(rows["low"]) & np.isfinite(rows["high"])]
    if line.banded and len(known) > 1:
        x = [*known["depth"], *known["depth"][::-1]]
        y = [*known["high"], *known["low"][::-1]]
        fill = {"fill": "toself", "fillcolor": line.look.faint, "line": {"width": 0}, "hoverinfo": "skip"}
        canvas.add(cell, type="scatter", mode="lines", x=x, y=y, **fill)
    canvas.add(
        cell,
        type="scatter",
        mode="lines+markers",
        x=rows["depth"].to_numpy(),
        y=rows["value"].to_numpy(),
        line=line.look.line(line.width),
        marker=line.look.marker(3.5 + line.width),
        hovertemplate=f"{name}, %{{x}}: %{{y:.4g}}<extra></extra>",
    )


def _layers(canvas: Canvas, cell: Cell, rows: pd.DataFrame) -> None:
    """Whole layers as ticks, and `norm` for what follows the last."""
    if len(rows):
        canvas.x(cell, **_ticks(rows), range=[-0.3, float(rows["depth"].max()) + 0.3])


def _ticks(rows: pd.DataFrame) -> dict[str, list[Any]]:
    last, end = int(rows["layer"].max()), int(rows["depth"].max())
    every = -(-(last + 1) // 9)
    at = [layer for layer in range(0, last + 1, every) if end == last or layer <= end - every]
    norm = [end] if end > last else []
    return {"tickvals": at + norm, "ticktext": [*map(str, at), *("norm" for _ in norm)]}


def _legend(canvas: Canvas, look: dict[str, Look]) -> None:
    for name, how in look.items():
        shown = {"line": how.line(2), "marker": how.marker(7), "name": plain(name)}
        canvas.add((0, 0), type="scatter", mode="lines+markers", x=[None], y=[None], **shown, showlegend=True)
    canvas.set(showlegend=True)


def _axes(cone: Cone) -> Drawn | None:
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
    for i, (_, names, values) in enumerate(found):
        _matrix(canvas, divmod(i, columns), names, values)
    for i in range(len(found), lines * columns):
        canvas.x(divmod(i, columns), visible=False)
        canvas.y(divmod(i, columns), visible=False)
    bar = {**canvas.bar("absolute cosine, or CKA"), "tickvals": [0, 0.5, 1]}
    canvas.set(coloraxis={"colorscale": MAGNITUDE, "cmin": 0, "cmax": 1, "colorbar": bar})
    canvas.set(margin={"l": 130, "r": 90, "t": 64, "b": 90})
    figure = canvas.figure()
    figure.update_layout(height=figure.layout.height + 44)
    pairs = _told_pairs(cone)
    return Drawn(
        "Axes against axes",
        figure,
        "Absolute cosine between the axes of corpora and of models: 1 where they are one line, 0 where at right "
        "angles. On the diagonal: how well an axis agrees with itself when sentences are resampled.",
        pairs,
        "Off-diagonal cosines cannot be told from 1 any better than the diagonal is. CKA compares whole clouds of the "
        "same sentences, also of different width; it is biased upwards where sentences are not far more than the "
        "width. Blank: axes of different width.",
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
            what = f"{names[row['subject']]}, {row['corpus'] or MAIN} and {row['against_corpus']}"
        told.append(f"{what} {between(row)}")
    return f"{'; '.join(told[:8])}." if told else ""


def _matrix(canvas: Canvas, cell: Cell, names: Sequence[str], values: np.ndarray) -> None:
    labels = [plain(name, 18) for name in names]
    canvas.add(
        cell,
        type="heatmap",
        x=labels,
        y=labels,
        z=values,
        text=[[number(value) if np.isfinite(value) else "" for value in row] for row in values],
        texttemplate="%{text}",
        coloraxis="coloraxis",
        hovertemplate="%{y} and %{x}: %{z:.4g}<extra></extra>",
        xgap=2,
        ygap=2,
    )
    canvas.x(cell, showgrid=False, tickangle=0 if len(names) < 5 else 40, showline=False, ticks="")
    canvas.y(cell, showgrid=False, autorange="reversed", showline=False, ticks="")


def _turning(cone: Cone) -> list[Drawn]:
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
        _line(canvas, (0, 0), _Line(name, placed, look[name], 2.0, True))
        canvas.x((0, 0), **scale.axis("step"))
    canvas.y((0, 0), title={"text": "mean cosine"})
    told = []
    for col, ((end, rows), (name, how)) in enumerate(
        zip(ends.items(), list(look.items())[:2], strict=True), start=2
    ):
        last = rows[rows["depth"] == rows["depth"].max()].sort_values("step")
        scale = Scale.of(last["step"])
        placed = last.assign(depth=scale.place(last["step"]))
        _line(canvas, (0, 1), _Line(name, placed, how, 2.0, True))
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
        canvas.y((0, col), title={"text": "layer"}, showgrid=False, **_ticks(rows))
        edge = last.iloc[-1] if end == "first" else last.iloc[0]
        told.append(f"step {edge['step']} against the {end}: {between(edge)}")
    bar = canvas.bar("absolute cosine", 0)
    canvas.set(coloraxis={"colorscale": MAGNITUDE, "cmin": 0, "cmax": 1, "colorbar": bar})
    _legend(canvas, look)
    return Drawn(
        f"The axis turning: {series}",
        canvas.figure(),
        "How narrow the cone is at each step, and the cosine of its axis with what it was at the first step and with "
        "what it is at the last.",
        f"{'; '.join(told)}.",
        "Sentences are the same at every step; last layer: after the final norm, where there is one. Bands: 95 % "
        "interval, of two axes the basic bootstrap's. Maps: the steps are equally wide.",
    )


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
            _line(canvas, (0, col), _Line(model.name, mine, look[model.name], 1.8, True))
        _layers(canvas, (0, col), pd.concat(mine for _, mine in rows))
        canvas.x((0, col), title={"text": "layer"})
        canvas.y((0, col), title={"text": axis})
    _legend(canvas, look)
    last = [(model.name, cone.final(model, "spearman")) for model in cone.shown]
    told = "; ".join(f"{name} {between(row)}" for name, row in last if row is not None)
    return Drawn(
        "Similarity, layer by layer",
        canvas.figure(),
        "Left: do sentences that are alike in the end stand close already? Rank correlation of all pairwise cosines at "
        "a layer with those of the last.",
        f"Against the scores, last layer: {told}." if told else "",
        f"{DEPTHS} The model's own pooling, nothing subtracted. Bands: 95 % interval over resampled sentences "
        "or pairs.",
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
    return (
        f"Spearman \N{MULTIPLICATION SIGN} 100 as they are {between(raw)}; {'; '.join(told)}." if told else ""
    )
