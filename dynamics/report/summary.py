"""The report in words and numbers: key numbers, what a figure shows, how its numbers were computed."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from dynamics.report import tables
from dynamics.report.arms import Arm, Settings, flatten
from dynamics.report.blocks import Table, TableRow
from dynamics.report.names import CORE, DASH, QUALITY, capital, compact, estimate
from dynamics.report.plot.style import looks
from dynamics.report.study import Study

LAYER_0 = "layer 0 (the embeddings) is in no mean and no peak and sets no axis: it may lie outside the panel"
COVERED = {"clm": "every character (clm)", "mlm": "masked characters only (mlm)"}


def objective(arm: Arm) -> str:
    """Return what the learning curves of an arm cover."""
    return COVERED.get(arm.objective, arm.objective or "objective unknown")


def join(parts: Iterable[str]) -> str:
    """Return parts as sentences, empty ones left out.

    >>> join(["layers 1..L", "", "n = 4096."])
    'Layers 1..L. n = 4096.'
    """
    return " ".join(f"{capital(part) if part[:3] != 'n =' else part}".rstrip(".") + "." for part in parts if part)


def by_arm(study: Study, rows: list[TableRow], title: str = "", note: str = "", style: str = "settings") -> Table:
    """Return a table with a column for each arm."""
    return Table(tuple(study.arm_names), rows, title, note, tuple(looks(study.arm_names).values()), style)


def key_numbers(study: Study) -> list[TableRow]:
    """Return what to know first: size, seeds, final validation by objective, and where the geometry went."""
    arms, steps = study.arms, [_last_steps(study, arm) for arm in study.arms]
    sizes = [arm.settings.get("parameters") for arm in arms]
    rows = [
        TableRow("seeds", tuple(str(len(arm.seeds)) if any(arm.seeds) else DASH for arm in arms)),
        TableRow("parameters", tuple(f"{n:,}".replace(",", "\u202f") if isinstance(n, int) else DASH for n in sizes)),
        # Step 0 is that of runs that were never trained, or without a step.
        TableRow("last step", tuple(_range(last) if last.max() > 0 else DASH for last in steps)),
    ]
    for metric in (name for name in tables.curve_metrics(study.rows) if name in QUALITY):
        words, tested = study.words(metric), tables.over_seeds(tables.geometry(study.rows, "test", metric))
        sites = {"validation": _validation(tables.curves(study.rows, metric), study.arm_names)}
        sites["test"] = {name: _value(tables.final(tested), name) for name in study.arm_names}
        for site, values in sites.items():
            for covered in dict.fromkeys(objective(arm) for arm in arms):
                cells = tuple(values[arm.name] if objective(arm) == covered else DASH for arm in arms)
                rows.append(TableRow(f"{site} {words.unit or words.title}, {covered}", cells))
    for quantity in tables.quantities(study.rows):
        if quantity[1:] in CORE:
            rows += _quantity(study, quantity)
    return [row for row in rows if any(cell != DASH for cell in row.cells)]


def legend(study: Study, table: Table) -> str:
    """Return what the arrows, brackets and layers of the key numbers are, as far as there are any."""
    cells = [cell for row in table.rows for cell in row.cells]
    sites = set(study.rows["site"])
    return join(
        [
            "arrows: mean over layers 1..L, from the first measured step to the last" if "→" in "".join(cells) else "",
            "brackets: 95 % interval, of sampling error for one seed, over seeds for three or more; two seeds have none"
            if "[" in "".join(cells)
            else "",
            study.layers("residual") if "residual" in sites else "",
        ]
    )


def is_dimension(study: Study, metric: str) -> bool:
    """Whether a quantity counts dimensions: no set of states has more than its width."""
    return metric.startswith("intrinsic_dimension") or study.words(metric).unit == "dimensions"


def width(study: Study, metric: str) -> int | None:
    """Return the width of the widest states, where a quantity counts dimensions; else None."""
    widths = [arm.width for arm in study.arms if arm.width is not None]
    return max(widths, default=None) if is_dimension(study, metric) else None


def above_width(study: Study, arm: Arm, metric: str, value: float) -> str:
    """Return a flag where a dimension is above the width of the states; else nothing."""
    if arm.width is None or not value > arm.width or not is_dimension(study, metric):
        return ""
    return f" (above the width, {arm.width}: no dimension)"


def beyond_width(study: Study, rows: pd.DataFrame, metric: str) -> str:
    """Return in which layers a dimension is above the width of the states, in a sentence; empty where in none."""
    parts = []
    for arm in study.arms if is_dimension(study, metric) else ():
        beyond = rows[(rows["arm"] == arm.name) & (rows["value"] > (arm.width or np.inf))]
        if len(beyond):
            layers = ", ".join(str(layer) for layer in sorted(set(beyond["layer"])))
            parts.append(f"{arm.name} (width {arm.width}) in layers {layers}")
    return f"No dimension, for it is above the width: {'; '.join(parts)}." if parts else ""


def peaks(study: Study, highest: pd.DataFrame, metric: str) -> dict[str, str]:
    """Return the highest layer (`tables.highest`) of each arm, and whether its interval tells it from the others."""
    found = {}
    for row in highest.to_dict("records"):
        arm = next(arm for arm in study.arms if arm.name == row["arm"])
        flag = above_width(study, arm, metric, row["value"]) + ("" if row["clear"] else ", not told from the next")
        found[arm.name] = f"layer {row['layer']}: {estimate(row)}{flag}"
    return found


def _quantity(study: Study, quantity: tables.Quantity) -> list[TableRow]:
    along, site, metric = quantity
    table = tables.without_heads(tables.geometry(study.rows, site, metric, along))
    means = tables.over_seeds(tables.over_layers(table))
    names, title = study.arm_names, study.heading(site, metric)
    ends = tables.final(means).set_index("arm")["value"]
    flags = {arm.name: above_width(study, arm, metric, ends.get(arm.name, np.nan)) for arm in study.arms}
    rows = [TableRow(title, tuple(_change(means, name) + flags[name] for name in names))]
    if (site, metric) == CORE[0] and table["layer"].nunique() > 1:
        highest = peaks(study, tables.highest(tables.final(tables.over_seeds(table))), metric)
        rows.append(TableRow(f"{title}, highest layer at the end", tuple(highest.get(name, DASH) for name in names)))
    if metric == "intrinsic_dimension":
        moved = means.groupby("arm")["at"].transform("nunique") > 1
        top = means[moved].dropna(subset="value")
        top = top.loc[top.groupby("arm")["value"].idxmax()].assign(low=np.nan)
        tops = top.set_index("arm")["value"]
        flags = {arm.name: above_width(study, arm, metric, tops.get(arm.name, np.nan)) for arm in study.arms}
        cells = tuple(_value(top, name, f" at {along}") + flags[name] for name in names)
        rows.append(TableRow(f"{title}, highest value", cells))
    return rows


def _change(means: pd.DataFrame, arm: str) -> str:
    start, end = _value(tables.final(means, "min").assign(low=np.nan), arm), _value(tables.final(means), arm)
    is_single = means.loc[means["arm"] == arm, "at"].nunique() < 2  # a single measurement is no change
    return end if is_single or (start, end) == (DASH, DASH) else f"{start} → {end}"


def _value(table: pd.DataFrame, arm: str, at: str = "") -> str:
    """Return the value of an arm with its interval, and with `at` its position; a dash unless there is one row."""
    rows = table[table["arm"] == arm]
    text = estimate(rows.iloc[0]) if len(rows) == 1 else DASH
    return f"{text}{at} {compact(rows['at'].iloc[0])}" if at and text != DASH else text


def _last_steps(study: Study, arm: Arm) -> "pd.Series[int]":
    """Return the last step of each run of an arm."""
    return study.rows[study.rows["arm"] == arm.name].groupby("run")["step"].max()


def _range(numbers: "pd.Series[int]") -> str:
    """Return the lowest and the highest number, or the only one."""
    return " to ".join(dict.fromkeys([str(numbers.min()), str(numbers.max())]))


def _validation(table: pd.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Return the last validation of each arm."""
    means = tables.final(tables.curve_means(table[table["site"] == "validation"]))
    return {name: _value(means, name) for name in names}


