"""What a scan shows: models of any depth on one axis, encoders beside decoders, cone against drift.

Pure: frames and `run.json` in, plotly figures out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dynamics.report.drawn import Drawn
from dynamics.report.names import words
from dynamics.report.plot.canvas import Canvas, Cell
from dynamics.report.plot.style import ARMS, INK, SOFT, SYMBOLS, TIME, plain
from dynamics.report.plot.values import Values
from dynamics.report.study import Settings, Study

PROFILES = ("anisotropy", "intrinsic_dimension", "mean_cosine", "norm_of_mean", "isoscore", "effective_rank")
"""Quantities that have a row of panels, as far as they were measured."""
SHAPE = "protocol=shape-of-learning"
FEWEST = 3
"""Layers that a correlation needs."""


@dataclass(frozen=True)
class Model:
    """One line of the figures: a model, or one revision of a series."""

    key: str
    name: str
    group: str
    series: str
    step: int
    synthetic: bool


def drawn(study: Study) -> list[Drawn]:
    """The figures of all scans among the runs; none where there is no scan."""
    scans = {run: told for run, told in study.runs.items() if told.get("kind") == "scan"}
    table = profile(study.rows[study.rows["run"].isin(scans)], scans)
    if table.empty:
        return []
    last = table[table["last"]]
    made = [_over_depth(last), *_cone_and_drift(last), *_along_steps(table)]
    return [figure for figure in made if figure is not None]


def profile(rows: pd.DataFrame, scans: dict[str, Settings]) -> pd.DataFrame:
    """States over relative depth: the columns of `Model` and `layer depth metric value low high last`.

    `depth` is 0 at the embeddings and 1 at the last layer. Under the protocol of 2311.05928 the last layer is that
    after the final norm. `last` marks models off the step axis, and the last step of each series.
    """
    states = rows[rows["site"].isin(["residual", "output"]) & (rows["layer"] >= 0) & (rows["head"] == -1)]
    shape = states["condition"].str.contains(SHAPE, regex=False)
    ends = states.groupby(["run", "subject", "condition"])["layer"].transform("max")
    swapped = shape & (states["layer"] == ends) & (ends > 0)
    states = states[((states["site"] == "residual") & ~swapped) | ((states["site"] == "output") & swapped)]
    parts = []
    for (run, subject, condition), part in states.groupby(["run", "subject", "condition"], sort=False):
        told = scans[run].get("subjects", {}).get(subject, {})
        model = _model(run, subject, condition, told, several=len(scans) > 1)
        layers = max(int(part["layer"].max()), 1)
        shown = part[["layer", "metric", "value", "low", "high"]].assign(depth=part["layer"] / layers)
        parts.append(shown.assign(**vars(model)))
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    newest = table.groupby("series")["step"].transform("max")
    return table.assign(last=(table["series"] == "") | (table["step"] == newest))


def _model(run: str, subject: str, condition: str, told: Settings, several: bool) -> Model:
    modality, causal = told.get("modality", "text"), told.get("is_causal")
    synthetic = dict(pair.split("=", 1) for pair in condition.split(",") if "=" in pair).get("synthetic", "")
    if not any(told.get("heads", [1])):
        group = f"convolutional ({modality})"
    elif modality != "text":
        group = {"images": "vision transformers", "audio": "speech transformers"}[modality]
    else:
        group = "decoders (causal)" if causal else "encoders (bidirectional)"
    series = f"{run}: {told['series']}" if told.get("series") else ""
    short = str(told.get("model", subject)) if subject.endswith(("@local", "@main")) or series else subject
    name = short + (f", {synthetic}" if synthetic else "") + (f" ({run})" if several else "")
    return Model(f"{run}/{subject}/{condition}", name, group, series, int(told.get("step", 0)), bool(synthetic))


def _groups(table: pd.DataFrame) -> list[str]:
    order = ("encoders", "decoders", "speech", "vision", "convolutional")
    found = table["group"].unique()
    return sorted(found, key=lambda group: next(i for i, word in enumerate(order) if group.startswith(word)))


def _looks(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour and symbol of each model, by key: colours start anew in each group; made-up inputs are dashed."""
    looks = {}
    for group in _groups(table):
        models = table[table["group"] == group].drop_duplicates("key")
        for i, row in enumerate(models.itertuples()):
            colour = ARMS[i % len(ARMS)]
            line = {"color": colour, "width": 1.8, "dash": "dash" if row.synthetic else "solid"}
            symbol = SYMBOLS[(i + i // len(ARMS)) % len(SYMBOLS)][0]
            looks[row.key] = {"line": line, "marker": {"color": colour, "symbol": symbol, "size": 6}}
    return looks


def _over_depth(table: pd.DataFrame) -> Drawn | None:
    metrics = [metric for metric in PROFILES if np.isfinite(table.loc[table["metric"] == metric, "value"]).any()]
    if not metrics:
        return None
    groups, looks = _groups(table), _looks(table)
    heads = [f"<b>{plain(group, 22)}</b>" for group in groups]
    canvas = Canvas(len(metrics), len(groups), heads, panel=190, gap=52, top=76, right=200)
    told = []
    for row, metric in enumerate(metrics):
        mine = table[table["metric"] == metric]
        values = Values.of(metric, mine["value"])
        canvas.y((row, 0), title={"text": plain(values.title, 26)})
        for col, group in enumerate(groups):
            canvas.y((row, col), **values.axis())
            canvas.x((row, col), range=[-0.04, 1.04], tickvals=[0, 0.5, 1])
            if row == len(metrics) - 1:
                canvas.x((row, col), title={"text": "relative depth"})
            for key, part in mine[mine["group"] == group].groupby("key", sort=False):
                _band(canvas, (row, col), part, looks[key]["line"]["color"])
                _line(canvas, (row, col), part, looks[key], in_legend=row == 0)
        if row == 0:
            told = [_peak(part, metric) for _, part in mine.groupby("key", sort=False)]
    canvas.set(showlegend=True, legend={"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top"})
    return Drawn(
        "Over relative depth",
        canvas.figure(),
        "Every model from its embeddings (0) to its last layer (1), so that depths compare.",
        f"{words(metrics[0]).title.capitalize()}: {'; '.join(told)}.",
        "Residual stream, before the final norm (under the protocol shape-of-learning the last point is after it). "
        "Colours start anew in each column; dashed: synthetic input. Bands: 95 % interval. Of a series its last step. "
        "Convolutional models list stages, and their width changes on the way.",
    )


def _line(canvas: Canvas, cell: Cell, part: pd.DataFrame, look: dict[str, Any], in_legend: bool) -> None:
    part, first = part.sort_values("layer"), part.iloc[0]
    canvas.add(
        cell,
        type="scatter",
        mode="lines+markers",
        x=part["depth"],
        y=part["value"],
        name=plain(first["name"], 30),
        legendgroup=first["group"],
        legendgrouptitle={"text": plain(first["group"])},
        showlegend=in_legend,
        customdata=part["layer"],
        hovertemplate=f"{plain(first['name'])}, layer %{{customdata}}: %{{y:.4g}}<extra></extra>",
        **look,
    )


def _band(canvas: Canvas, cell: Cell, part: pd.DataFrame, colour: str) -> None:
    part = part.sort_values("layer").dropna(subset=["low", "high"])
    if len(part) < 2:
        return
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    canvas.add(
        cell,
        type="scatter",
        mode="lines",
        x=[*part["depth"], *part["depth"][::-1]],
        y=[*part["high"], *part["low"][::-1]],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.13)",
        line={"width": 0},
        hoverinfo="skip",
    )


def _peak(part: pd.DataFrame, metric: str) -> str:
    known = part[np.isfinite(part["value"])]
    if known.empty:
        return f"{part['name'].iloc[0]} undefined"
    best = known.loc[known["value"].idxmax()]
    return f"{best['name']} highest at layer {best['layer']} of {part['layer'].max()} ({best['value']:.3g})"


def correlations(table: pd.DataFrame, groups: Sequence[str] | None = None) -> pd.DataFrame:
    """Mean cosine against the norm of the mean: columns `group key name layers spearman pearson`.

    A row for each model over its layers 0..L, and one for each group over the layers of all its models (key empty). A
    model with fewer than three layers has no correlation.
    """
    from scipy.stats import pearsonr, spearmanr

    wide = points(table)
    made = []
    for group in groups or _groups(table):
        mine = wide[wide["group"] == group]
        whole = [("", f"all {group}", mine)] if mine["key"].nunique() > 1 else []
        for key, name, part in [(key, part["name"].iloc[0], part) for key, part in mine.groupby("key")] + whole:
            x, y = part["norm_of_mean"].to_numpy(), part["mean_cosine"].to_numpy()
            enough = len(part) >= FEWEST and np.ptp(x) > 0 and np.ptp(y) > 0
            spearman, pearson = (spearmanr(x, y)[0], pearsonr(x, y)[0]) if enough else (np.nan, np.nan)
            made.append((group, key, name, len(part), float(spearman), float(pearson)))
    return pd.DataFrame(made, columns=["group", "key", "name", "layers", "spearman", "pearson"])


def points(table: pd.DataFrame) -> pd.DataFrame:
    """A point for each layer of each model, with both quantities known."""
    both = table[table["metric"].isin(["mean_cosine", "norm_of_mean"])]
    wide = both.pivot_table(index=["group", "key", "name", "layer"], columns="metric", values="value", sort=False)
    if not {"mean_cosine", "norm_of_mean"} <= set(wide.columns):
        return (
            wide.iloc[:0]
            .reset_index()
            .reindex(columns=["group", "key", "name", "layer", "mean_cosine", "norm_of_mean"])
        )
    return wide.dropna().reset_index()


def _cone_and_drift(table: pd.DataFrame) -> list[Drawn]:
    wide = points(table)
    if wide.empty:
        return []
    groups, looks = [group for group in _groups(table) if (wide["group"] == group).any()], _looks(table)
    found = correlations(table, groups)
    titles = []
    for group in groups:
        mine = found[found["group"] == group]
        whole = mine.iloc[-1]
        told = f"Spearman {whole['spearman']:.2f}<br>Pearson {whole['pearson']:.2f}"
        told = told if np.isfinite(whole["spearman"]) else "too few layers<br>to correlate"
        titles.append(f"<b>{plain(group, 22)}</b><br><span style='color:{SOFT}'>{told}</span>")
    canvas = Canvas(1, len(groups), titles, panel=300, top=112, right=200)
    canvas.y((0, 0), title={"text": "mean cosine"})
    for col, group in enumerate(groups):
        values = Values.of("norm_of_mean", wide.loc[wide["group"] == group, "norm_of_mean"])
        canvas.x((0, col), title={"text": values.title}, **values.axis())
        for key, part in wide[wide["group"] == group].groupby("key", sort=False):
            name = plain(part["name"].iloc[0], 30)
            canvas.add(
                (0, col),
                type="scatter",
                mode="lines+markers",
                x=part["norm_of_mean"],
                y=part["mean_cosine"],
                name=name,
                showlegend=True,
                legendgroup=group,
                legendgrouptitle={"text": plain(group)},
                customdata=part["layer"],
                hovertemplate=f"{name}, layer %{{customdata}}: %{{x:.4g}}, %{{y:.4g}}<extra></extra>",
                line={**looks[key]["line"], "width": 0.7},
                marker=looks[key]["marker"],
            )
    canvas.set(showlegend=True, legend={"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top"})
    each = [
        f"{row.name_}: Spearman {row.spearman:.2f}, Pearson {row.pearson:.2f} ({row.layers} layers)"
        for row in found.rename(columns={"name": "name_"}).itertuples()
        if np.isfinite(row.spearman)
    ]
    return [
        Drawn(
            "Cone against drift",
            canvas.figure(),
            "Whether states share a direction (mean cosine) where the whole cloud lies far from the origin (norm of "
            "the mean). A point for each layer, joined from the embeddings on.",
            f"{'; '.join(each)}." if each else "No model has layers enough for a correlation.",
            "Correlations over the layers 0..L of a model, or of all models of a column; Pearson on the values as they "
            "are, not on their logarithms. Layers of one model are not independent: no p-value is given.",
        )
    ]


def _along_steps(table: pd.DataFrame) -> list[Drawn]:
    made = []
    for series, mine in table[table["series"] != ""].groupby("series", sort=False):
        steps = sorted(mine["step"].unique())
        metrics = [m for m in PROFILES if np.isfinite(mine.loc[mine["metric"] == m, "value"]).any()][:4]
        if len(steps) > 1 and metrics:
            made.append(_series(series, mine, steps, metrics))
    return made


def _series(series: str, table: pd.DataFrame, steps: Sequence[int], metrics: Sequence[str]) -> Drawn:
    from plotly.colors import sample_colorscale

    name = series.split(": ", 1)[1]
    titles = [f"<b>{plain(words(metric).title)}</b>" for metric in metrics]
    canvas = Canvas(2, len(metrics), titles, panel=190, gap=70, top=70, right=90, between=0.055, share_y=False)
    shares = np.log1p(np.array(steps, dtype=float) - steps[0])
    shades = sample_colorscale(TIME, list(shares / (shares.max() or 1)))
    told = []
    for col, metric in enumerate(metrics):
        mine = table[table["metric"] == metric]
        values = Values.of(metric, mine["value"])
        for step, shade in zip(steps, shades, strict=True):
            part = mine[mine["step"] == step].sort_values("layer")
            hover = f"step {step}, layer %{{customdata}}: %{{y:.4g}}<extra></extra>"
            look = {"line": {"color": shade, "width": 1.6}, "marker": {"color": shade, "size": 4}}
            shown = {
                "x": part["depth"],
                "y": part["value"],
                "customdata": part["layer"],
                "hovertemplate": hover,
            }
            legend = {"name": f"step {step}", "legendgroup": str(step), "showlegend": col == 0}
            canvas.add((0, col), type="scatter", mode="lines+markers", **shown, **look, **legend)
        over = mine[(mine["layer"] > 0) | (mine["layer"].max() == 0)].groupby("step")["value"].mean()
        look = {"line": {"color": INK, "width": 1.8}, "marker": {"color": INK, "size": 5}}
        places = np.arange(len(over))
        canvas.add((1, col), type="scatter", mode="lines+markers", x=places, y=over.to_numpy(), **look)
        some = np.unique(np.linspace(0, len(over) - 1, min(len(over), 6)).round().astype(int))
        labels = [f"{over.index[i]:g}" for i in some]
        canvas.x((1, col), title={"text": "step"}, tickvals=some.tolist(), ticktext=labels)
        canvas.x((0, col), title={"text": "relative depth"}, range=[-0.04, 1.04], tickvals=[0, 0.5, 1])
        for row in (0, 1):
            canvas.y((row, col), **values.axis())
        told.append(f"{words(metric).title} {over.iloc[0]:.3g} to {over.iloc[-1]:.3g}")
    canvas.set(showlegend=True, legend={"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top"})
    return Drawn(
        f"Along training: {name}",
        canvas.figure(),
        "Top: the profile at each step, from light (early) to dark (late). Bottom: mean over layers 1..L.",
        f"From step {steps[0]} to {steps[-1]}, mean over layers: {'; '.join(told)}.",
        "Steps are equally spaced below.",
    )
