"""What regularisers of geometry did: how well the model does, and its dimension, against IsoScore*, over lambda.

Pure: frames and `run.json` in, plotly figures and tables out.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dynamics.report import tables
from dynamics.report.drawn import Drawn
from dynamics.report.names import DASH, MINUS, QUALITY, number, words
from dynamics.report.origin import Table
from dynamics.report.plot.canvas import Canvas, Cell
from dynamics.report.plot.style import ARMS, INK, SYMBOLS, plain
from dynamics.report.plot.values import Values
from dynamics.report.study import Settings, Study, design
from dynamics.report.summary import Line

SCORE, DIMENSION = "isoscore", "intrinsic_dimension"
UNREGULARISED = ""
COLUMNS = ["kind", "weight", "seed", "metric", "value"]


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in their regulariser and their seed alone.

    `rows` have the columns `kind` (class of the regulariser, with those of its settings in which the runs differ;
    empty where nothing is added to the loss), `weight`,
    `seed`, `metric` and `value`: `isoscore` and `intrinsic_dimension` are means over the layers 1..L at the last
    measured step, `isoscore_star` is that of the last training step, and the rest is how well the model does, last.
    """

    name: str
    quality: str
    rows: pd.DataFrame

    @property
    def kinds(self) -> list[str]:
        """Regularisers with a weight that is not 0."""
        return sorted(set(self.rows["kind"]) - {UNREGULARISED})


def sweeps(study: Study) -> list[Sweep]:
    """All sweeps among the runs: two weights at least of one design."""
    found: dict[str, dict[str, Settings]] = {}
    for run, told in study.runs.items():
        terms = told.get("regularizers") or {}
        if told.get("kind") == "fit" and len(terms) < 2:
            term = next(iter(terms.values()), {"weight": 0.0})
            found.setdefault(_key(told), {})[run] = term if term["weight"] else {"weight": 0.0}
    made = []
    for terms in found.values():
        kinds = _kinds([*terms.values()])
        runs = [(run, kind, float(term["weight"])) for (run, term), kind in zip(terms.items(), kinds, strict=True)]
        if len({(kind, weight) for _, kind, weight in runs}) > 1:
            made.append(_sweep(study, runs))
    return [one for one in made if one is not None]


def _kinds(terms: list[Settings]) -> list[str]:
    """What to call each regulariser: its class, and what else than the weight tells it from its like."""
    names = []
    for term in terms:
        kind = str(term.get("class", UNREGULARISED))
        like = [other for other in terms if other.get("class", UNREGULARISED) == kind]
        telling = [
            f"{key} {value}"
            for key, value in term.items()
            if key != "weight" and any(other.get(key) != value for other in like)
        ]
        names.append(", ".join([kind, *telling]))
    return names


def _key(told: Settings) -> str:
    plain_one = {key: value for key, value in told.items() if key not in ("regularizers", "label")}
    return json.dumps(design(plain_one), sort_keys=True, default=str)


def _sweep(study: Study, runs: list[tuple[str, str, float]]) -> Sweep | None:
    rows = study.rows[study.rows["run"].isin([run for run, _, _ in runs])]
    last = [_last_geometry(rows, SCORE), _last_geometry(rows, DIMENSION)]
    curves = rows[rows["site"] == "validation"]
    known = [metric for metric in tables.curve_metrics(curves) if metric in QUALITY]
    last += [_last(curves[curves["metric"] == metric]) for metric in known[:1]]
    last.append(_last(rows[(rows["site"] == "train") & (rows["metric"] == "isoscore_star")]))
    table = pd.concat(last)
    if table[table["metric"] == SCORE].empty:
        return None
    whose = pd.DataFrame(runs, columns=["run", "kind", "weight"])
    told = study.runs[runs[0][0]]
    name = str(told.get("label") or runs[0][0])
    for term in (told.get("regularizers") or {}).values():
        name = name.removesuffix(f", {term['class']} {term['weight']:g}")
    return Sweep(name, known[0] if known else "", table.merge(whose, on="run")[COLUMNS])


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    newest = rows[rows["step"] == rows.groupby("run")["step"].transform("max")]
    return newest.groupby(["run", "seed", "metric"], as_index=False)["value"].mean()


