"""Scanned models: any depth on one axis, encoders beside decoders, cone against drift, revisions along steps."""

import numpy as np
import pandas as pd

from dynamics.report import summary, tables
from dynamics.report.arms import Settings
from dynamics.report.blocks import Figure, Section
from dynamics.report.names import MINUS, capital
from dynamics.report.plot import heat, lines
from dynamics.report.plot.canvas import Axes, Canvas
from dynamics.report.plot.style import ARMS, INK, TIME, Look, looks, panel_title, plain, shades
from dynamics.report.plot.values import Values
from dynamics.report.study import Study
from dynamics.run_info import ScanInfo

# Quantities that have a row of panels, as far as they were measured.
PROFILES = ("anisotropy", "intrinsic_dimension", "mean_cosine", "norm_of_mean", "isoscore", "effective_rank")
MODELS = 3  # whose layers are correlated together
LAYERS = 8  # that a correlation takes: over fewer, smooth profiles agree whatever they are
GROUPS = ("encoders", "decoders", "speech", "vision", "convolutional")  # first words of the groups, in order
FOUND = 4  # models whose highest layer is among the findings
DEPTH_AXIS = {"range": [-0.04, 1.04], "tickvals": [0, 0.5, 1]}


def applies(study: Study) -> bool:
    """Whether there is a scan among the runs."""
    return bool(study.of_kind(ScanInfo))


def section(study: Study) -> Section | None:
    """Return the figures of all scans; None where no states were measured."""
    table = profiles(study)
    if table.empty:
        return None
    last, series = table[table["last"]], table[table["series"] != ""].groupby("series", sort=False)
    drawn = [_over_depth(study, last), _cone_against_drift(study, last)]
    drawn += [_along_training(study, rows) for _, rows in series]
    blocks = [figure for figure in drawn if figure is not None]
    findings = _peaks(study, last, _measured(last)[0])[:FOUND] if _measured(last) else []
    return Section("Models", "models", "Models", blocks, findings=findings) if blocks else None


def profiles(study: Study) -> pd.DataFrame:
    """Return states over relative depth; under the protocol of 2311.05928 the last layer is that after the final norm.

    Columns: `layer metric value low high`, those of `_identity`, `depth` (0 at the embeddings, 1 at the last layer)
    and `last`: whether a model is off the step axis, or at the last step of its series.
    """
    keys = ["run", "subject", "condition"]
    names = study.rows.drop_duplicates(keys).set_index(keys)["arm"]
    parts = []
    for run, info in study.of_kind(ScanInfo).items():
        rows = study.rows_of(run, ("protocol", "synthetic"))
        rows = rows[rows["site"].isin(["residual", "output"]) & (rows["layer"] >= 0) & (rows["head"] == -1)]
        for (subject, condition), part in rows.groupby(["subject", "condition"], sort=False):
            end = part["layer"].max()
            is_output = (part["protocol"] == "shape-of-learning") & (part["layer"] == end) & (end > 0)
            part = part[(part["site"] == "output") == is_output]
            if len(part):
                identity = _identity(run, part, info.subjects.get(str(subject), {}), names[run, subject, condition])
                depth = part["layer"] / max(int(part["layer"].max()), 1)
                parts.append(part[["layer", "metric", "value", "low", "high"]].assign(depth=depth, **identity))
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    newest = table.groupby("series")["step"].transform("max")
    return table.assign(last=(table["series"] == "") | (table["step"] == newest))


def _identity(run: str, rows: pd.DataFrame, facts: Settings, name: str) -> Settings:
    """Return `key name group series step` of a model (`name`: that of its arm), or of one revision of a series."""
    subject, condition = rows[["subject", "condition"]].iloc[0]
    modality = facts.get("modality", "text")
    if not any(facts.get("heads", [1])):
        group = f"convolutional ({modality})"
    elif modality != "text":
        group = {"images": "vision transformers", "audio": "speech transformers"}[modality]
    else:
        group = "decoders (causal)" if facts.get("is_causal") else "encoders (bidirectional)"
    series = f"{run}: {facts['series']}" if facts.get("series") else ""
    columns = {"key": f"{run}/{subject}/{condition}", "name": name, "group": group, "series": series}
    return columns | {"step": int(facts.get("step", 0))}


def _groups(table: pd.DataFrame) -> list[str]:
    return sorted(table["group"].unique(), key=lambda group: GROUPS.index(group.split(" ")[0]))


def _measured(table: pd.DataFrame) -> list[str]:
    """Return the quantities of `PROFILES` with a value somewhere."""
    measured = set(table.loc[np.isfinite(table["value"]), "metric"])
    return [metric for metric in PROFILES if metric in measured]


