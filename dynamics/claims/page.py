"""Verdicts on claims as a page: a table, then a section with a figure for each claim. No torch here."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics.claims.judge import Judged, Judgement
from dynamics.claims.statistics import HALF_WIDTH, Effects
from dynamics.claims.table import COLOURS as VERDICTS
from dynamics.claims.table import caption, count, effect
from dynamics.report import page
from dynamics.report.blocks import Compared, Figure, PageBlock, Section, Table, TableRow, Text
from dynamics.report.names import capital, estimate
from dynamics.report.plot import lines
from dynamics.report.plot.canvas import Axes, Canvas
from dynamics.report.plot.style import INK, looks, plain
from dynamics.report.study import Study

POINT, MEAN = looks(["unit", "mean"]).values()
ROW = 22  # pixels for each unit


def write(study: Study, judgements: Sequence[Judgement], out: Path) -> Path:
    """Write the page of verdicts on the claims to a file."""
    return page.save(html(study, judgements).encode(), out)


def html(study: Study, judgements: Sequence[Judgement]) -> str:
    """Return the page as text."""
    styles = looks(study.arm_names)
    compared = [Compared(arm.name, arm.about, arm.runs, styles[arm.name]) for arm in study.arms]
    named = {run for arm in study.arms for run in arm.runs}
    compared += [Compared(run, info.kind) for run, info in study.runs.items() if run not in named]
    findings = [f"{capital(verdict)}: {', '.join(ids)}." for verdict in VERDICTS if (ids := _ids(judgements, verdict))]
    notes = [*study.skipped, caption(judgements)]
    title = "Claims, judged by data"
    return page.render(title, title, compared, findings, notes, [_table(judgements)], [*map(_section, judgements)])


def _ids(judgements: Sequence[Judgement], verdict: str) -> list[str]:
    return [one.claim.id for one in judgements if one.verdict == verdict]


def _table(judgements: Sequence[Judgement]) -> Table:
    rows = [
        TableRow(one.claim.id, (one.verdict, effect(one), count(one), one.claim.statement, one.reason))
        for one in judgements
    ]
    return Table(("verdict", "effect", "n", "claim", "beside it"), rows, "Verdicts")


def _section(one: Judgement) -> Section:
    claim = one.claim
    measured = [judged for judged in one.judged if judged.outcome is not None]
    blocks: list[PageBlock] = [Text(f"{capital(one.verdict)}. {one.reason}")]
    if measured and not one.missing:
        readings = "; ".join(judged.text for judged in measured)
        words = f"Points: {one.population}, with their sampling errors; last: the mean with its 95 % interval. "
        words += f"Dotted: the threshold. p = {one.corrected:.2g} after correction."
        meaning = f"{capital(claim.quantity)}."
        blocks.append(Figure(claim.id, _plot(measured), meaning, f"{capital(readings)}.", words, data=_data(measured)))
    rules = [f"{c.rule} ({c.role}; {c.threshold.why})" for c in claim.criteria]
    blocks.append(Text(f"Source: {claim.source}. Rule: {'; '.join(rules)}. Needs: {claim.needs}.", is_soft=True))
    more = f"Cannot hold with {', '.join(claim.opposes)}. " if claim.opposes else ""
    blocks += [Text(more + claim.note, is_soft=True)] if more + claim.note else []
    return Section(f"{claim.id}: {claim.statement}", claim.anchor, claim.id, blocks)


def points(effects: Effects) -> pd.DataFrame:
    """Return the units of a criterion with the interval of their sampling error; of two groups, against the other."""
    groups = [effects.units, effects.against or {}]
    means = [float(np.mean([v.value for v in group.values()])) if group else 0.0 for group in groups]
    rows = [
        (unit, sign * (v.value - other), HALF_WIDTH * v.error)
        for group, other, sign in zip(groups, means[::-1], (1, -1), strict=True)
        for unit, v in sorted(group.items())
    ]
    table = pd.DataFrame(rows, columns=["unit", "value", "half"])
    return table.assign(low=table["value"] - table["half"], high=table["value"] + table["half"]).drop(columns="half")


def _data(measured: Sequence[Judged]) -> pd.DataFrame:
    tables = [points(one.effects).assign(criterion=one.criterion.effect) for one in measured if one.effects]
    return pd.concat(tables, ignore_index=True)


def _plot(measured: Sequence[Judged]) -> go.Figure:
    titles = [plain(one.criterion.effect, 44) for one in measured]
    most = max(one.effects.n for one in measured if one.effects)
    canvas = Canvas.grid(titles, 3, panel=ROW * (most + 2), gap=110, top=70, between=0.12)
    for axes, one in zip(canvas.panels, measured, strict=False):
        _panel(axes, one)
    return canvas.figure()


def _panel(axes: Axes, one: Judged) -> None:
    if one.effects is None or one.outcome is None:
        return
    units, found = points(one.effects), one.outcome
    y = np.arange(len(units), 0, -1)
    total = pd.DataFrame([{"value": found.effect, "low": found.low, "high": found.high}])
    for rows, at, look, size in ((units, y, POINT, 6), (total, np.array([0]), MEAN, 9)):
        style = {"marker": look.marker(size), "error_x": lines.error_bars(rows, look.colour), "mode": "markers"}
        lines.line(axes, rows["value"], at, "%{x:.4g}", **style)
    edges = [-0.7, len(units) + 0.7]
    axes.y(tickvals=[*y, 0], ticktext=[*(plain(str(u)) for u in units["unit"]), "mean"], range=edges)
    threshold = one.criterion.threshold.value
    lines.line(axes, [threshold] * 2, edges, "threshold", line={"dash": "dot", "width": 1.4, "color": INK})
    text = estimate(found._asdict() | {"value": found.effect})
    axes.x(title={"text": f"effect {text}, claimed {one.criterion.side}"})
