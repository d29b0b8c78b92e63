"""What regularisers of geometry did: how well the model does, and its dimension, against IsoScore*, over lambda."""

import json
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dynamics.report import tables
from dynamics.report.arms import Settings, design, differing
from dynamics.report.blocks import Figure, PageBlock, Section, Table, TableRow, Text
from dynamics.report.names import DASH, MINUS, QUALITY, estimate, words
from dynamics.report.plot import lines
from dynamics.report.plot.canvas import Axes, Canvas
from dynamics.report.plot.style import INK, Look, Looks, looks, panel_title
from dynamics.report.plot.values import Values
from dynamics.report.study import Study
from dynamics.run_info import FitInfo

SCORE, DIMENSION = "isoscore", "intrinsic_dimension"
UNREGULARISED = ""
DASHES = ("solid", "dot", "dash")


@dataclass(frozen=True)
class RegularizerSweep:
    """Runs that differ in their regulariser and their seed alone.

    `rows` have the columns `kind` (the regulariser, with the settings in which the runs differ; empty without one),
    `weight seed metric value`: `isoscore` and `intrinsic_dimension` are means over the layers 1..L at the last measured
    step, `isoscore_star` is that of the last training step, and `quality` is how well the model does, last.
    """

    name: str
    quality: str
    rows: pd.DataFrame

    @property
    def kinds(self) -> list[str]:
        """Return the regularisers with a weight that is not 0."""
        return sorted(set(self.rows["kind"]) - {UNREGULARISED})


def applies(study: Study) -> bool:
    """Whether there is a sweep of regularisers among the runs."""
    return bool(sweeps(study))


def section(study: Study) -> Section:
    """Return one figure, with a column for each sweep, and a table for each."""
    members = sweeps(study)
    note = "Brackets: 95 % t interval over seeds. The change is that of runs with the same seed. IsoScore* of the "
    note += "loss: last training batch, union of the layers, as the regulariser computes it."
    blocks: list[PageBlock] = [figure(members), *map(table, members), Text(note, is_soft=True)]
    return Section("Shaping geometry", "shaping", "Shaping", blocks, findings=[*filter(None, map(_reading, members))])


def sweeps(study: Study) -> list[RegularizerSweep]:
    """Return all sweeps among the runs: two weights at least of one design."""
    by_design: dict[str, dict[str, Settings]] = defaultdict(dict)
    for run, info in study.of_kind(FitInfo).items():
        if len(info.regularizers) < 2:
            term = next(iter(info.regularizers.values()), {"weight": 0.0})
            settings = {key: value for key, value in info.to_dict().items() if key not in ("regularizers", "label")}
            key = json.dumps(design(settings), sort_keys=True, default=str)
            by_design[key][run] = term if term["weight"] else {"weight": 0.0}
    return [sweep for terms in by_design.values() if (sweep := _sweep(study, terms))]


def _kind(term: Settings, terms: list[Settings]) -> str:
    """Return the class of a regulariser, and those of its settings (not the weight) in which its class differs."""
    kind = str(term.get("class", UNREGULARISED))
    alike = [other for other in terms if other.get("class", UNREGULARISED) == kind]
    return ", ".join([kind, *differing({k: v for k, v in term.items() if k != "weight"}, alike)])


def _sweep(study: Study, terms: dict[str, Settings]) -> RegularizerSweep | None:
    """Return the runs of one design, by their terms; None without two weights or without IsoScore*."""
    members = [(run, _kind(term, [*terms.values()]), float(term["weight"])) for run, term in terms.items()]
    runs = pd.DataFrame(members, columns=["run", "kind", "weight"])
    rows = study.rows[study.rows["run"].isin(terms)]
    states = rows[(rows["site"] == "residual") & (rows["layer"] > 0) & (rows["head"] == -1)]
    curves, training = (rows[rows["site"] == site] for site in ("validation", "train"))
    quality = next((metric for metric in tables.curve_metrics(curves) if metric in QUALITY), "")
    parts = ((states, SCORE), (states, DIMENSION), (curves, quality), (training, "isoscore_star"))
    chosen = pd.concat(part[part["metric"] == metric] for part, metric in parts)
    last = chosen[chosen["step"] == chosen.groupby(["run", "metric"])["step"].transform("max")]
    last = last.groupby(["run", "seed", "metric"], as_index=False)["value"].mean()
    if len(runs[["kind", "weight"]].drop_duplicates()) < 2 or last[last["metric"] == SCORE].empty:
        return None
    # A sweep has the label of its first run, without the regulariser.
    info = study.of_kind(FitInfo)[members[0][0]]
    name = info.label or members[0][0]
    for term in info.regularizers.values():
        name = name.removesuffix(f", {term['class']} {term['weight']:g}")
    return RegularizerSweep(name, quality, last.merge(runs, on="run"))