def _over_depth(study: Study, table: pd.DataFrame) -> Figure | None:
    metrics, groups, styles = _measured(table), _groups(table), looks(study.arm_names)
    if not metrics:
        return None
    titles = [panel_title(group, width=22) for group in groups]
    canvas = Canvas(len(metrics), len(groups), titles, panel=190, gap=52, top=76, right=200)
    for axes in canvas.panels:
        rows = table[table["metric"] == metrics[axes.row]]
        values = Values.of(study.words(metrics[axes.row]), rows.loc[~tables.aside(rows), "value"])
        axes.start = rows.loc[rows["depth"] > 0, "depth"].min()
        axes.x(**DEPTH_AXIS, title={"text": "relative depth" if axes.row == len(metrics) - 1 else ""})
        axes.y(**values.axis(), **{"title": {"text": values.short_title}} if axes.col == 0 else {})
        for _, part in rows[rows["group"] == groups[axes.col]].groupby("key", sort=False):
            part, look = part.sort_values("layer"), styles[part["name"].iloc[0]]
            lines.band(axes, part["depth"], part, look)
            _line(axes, part, "depth", "value", 1.8, look, is_named=axes.row == 0)
    canvas.legend_beside()
    meaning = "Every model from its embeddings (0) to its last layer (1), so that depths compare."
    named = table.assign(arm=table["name"])
    beyond = (summary.beyond_width(study, named[named["metric"] == metric], metric) for metric in metrics)
    reading = " ".join([*_peaks(study, table, metrics[0]), *filter(None, beyond)])
    caption = "Residual stream, before the final norm (under the protocol shape-of-learning the last point is after "
    caption += "it). Bands: 95 % interval. Of a series its last step. "
    if any("convolutional" in group for group in groups):
        caption += "Convolutional models list stages, and their width changes on the way. "
    caption = " ".join([*summary.suspects(study), caption + f"{capital(summary.LAYER_0)}."])
    return Figure("Over relative depth", canvas.figure(), meaning, reading, caption, len(groups) + 1, data=table)


def _peaks(study: Study, table: pd.DataFrame, metric: str) -> list[str]:
    """Return the highest layer of each model, in a sentence."""
    best = tables.highest(table[table["metric"] == metric].assign(arm=table["name"], at=0.0))
    title = capital(study.words(metric).title)
    return [f"{title} of {name} is highest at {peak}." for name, peak in summary.peaks(study, best, metric).items()]


def _line(axes: Axes, rows: pd.DataFrame, x: str, y: str, width: float, look: Look, is_named: bool = True) -> None:
    """Draw one model through its layers: column `y` against column `x`."""
    name, group = rows["name"].iloc[0], plain(rows["group"].iloc[0])
    hover = f"{plain(name)}, layer %{{customdata}}: {'' if x == 'depth' else '%{x:.4g}, '}%{{y:.4g}}"
    named = {"name": plain(name, 30), "legendgroup": group, "legendgrouptitle": {"text": group}, "showlegend": is_named}
    style = {"line": look.line(width), "marker": look.marker(6)}
    lines.line(axes, rows[x], rows[y], hover, customdata=rows["layer"], **style, **named)


def correlations(points: pd.DataFrame) -> pd.DataFrame:
    """Return the correlations of mean cosine with the norm of the mean: `group key name layers spearman pearson`.

    A row for each model of `layer_points` over its layers 0..L, and after those of a group of `MODELS` one over the
    layers of all of them (key empty). There is no correlation over fewer than `LAYERS` layers.
    """
    rows = []
    for group in _groups(points):
        members = points[points["group"] == group]
        parts = [(str(key), part["name"].iloc[0], part) for key, part in members.groupby("key")]
        parts += [("", f"all {group}", members)] if len(parts) >= MODELS else []
        for key, name, part in parts:
            both = part[["norm_of_mean", "mean_cosine"]]
            enough = len(both) >= LAYERS and (both.nunique() > 1).all()
            pair = [both.corr(method).iloc[0, 1] if enough else np.nan for method in ("spearman", "pearson")]
            rows.append((group, key, name, len(part), *pair))
    return pd.DataFrame(rows, columns=["group", "key", "name", "layers", "spearman", "pearson"])


def layer_points(table: pd.DataFrame) -> pd.DataFrame:
    """Return a point for each layer of each model where both quantities are finite: `group key name layer` and both."""
    both, keys = ["mean_cosine", "norm_of_mean"], ["group", "key", "name", "layer"]
    rows = table[table["metric"].isin(both)]
    wide = rows.pivot_table(index=keys, columns="metric", values="value", sort=False)
    return wide.reindex(columns=both).dropna().reset_index()