def last_validation(table: pd.DataFrame, names: Sequence[str]) -> str:
    """Return the end of the learning curves (`tables.curves`) of the arms `names`, in a sentence."""
    parts = [f"{name}: {value}" for name, value in _validation(table, names).items() if value != DASH]
    return f"Last validation. {'; '.join(parts)}." if parts else ""


def reading(table: pd.DataFrame, names: Sequence[str], along: str) -> str:
    """Return what a figure of geometry (`tables.geometry` without heads) shows, in numbers.

    `names` are the arms, `along` is what the positions are.
    """
    means, best = tables.over_seeds(tables.over_layers(table)), tables.highest(tables.final(tables.over_seeds(table)))
    layers = best.set_index("arm")["layer"]
    changes = {name: _change(means, name) for name in names}
    parts = [
        f"{name}: {change}" + (f", highest at layer {layers[name]}" if name in layers else "")
        for name, change in changes.items()
        if change != DASH or name in layers
    ]
    along = f", from the first to the last {along}" if "→" in "".join(changes.values()) else ""
    return f"Mean over layers 1..L{along}. {'; '.join(parts)}." if parts else ""


def points(table: pd.DataFrame) -> str:
    """Return the n of a figure: `n = 4096`, or a range."""
    counts = table.loc[table["n"] > 0, "n"]
    return f"n = {_range(counts)}" if len(counts) else "n unknown"