def over_seeds(rows: pd.DataFrame, is_change: bool = False) -> pd.DataFrame:
    """Return mean and interval over seeds (see `tables.seed_interval`): `kind weight metric value low high seeds`."""
    # Runs of one seed are no independent repetitions.
    rows = rows.groupby(["kind", "weight", "metric", "seed"], as_index=False)["value"].mean()
    means = rows.groupby(["kind", "weight", "metric"], as_index=False)["value"].agg(["mean", "std", "count"])
    means = means.rename(columns={"mean": "value", "count": "seeds", "std": "spread"})
    ranges = [(None, None) if is_change else words(metric).range for metric in means["metric"]]
    means = means.assign(**dict(zip(tables.RANGE, np.array(ranges, dtype=float).reshape(-1, 2).T, strict=True)))
    low, high = tables.seed_interval(means)
    return means.assign(low=low, high=high).drop(columns=["spread", *tables.RANGE])


def against_none(sweep: RegularizerSweep) -> pd.DataFrame:
    """Return `over_seeds` of IsoScore* less that without a regulariser in the same seed, and counts `lower higher`."""
    score = sweep.rows[sweep.rows["metric"] == SCORE]
    zero = score[score["kind"] == UNREGULARISED].groupby("seed")["value"].mean()
    paired = score[(score["kind"] != UNREGULARISED) & score["seed"].isin(zero.index)]
    paired = paired.assign(value=paired["value"] - paired["seed"].map(zero))
    signs = paired.assign(lower=paired["value"] < 0, higher=paired["value"] > 0)
    counts = signs.groupby(["kind", "weight"], as_index=False)[["lower", "higher"]].sum()
    return over_seeds(paired, is_change=True).merge(counts, on=["kind", "weight"])


def figure(members: list[RegularizerSweep]) -> Figure:
    """Return quality and dimension against IsoScore*, a column for each sweep."""
    titles = [panel_title(sweep.name, width=40) for sweep in members]
    canvas = Canvas(2, len(members), titles, panel=300, gap=60, top=84, between=0.07, share_y=False)
    styles = looks(sorted({kind for sweep in members for kind in sweep.kinds}))
    styles = {kind: replace(look, dash=DASHES[i % 3]) for i, (kind, look) in enumerate(styles.items())}
    for col, sweep in enumerate(members):
        for row, metric in enumerate((sweep.quality, DIMENSION)):
            values = Values.of(words(metric), sweep.rows.loc[sweep.rows["metric"] == metric, "value"])
            canvas[row, col].y(title={"text": values.title}, **values.axis())
            canvas[row, col].x(title={"text": "IsoScore*" if row else ""})
            _paths(canvas[row, col], sweep, metric, styles)
    canvas.set(showlegend=True)
    meaning = "How well the model does, and the intrinsic dimension of its states, against how isotropic they are. "
    meaning += "Each point is a weight of the regulariser (lambda, beside it); 0 is the run without one."
    data = pd.concat([sweep.rows.assign(sweep=sweep.name) for sweep in members])
    caption = "IsoScore* and dimension: mean over layers 1..L at the last measured step, on held-out windows; without "
    caption += "shrinkage, which so many states do not need. Quality: last validation. Bars: 95 % t interval over "
    caption += "three or more seeds, on the scale of each quantity's range. Small marks: single seeds."
    return Figure("What shaping does", canvas.figure(), meaning, " ".join(map(_reading, members)), caption, data=data)