def _cone_against_drift(study: Study, table: pd.DataFrame) -> Figure | None:
    points = layer_points(table)
    if points.empty:
        return None
    groups, styles, agreement = _groups(points), looks(study.arm_names), correlations(points)
    titles = []
    for whole in agreement.drop_duplicates("group", keep="last").to_dict("records"):
        below = f"Spearman {_bounded(whole['spearman'])}\nPearson {_bounded(whole['pearson'])}"
        is_finite = np.isfinite(whole["spearman"])
        titles.append(panel_title(whole["group"], below if is_finite else "too few layers\nto correlate", 22))
    canvas = Canvas(1, len(groups), titles, panel=300, top=112, right=200)
    canvas[0, 0].y(title={"text": "mean cosine"})
    for axes, group in zip(canvas.panels, groups, strict=True):
        members = points[points["group"] == group]
        values = Values.of(study.words("norm_of_mean"), members["norm_of_mean"])
        axes.x(title={"text": values.title}, **values.axis())
        for _, part in members.groupby("key", sort=False):
            _line(axes, part, "norm_of_mean", "mean_cosine", 0.7, styles[part["name"].iloc[0]])
    canvas.legend_beside()
    finite = agreement[np.isfinite(agreement["spearman"])].to_dict("records")
    parts = []
    for row in finite:
        both = f"Spearman {_bounded(row['spearman'])}, Pearson {_bounded(row['pearson'])}"
        parts.append(f"{row['name']}: {both} ({row['layers']} layers)")
    reading = f"{'; '.join(parts)}." if parts else f"No model has the {LAYERS} layers that a correlation takes."
    meaning = "Whether states share a direction (mean cosine) where the whole cloud lies far from the origin (norm of "
    meaning += "the mean). A point for each layer, joined from the embeddings on."
    caption = "Correlations over the layers 0..L of a model, or of all models of a column; Pearson on the values as "
    caption += "they are, not on their logarithms. Layers of one model are not independent: no p-value is given."
    return Figure("Cone against drift", canvas.figure(), meaning, reading, caption, len(groups) + 1, data=points)


def _bounded(correlation: float) -> str:
    """Return a correlation, never as 1.00: no number of layers shows that.

    >>> _bounded(0.873), _bounded(0.9996), _bounded(-0.9996)
    ('0.87', '> 0.99', '< −0.99')
    """
    if abs(correlation) >= 0.995:
        return "> 0.99" if correlation > 0 else f"< {MINUS}0.99"
    return f"{correlation:.2f}".replace("-", MINUS)


def _along_training(study: Study, table: pd.DataFrame) -> Figure | None:
    steps, metrics = sorted(table["step"].unique()), _measured(table)[:4]
    if len(steps) < 2 or not metrics:
        return None
    titles = [panel_title(study.words(metric).title) for metric in metrics]
    canvas = Canvas(2, len(metrics), titles, panel=190, gap=70, top=70, right=90, between=0.055, share_y=False)
    shares = np.log1p(np.array(steps, dtype=float) - steps[0])
    colours = shades(TIME, shares / (shares.max() or 1))
    changes, model = [], table["series"].iloc[0].split(": ", 1)[1]
    suspects = {
        facts["step"]
        for verdicts in study.verdicts.values()
        for facts in verdicts.values()
        if (facts["model"], facts["suspect"]) == (model, True)
    }
    for col, metric in enumerate(metrics):
        rows, words, top, bottom = table[table["metric"] == metric], study.words(metric), canvas[0, col], canvas[1, col]
        for step, shade in zip(steps, colours, strict=True):
            part = rows[rows["step"] == step].sort_values("layer")
            style = {"line": {"color": shade, "width": 1.6}, "marker": {"color": shade, "size": 4}}
            named = {"name": f"step {step}", "legendgroup": str(step), "showlegend": col == 0}
            hover = f"step {step}, layer %{{customdata}}: %{{y:.4g}}"
            lines.line(top, part["depth"], part["value"], hover, customdata=part["layer"], **style, **named)
        over = rows[(rows["layer"] > 0) | (rows["layer"].max() == 0)].groupby("step")["value"].mean()
        marks = [(ARMS[1], "x", 9) if step in suspects else (INK, "circle", 5) for step in over.index]
        marker: Settings = dict(zip(("color", "symbol", "size"), zip(*marks, strict=True), strict=True))
        style = {"line": {"color": INK, "width": 1.8}, "marker": marker}
        lines.line(bottom, range(len(over)), over, "step %{customdata}: %{y:.4g}", customdata=over.index, **style)
        at, scale = heat.spread(len(over), 6), Values.of(words, rows.loc[~tables.aside(rows), "value"]).axis()
        top.start = rows.loc[rows["depth"] > 0, "depth"].min()
        bottom.x(title={"text": "step"}, tickvals=at, ticktext=[f"{over.index[i]:g}" for i in at])
        top.x(**DEPTH_AXIS, title={"text": "relative depth"})
        top.y(**scale)
        bottom.y(**scale)
        changes.append(f"{words.title} {over.iloc[0]:.3g} to {over.iloc[-1]:.3g}")
    canvas.legend_beside()
    meaning = "Top: the profile at each step, from faint (early) to strong (late). Bottom: mean over layers 1..L."
    reading = f"From step {steps[0]} to {steps[-1]}, mean over layers: {'; '.join(changes)}."
    reading = " ".join([*summary.suspects(study, model), reading])
    caption = "Steps are equally spaced below." + (" Crosses: suspect." if suspects else "")
    data = table[table["metric"].isin(metrics)]
    return Figure(f"Along training: {model}", canvas.figure(), meaning, reading, caption, data=data)
