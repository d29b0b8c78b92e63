"""What each transform of sentence vectors does to their mean cosine and to the agreement with scores."""

import pandas as pd

from dynamics.report.figure import Figure
from dynamics.report.names import estimate
from dynamics.report.plot import lines
from dynamics.report.plot.canvas import Canvas
from dynamics.report.plot.style import ARMS, INK, SYMBOLS, panel_title, plain
from dynamics.report.sections.cone.runs import ConeModel, ConeRun

TRANSFORMS = ("", "centred", "all-but-the-top", "whitened")


def transforms(run: ConeRun) -> list[Figure]:
    """Return a figure for each model; all but the first wait for a click."""
    figures = [figure for model in run.displayed if (figure := _figure(run, model))]
    return [*figures[:1], *(figure.folded() for figure in figures[1:])]


def _figure(run: ConeRun, model: ConeModel) -> Figure | None:
    rows = run.rows[(run.rows["subject"] == model.subject) & (run.rows["site"] == "sentence")]
    if (rows["transform"] == "").all():
        return None
    last = rows[rows["depth"] == rows["depth"].max()]
    cosines = last[(last["metric"] == "mean_cosine") & (last["pooling"] == "") & (last["corpus"] == "")]
    scores = last[last["metric"] == "spearman"]
    panels = {"mean cosine": cosines}
    panels |= {"Spearman correlation \N{MULTIPLICATION SIGN} 100": scores} if len(scores) else {}
    places = pd.concat(panels.values())[["transform", "fitted"]].drop_duplicates().itertuples(index=False, name=None)
    ordered = sorted(places, key=lambda place: (TRANSFORMS.index(place[0]), place[1] != "own", place[1]))
    names = {place: _name(run, *place) for place in ordered}
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
    return Figure(
        f"What centring changes: {model.name}",
        canvas.figure(),
        "Each transform fitted on the sentences that it is applied to (filled), or on another corpus or model (open): "
        "dotted, the vectors as they are.",
        _reading(run, model),
        "Centred: less the mean. All-but-the-top: also without the leading principal components (a hundredth of the "
        "width unless set). Whitened: principal components of equal variance, as many as a quarter of the sentences "
        "fitted on. Bars: 95 % interval over resampled sentences or pairs, the fit held fixed. "
        "Fitted on themselves, vectors have a mean cosine near 0 by construction.",
    )


def _name(run: ConeRun, transform: str, fitted: str) -> str:
    if not transform:
        return "as they are"
    kind, _, source = fitted.partition(":")
    if kind == "model":
        source = next((model.name for model in run.models if model.subject == source), source)
    return plain(transform + ("" if fitted == "own" else f", from {source}"))


def _reading(run: ConeRun, model: ConeModel) -> str:
    parts = []
    for transform in TRANSFORMS[1:]:
        score, change = (
            run.final(model, m, transform=transform, fitted="own") for m in ("spearman", "spearman_change")
        )
        if score is not None and change is not None:
            parts.append(f"{transform} {estimate(score, 'undefined')}, a change of {estimate(change, 'undefined')}")
    raw = run.estimate(model, "spearman")
    return f"Spearman \N{MULTIPLICATION SIGN} 100 as they are {raw}; {'; '.join(parts)}." if parts else ""