def _paths(axes: Axes, sweep: RegularizerSweep, metric: str, styles: Looks) -> None:
    """Draw the seeds and the means of every regulariser, each joined in the order of its weights; then of none."""
    by_seed = sweep.rows.pivot_table(index=["kind", "weight", "seed"], columns="metric", values="value")
    if metric not in by_seed:
        return
    means = over_seeds(sweep.rows)
    means = means[means["metric"].isin([SCORE, metric])].pivot(index=["weight", "kind"], columns="metric")
    means = means.dropna(subset=[("value", metric)])
    kinds = means.index.get_level_values("kind")
    hover = f"%{{customdata[0]}}, %{{customdata[1]}} seeds<br>IsoScore* %{{x:.4f}}<br>{words(metric).title} %{{y:.4f}}"
    for i, kind in enumerate([*(kind for kind in styles if kind in sweep.kinds), UNREGULARISED]):
        look, name, points = styles.get(kind, Look(INK, "star", "★", "solid")), kind or "none", means[kinds == kind]
        if points.empty:
            continue
        if kind:
            path = means[kinds.isin([kind, UNREGULARISED])]["value"]
            lines.line(axes, path[SCORE], path[metric], line=look.line(1.4))
        seeds = by_seed[by_seed.index.get_level_values("kind") == kind]
        lines.line(axes, seeds[SCORE], seeds[metric], mode="markers", marker=look.marker(5), opacity=0.35)
        weights = [_signed(weight) for weight, _ in points.index]
        x, y = (points.xs(quantity, axis=1, level="metric") for quantity in (SCORE, metric))
        side, font = "bottom left" if kind and i % 2 else "top right", {"size": 11, "color": look.colour}
        style: Settings = {"mode": "markers+text", "marker": look.marker(10 if kind else 13)}
        style |= {"text": weights, "textposition": side, "textfont": font}
        style |= {"error_x": lines.error_bars(x, look.colour), "error_y": lines.error_bars(y, look.colour)}
        style |= {"name": name, "legendgroup": name, "showlegend": axes.number == ""}
        facts = [[*pair] for pair in zip(weights, y["seeds"].astype(int), strict=True)]
        lines.line(axes, x["value"], y["value"], f"{name} {hover}", customdata=facts, **style)


def _signed(weight: float) -> str:
    return f"{weight:+g}".replace("-", MINUS) if weight else "0"


def _reading(sweep: RegularizerSweep) -> str:
    parts = []
    for kind, change in against_none(sweep).groupby("kind", sort=False):
        below, above = change[change["weight"] < 0], change[change["weight"] > 0]
        for rows, sign, column, verb in ((below, "<", "lower", "lowered"), (above, ">", "higher", "raised")):
            if len(rows):
                runs = f"{int(rows[column].sum())} of {int(rows['seeds'].sum())} runs"
                parts.append(f"{kind} with lambda {sign} 0 {verb} IsoScore* in {runs}")
    return f"{sweep.name}: {'; '.join(parts)}." if parts else ""


def table(sweep: RegularizerSweep) -> Table:
    """Return every weight with its means and intervals, and what it changed against none in the same seeds."""
    means, changes = over_seeds(sweep.rows).set_index("metric"), against_none(sweep).set_index(["kind", "weight"])
    columns = {SCORE: "IsoScore*, held out", DIMENSION: words(DIMENSION).title}
    columns |= {sweep.quality: words(sweep.quality).axis, "isoscore_star": "IsoScore* of the loss"}
    columns = {metric: title for metric, title in columns.items() if metric in means.index}
    rows = []
    for (kind, weight), points in means.groupby(["kind", "weight"]):  # the one without a regulariser is first
        cells = [estimate(points.loc[metric]) if metric in points.index else DASH for metric in columns]
        change = DASH
        if (kind, weight) in changes.index:
            row = changes.loc[(kind, weight)]
            plus, direction = ("+", "higher") if row["value"] > 0 else ("", "lower")
            change = f"{plus}{estimate(row)}, {row[direction]} of {row['seeds']} seeds {direction}"
        label = f"{kind} {_signed(weight)}" if kind else "none"
        rows.append(TableRow(label, (str(int(points["seeds"].max())), *cells, change)))
    return Table(("seeds", *columns.values(), "change of IsoScore* against none"), rows, sweep.name)