def _last_geometry(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    states = rows[(rows["site"] == "residual") & (rows["layer"] > 0) & (rows["head"] == -1)]
    return _last(states[states["metric"] == metric])


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % t interval over seeds: `kind weight metric value low high seeds`, no interval for one seed."""
    # Runs of one seed are no independent repetitions.
    rows = rows.groupby(["kind", "weight", "metric", "seed"], as_index=False)["value"].mean()
    means = rows.groupby(["kind", "weight", "metric"], as_index=False)["value"].agg(["mean", "std", "count"])
    half = np.full(len(means), np.nan)
    several = means["count"] > 1
    half[several] = tables.t_half(means.loc[several, "std"], means.loc[several, "count"])
    means = means.rename(columns={"mean": "value", "count": "seeds"})
    return means.assign(low=means["value"] - half, high=means["value"] + half).drop(columns="std")


def against_none(sweep: Sweep) -> pd.DataFrame:
    """IsoScore* less that of the unregularised run of the same seed: columns of `over_seeds`, `lower` and `higher`.

    The last two count seeds.
    """
    score = sweep.rows[sweep.rows["metric"] == SCORE]
    zero = score[score["kind"] == UNREGULARISED].groupby("seed")["value"].mean()
    paired = score[(score["kind"] != UNREGULARISED) & score["seed"].isin(zero.index)]
    paired = paired.assign(value=paired["value"] - paired["seed"].map(zero))
    counts = paired.groupby(["kind", "weight"])["value"].agg(
        lower=lambda x: int((x < 0).sum()), higher=lambda x: int((x > 0).sum())
    )
    return over_seeds(paired).merge(counts.reset_index(), on=["kind", "weight"])


def drawn(found: list[Sweep]) -> list[Drawn]:
    """Quality and dimension against IsoScore*, a column for each sweep."""
    if not found:
        return []
    canvas = Canvas(
        2, len(found), [f"<b>{plain(sweep.name, 40)}</b>" for sweep in found],
        panel=300, gap=60, top=84, between=0.07, share_y=False, lift=34,
    )  # fmt: skip
    kinds = sorted({kind for sweep in found for kind in sweep.kinds})
    for col, sweep in enumerate(found):
        means = over_seeds(sweep.rows)
        for row, metric in enumerate((sweep.quality, DIMENSION)):
            values = sweep.rows.loc[sweep.rows["metric"] == metric, "value"]
            shown = Values.of(metric, values)
            canvas.y((row, col), title={"text": plain(shown.title, 40)}, **shown.axis())
            canvas.x((row, col), title={"text": "IsoScore*" if row else ""})
            _path(canvas, (row, col), sweep, means, metric, kinds)
    canvas.set(showlegend=True)
    return [
        Drawn(
            "What shaping does",
            canvas.figure(),
            "How well the model does, and the intrinsic dimension of its states, against how isotropic they are. Each "
            "point is a weight of the regulariser (lambda, beside it); 0 is the run without one.",
            " ".join(_told(sweep) for sweep in found),
            "IsoScore* and dimension: mean over layers 1..L at the last measured step, on held-out windows; without "
            "shrinkage, which so many states do not need. Quality: last validation. Bars: 95 % t interval over seeds. "
            "Small marks: single seeds.",
        )
    ]


def _look(kind: str, kinds: list[str]) -> tuple[str, str, str]:
    if kind == UNREGULARISED:
        return INK, "star", "solid"
    place = kinds.index(kind)
    return ARMS[place % len(ARMS)], SYMBOLS[place % len(SYMBOLS)][0], ("solid", "dot", "dash")[place % 3]


def _path(canvas: Canvas, cell: Cell, sweep: Sweep, means: pd.DataFrame, metric: str, kinds: list[str]) -> None:
    """The seeds and the means of every regulariser, each joined in the order of its weights; then of none."""
    wide = sweep.rows.pivot_table(index=["kind", "weight", "seed"], columns="metric", values="value")
    if metric not in wide:
        return
    for kind in [*(kind for kind in kinds if kind in sweep.kinds), UNREGULARISED]:
        own = wide[wide.index.get_level_values("kind") == kind]
        colour, symbol, dash = _look(kind, kinds)
        found = means[means["metric"].isin([SCORE, metric]) & means["kind"].isin([kind, UNREGULARISED])]
        line = found.pivot(index=["weight", "kind"], columns="metric").dropna(subset=[("value", metric)])
        mine = line[line.index.get_level_values("kind") == kind]
        if mine.empty:
            continue
        x, y = ([*line["value"][name]] for name in (SCORE, metric))
        if kind:
            style = {"color": colour, "width": 1.4, "dash": dash}
            canvas.add(cell, type="scatter", mode="lines", x=x, y=y, line=style, hoverinfo="skip")
        canvas.add(
            cell,
            type="scatter",
            mode="markers",
            x=own[SCORE].tolist(),
            y=own[metric].tolist(),
            hoverinfo="skip",
            marker={"symbol": symbol, "size": 5, "color": colour, "opacity": 0.35},
        )
        weights = [_signed(weight) for weight, _ in mine.index]
        name = kind or "none"
        canvas.add(
            cell,
            type="scatter",
            mode="markers+text",
            name=name,
            legendgroup=name,
            showlegend=cell == (0, 0),
            x=[*mine["value"][SCORE]],
            y=[*mine["value"][metric]],
            error_x=_bars(mine, SCORE, colour),
            error_y=_bars(mine, metric, colour),
            text=weights,
            textposition="bottom left" if kind and kinds.index(kind) % 2 else "top right",
            textfont={"size": 11, "color": colour},
            marker={"size": 10 if kind else 13, "color": colour, "symbol": symbol},
            customdata=[[*pair] for pair in zip(weights, mine["seeds"][metric].astype(int), strict=True)],
            hovertemplate=f"{name} %{{customdata[0]}}, %{{customdata[1]}} seeds<br>IsoScore* %{{x:.4f}}<br>"
            f"{words(metric).title} %{{y:.4f}}<extra></extra>",
        )


def _bars(points: pd.DataFrame, metric: str, colour: str) -> dict[str, Any]:
    half = points["high"][metric] - points["value"][metric]
    return {"type": "data", "array": [*half], "color": colour, "thickness": 1, "width": 3}


def _signed(weight: float) -> str:
    return f"{weight:+g}".replace("-", MINUS) if weight else "0"


def _told(sweep: Sweep) -> str:
    """In how many seeds each regulariser moved IsoScore* where its weight asks."""
    moved = against_none(sweep)
    parts = []
    for kind, part in moved.groupby("kind", sort=False):
        for sign, column, verb in ((-1, "lower", "lowered"), (1, "higher", "raised")):
            mine = part[np.sign(part["weight"]) == sign]
            if not mine.empty:
                below = "<" if sign < 0 else ">"
                runs = f"{int(mine[column].sum())} of {int(mine['seeds'].sum())} runs"
                parts.append(f"{kind} with lambda {below} 0 {verb} IsoScore* in {runs}")
    return f"{sweep.name}: {'; '.join(parts)}." if parts else ""


def table(sweep: Sweep) -> Table:
    """Every weight with its means and intervals, and what it changed against none in the same seeds."""
    means, moved = over_seeds(sweep.rows), against_none(sweep)
    quality = words(sweep.quality)
    columns = {
        SCORE: "IsoScore*, held out",
        DIMENSION: words(DIMENSION).title,
        sweep.quality: quality.axis if sweep.quality else "",
        "isoscore_star": "IsoScore* of the loss",
    }
    columns = {metric: title for metric, title in columns.items() if (means["metric"] == metric).any()}
    lines = []
    order = [
        (UNREGULARISED, 0.0),
        *((kind, weight) for kind in sweep.kinds for weight in _weights(sweep, kind)),
    ]
    for kind, weight in order:
        mine = means[(means["kind"] == kind) & (means["weight"] == weight)].set_index("metric")
        change = moved[(moved["kind"] == kind) & (moved["weight"] == weight)]
        if mine.empty:
            continue
        cells = [_between(mine.loc[metric]) if metric in mine.index else DASH for metric in columns]
        for one in change.itertuples():
            up = one.value > 0
            cells.append(
                f"{_between(one._asdict(), signed=True)}, {one.higher if up else one.lower} of {one.seeds} seeds "
                f"{'higher' if up else 'lower'}"
            )
        cells += [DASH] * (len(columns) + 1 - len(cells))
        label = f"{kind} {_signed(weight)}" if kind else "none"
        lines.append(Line(label, (str(int(mine["seeds"].max())), *cells)))
    return Table(("seeds", *columns.values(), "change of IsoScore* against none"), lines)


def _weights(sweep: Sweep, kind: str) -> list[float]:
    return sorted(sweep.rows.loc[sweep.rows["kind"] == kind, "weight"].unique())


def _between(one: Any, signed: bool = False) -> str:
    sign = "+" if signed and one["value"] > 0 else ""
    ends = f" [{number(one['low'])}, {number(one['high'])}]" if np.isfinite(one["low"]) else ""
    return f"{sign}{number(one['value'])}{ends}"