def intervals(table: pd.DataFrame, shape: str) -> str:
    """Return what the intervals of a figure are; `shape` says how they are drawn."""
    seeds = table.groupby("arm")["seed"].nunique()
    several, few = bool((seeds >= tables.BANDS).any()), bool(((seeds > 1) & (seeds < tables.BANDS)).any())
    single = bool(np.isfinite(table.loc[table["arm"].map(seeds) == 1, "low"]).any())
    over_seeds = f"mean over seeds, {shape} = 95 % t interval over seeds (on the scale of the quantity's range), "
    over_seeds += "thin lines = seeds"
    return join(
        [
            over_seeds * several,
            "two or three seeds: their mean, and points = seeds, too few for a band" * few,
            f"{'One seed: ' * (several or few)}{shape} = 95 % interval of sampling error" * single,
        ]
    )


def caption(study: Study, table: pd.DataFrame, site: str, metric: str) -> str:
    """Return how the numbers of a figure were computed: estimator, settings, n, layers, intervals, gaps."""
    words, by_head = study.words(metric), bool((table["head"] >= 0).all())
    several = bool((table.groupby("arm")["seed"].nunique() > 1).any())
    heads = "mean over seeds" if by_head and several else ""
    if not by_head and site in ("query", "key", "value", "attention"):
        heads = "values of a layer are means over its heads" + (", where opposite signs cancel" if words.signed else "")
    shapes = [intervals(table, "bars and bands")]
    shapes += ["highest layer: filled where it has an interval and this excludes the runner-up"]
    drawn, measured = tables.thin(table)["at"].nunique(), table["at"].nunique()
    missing = int((~np.isfinite(table["value"])).sum())
    return join(
        [
            f"Estimator: {words.estimator or metric}{_options(study, site, metric)}",
            points(table),
            study.layers(site),
            LAYER_0 if tables.aside(table).any() else "",
            heads,
            *([] if by_head else shapes),
            f"{drawn} of {measured} measured positions are drawn" if drawn < measured else "",
            *suspects(study),
            f"{missing} of {len(table)} values are undefined or not measured: left as gaps" if missing else "",
        ]
    )


def _options(study: Study, site: str, metric: str) -> str:
    """Return the options that a metric was measured with, in brackets."""
    options: Settings = {}
    for arm in study.arms:
        suite = arm.settings.get("metrics")
        for metrics in (suite, suite.get(site)) if isinstance(suite, dict) else ():
            if isinstance(metrics, dict) and isinstance(metrics.get(metric), dict):
                options |= flatten(metrics[metric])
    return f" ({', '.join(f'{key} = {value}' for key, value in options.items())})" if options else ""


def suspects(study: Study, model: str = "") -> list[str]:
    """Return a sentence for each model (or for one) of which an audit suspects checkpoints."""
    by_model: dict[str, list[str]] = {}
    for facts in (facts for verdicts in study.verdicts.values() for facts in verdicts.values() if facts["suspect"]):
        by_model.setdefault(str(facts["model"]), []).append(str(facts["revision"]))
    return [
        f"Of {name}, {', '.join(revisions)} {'are' if len(revisions) > 1 else 'is'} suspect: see Audit."
        for name, revisions in by_model.items()
        if model in ("", name)
    ]


def notes(study: Study) -> list[str]:
    """Return what a reader must know before comparing, for example runs that did not finish."""
    texts = [*study.skipped, *(suspects(study) if study.arms else [])]
    for run, info in study.runs.items():
        if info.status not in ("", "done"):
            texts.append(f"Run {run} is marked {info.status}: its curves may be incomplete.")
        if not info.to_dict():
            texts.append(f"Run {run} has no run.json: its settings and provenance are unknown.")
    for key, what in (("probe.sha256", "evaluation tokens"), ("data.sha256", "training text")):
        if len({flatten(info.to_dict()).get(key) for info in study.runs.values()} - {None}) > 1:
            texts.append(f"The runs do not share their {what} ({key} differs): compare them with care.")
    for arm in study.arms:
        steps = _last_steps(study, arm)
        if steps.nunique() > 1:
            texts.append(
                f"The runs of {arm.name} end at different steps ({_range(steps)}): means over seeds stop at "
                "the earliest; leave a short run out to see the others further."
            )
    for _, site, metric in tables.quantities(study.rows):
        rows = study.rows[(study.rows["site"] == site) & (study.rows["metric"] == metric)]
        if not np.isfinite(rows["value"]).any():
            texts.append(f"{study.heading(site, metric)} is undefined wherever it was measured: it has no figure.")
    return texts
