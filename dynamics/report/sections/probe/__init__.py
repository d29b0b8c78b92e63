"""What untrained blocks do: cones and sharpness against the norm of a bias, without any training."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from dynamics.report import effects, summary, tables
from dynamics.report.arms import HISTORY, flatten, settings_of
from dynamics.report.blocks import Compared, Figure, PageBlock, Section, Table, Text
from dynamics.report.names import Words, capital, number
from dynamics.report.plot import heat, lines
from dynamics.report.plot.canvas import Canvas
from dynamics.report.plot.style import INK, Looks, looks, panel_title
from dynamics.report.plot.values import StepScale, Values
from dynamics.report.sections.probe.designs import BIASES, CONE, PARTS, ProbeDesign, designs
from dynamics.report.sections.settings import setting_rows
from dynamics.report.study import Study
from dynamics.run_info import ProbeInfo

DASHES = {"parallel": "dash", "opposed": "dot"}  # of lines that are to lie on another one
SHARPNESS = ("score_variance", "normalized_entropy", "max_probability", "min_probability")
AXIS = "norm of the bias, β"
FOUND = 4  # designs that are among the findings
LEAST = 1e-6  # where the axis of a probability that vanishes ends
LAST = "output of the last block"
COMPARED = (  # metric, layer (-1: the last), part, and where that is
    ("mean_cosine", 1, "attention", "attention alone, block 1"),
    ("mean_cosine", -1, "mlp", LAST),
    ("mean_cosine", -1, "gain", f"{LAST}, less the input's"),
    ("mean_norm", -1, "mlp", LAST),
    ("anisotropy", -1, "mlp", LAST),
    ("intrinsic_dimension", -1, "mlp", LAST),
    ("normalized_entropy", 1, "", "block 1"),
    ("score_variance", 1, "", "block 1"),
)
LinePanel = tuple[Words, str, pd.DataFrame]  # words, the soft line below the title, what is drawn


def applies(study: Study) -> bool:
    """Whether there is a probe among the runs."""
    return bool(study.of_kind(ProbeInfo))


def section(study: Study) -> Section | None:
    """Return the figures of all designs, and their settings."""
    members = designs(study)
    introduction = "Nothing here was trained: inputs without structure, with one bias added to all of them, pass "
    introduction += "through blocks whose weights have just been drawn."
    blocks: list[PageBlock] = [Text(introduction), *figures(study, members), settings(study)]
    compared = [Compared(design.name, runs=[design.run]) for design in members]
    heading, findings = "What a shared bias does", [text for design in members[:FOUND] if (text := _finding(design))]
    return Section(heading, "probe", "Shared bias", blocks, compared, findings) if len(blocks) > 2 else None


def _finding(design: ProbeDesign) -> str:
    """Return what attention alone does to the cone of its input, in a sentence; empty where that was not measured."""
    at, blank = _half_bias(design), {"low": np.nan, "high": np.nan}
    before = design.of(CONE[0], at=at, part="input").assign(**blank)
    after = design.of(CONE[0], at=at, part="attention", layer=1).assign(**blank)
    if before.empty or after.empty:
        return ""
    effect = effects.difference(before, after)
    basis = effect.basis.replace("seeds", "draws") or "too few draws for an interval"
    values = f"from {number(before['value'].mean())} to {number(after['value'].mean())}"
    return f"{design.name}: at β = {at:g}, attention alone takes the mean cosine {values} ({effect.text}; {basis})."


def settings(study: Study) -> Table:
    """Return every setting of the probes: a column for each."""
    aside, probes = (*HISTORY, "kind", "designs"), study.of_kind(ProbeInfo)
    columns = [flatten({k: v for k, v in settings_of(info).items() if k not in aside}) for info in probes.values()]
    return Table(tuple(probes), setting_rows(columns), "Settings of the probe")


def figures(study: Study, members: Sequence[ProbeDesign]) -> list[Figure]:
    """Return the figures of all designs; of several, those that compare them come first and the rest is folded."""
    drawn = [_compared(study, members)] if len(members) > 1 else []
    for design in members:
        for figure in (plot(study, design) for plot in (_cone, _sharpness, _shape, _maps)):
            if figure and len(members) > 1:
                figure = replace(figure, title=f"{figure.title}: {design.name}").folded()
            drawn.append(figure)
    return [figure for figure in drawn if figure]


def _cone(study: Study, design: ProbeDesign) -> Figure | None:
    meaning = "Cosine of two states taken at random, and their mean norm, as the bias that all inputs share grows. "
    meaning += "Where a line lies above the input's, the block has narrowed the cone by itself."
    caption = "Dotted: the exact values for inputs without structure, β²/(β² + d) and √(β² + d). Sequences share what "
    caption += "their attention averages over: within one the cosine is higher than over all pairs."
    return _by_part(study, design, CONE, "The cone: outputs against inputs", meaning, cone_reading(design), caption)


def cone_reading(design: ProbeDesign) -> str:
    """Return the cone in numbers, near the norm at which half of an input is bias."""
    at = _half_bias(design)
    places = {PARTS[part]: (part, min(1, i)) for i, part in enumerate(PARTS)}
    if design.layers > 1:
        places[f"output of block {design.layers}"] = "mlp", design.layers
    parts = []
    for name, (part, layer) in places.items():
        pooled, within = (design.of(metric, at=at, part=part, layer=layer)["value"].mean() for metric in CONE[:2])
        if np.isfinite(pooled):
            parts.append(f"{name} {number(pooled)}" + (f" ({number(within)})" if np.isfinite(within) else ""))
    return f"Mean cosine at β = {at:g} (within a sequence): {', '.join(parts)}." if parts else ""


def _half_bias(design: ProbeDesign) -> float:
    """Return the norm of a bias that is nearest, on a log scale, to that at which half of an input is bias."""
    norms = [float(norm) for norm in design.rows["at"].unique() if norm > 0] or [0.0]
    return min(norms, key=lambda norm: abs(np.log(norm / design.width**0.5)) if norm else 0.0)


def _shape(study: Study, design: ProbeDesign) -> Figure | None:
    states = design.rows.loc[design.rows["site"] == "residual", "metric"].unique()
    meaning = "What else the bias does to the cloud: except for the norm of the mean, these quantities do not see the "
    meaning += "bias itself, only what the block does with it."
    caption = f"Spectra and neighbours use {design.info.sample} states of each draw at most." * bool(design.info.sample)
    metrics = [metric for metric in states if metric not in CONE]
    return _by_part(study, design, metrics, "The shape of the states", meaning, "", caption)


def _by_part(
    study: Study, design: ProbeDesign, metrics: Sequence[str], title: str, meaning: str, reading: str, caption: str
) -> Figure | None:
    """Draw quantities of states, a row for the first block and one for the last, a line for each part."""
    metrics = [metric for metric in metrics if design.has(metric)]
    rows = design.rows[design.rows["metric"].isin(metrics)]
    if rows.empty:
        return None
    arms = design.rows["part"].map(PARTS)
    styles = {PARTS[part]: look for part, look in looks(list(PARTS)).items() if part in set(rows["part"])}
    cells = [(metric, depth) for depth in sorted({1, design.layers}) for metric in metrics]
    panels = [
        (study.words(metric), f"block {depth} of {design.layers}", design.table(metric, depth, arms, bias="input"))
        for metric, depth in cells
    ]
    canvas = _lines(panels, styles, columns=len(metrics))
    for axes, (metric, _), (_, _, table) in zip(canvas.panels, cells, panels, strict=True):
        if metric in CONE:  # the exact expectation for inputs without structure
            scale = StepScale.of(table["at"])
            beta = np.geomspace(scale.smallest, scale.largest, 60)
            square = beta**2 + design.width
            lines.dotted(axes, beta, np.sqrt(square) if metric == "mean_norm" else beta**2 / square, INK)
    return Figure(
        title, canvas.figure(styles), meaning, reading, summary.join([_draws(design, rows), caption]), data=rows
    )


def _sharpness(study: Study, design: ProbeDesign) -> Figure | None:
    metrics = [metric for metric in SHARPNESS if design.has(metric)]
    if not metrics:
        return None
    rows = design.rows[design.rows["metric"].isin(metrics)]
    styles = {bias: look for bias, look in looks(list(BIASES)).items() if bias in set(rows["bias"])}
    bare = [BIASES[bias] for bias in DASHES]
    styles = {BIASES[bias]: replace(look, dash=DASHES.get(bias, "solid")) for bias, look in styles.items()}
    arms, below = design.rows["bias"].map(BIASES), f"block 1 of {design.layers}"
    panels = [(study.words(metric), below, design.table(metric, 1, arms)) for metric in metrics]
    canvas = _lines(panels, styles, bare=bare, panel=230)
    if "min_probability" in metrics:
        i = metrics.index("min_probability")
        ends = np.log10([LEAST, max(float(panels[i][2]["value"].max()), LEAST) * 3])
        canvas.panels[i].y(type="log", range=ends.tolist(), dtick=1, exponentformat="power")
    caption = "On the input, β is the norm of a bias of the block's input; on queries and keys, of a bias of every "
    caption += "head, in one random direction for both. Softmax ignores what a bias on the keys adds to a whole row, "
    caption += "so the lines of queries, of both parallel and of both opposed should coincide."
    end = f"the axis of the least probability ends at {LEAST:g}" * ("min_probability" in metrics)
    meaning = "How unequal a query's scores are and what softmax makes of them, as a bias grows that all tokens share."
    reading = sharpness_reading(study, design)
    caption = summary.join([_draws(design, rows), caption, end])
    return Figure("Sharpness of attention", canvas.figure(styles), meaning, reading, caption, data=rows)


def sharpness_reading(study: Study, design: ProbeDesign) -> str:
    """Return how far attention moves from its unbiased entropy, for every place of the bias."""
    metric = "entropy" if design.has("entropy") else "normalized_entropy"
    ends = design.rows["at"].min(), design.rows["at"].max()
    parts = []
    for bias, name in BIASES.items():
        first, last = (design.of(metric, at=at, bias=bias, layer=1)["value"].mean() for at in ends)
        if np.isfinite([first, last]).all():
            parts.append(f"{number(first)} → {number(last)} with the bias {name}")
    axis = capital(study.words(metric).axis)
    return f"{axis} from β = {ends[0]:g} to {ends[1]:g}: {', '.join(parts)}." if parts else ""


def _maps(study: Study, design: ProbeDesign) -> Figure | None:
    rows = design.rows[(design.rows["bias"] == "input") & design.rows["part"].isin(["", "input", "mlp"])]
    if rows.empty:
        return None
    metrics = [m for m in dict.fromkeys([*CONE, *rows["metric"].unique(), *SHARPNESS]) if design.has(m)]
    titles = [panel_title(study.words(metric).title) for metric in metrics]
    canvas = Canvas.grid(titles, panel=min(300, 74 + 34 * design.layers), gap=84, top=56, between=0.1, right=84)
    for axes, metric in zip(canvas.panels, metrics, strict=False):
        colours = f"coloraxis{axes.number}"
        means = tables.over_seeds(rows[rows["metric"] == metric].assign(arm="")[tables.COLUMNS])
        table = means.pivot(index="layer", columns="at", values="value")
        values = Values.of(study.words(metric), means["value"])
        heat.over_positions(axes, table, values, "β = %{x}, layer %{y}", most=6, coloraxis=colours)
        canvas.set(**{colours: values.colours(canvas.bar("", axes.row, axes.col))})
        axes.x(title={"text": AXIS})
        axes.y(title={"text": "layer"}, dtick=-(-len(table) // 8), tickformat="d")
    meaning = "Every quantity after each block: down the cone's growth with depth, across its growth with the bias."
    caption = "Layer 0 = the input, 1..L = the block's output (attention: in the block). Mean over seeds."
    return Figure("Depth by bias", canvas.figure(), meaning, caption=caption, data=rows)


def _compared(study: Study, members: Sequence[ProbeDesign]) -> Figure | None:
    panels = []
    for metric, depth, part, below in COMPARED:
        table = pd.concat(_of_design(design, metric, depth, part) for design in members)
        if np.isfinite(table["value"]).any():
            panels.append((study.words(metric), below, table))
    if not panels:
        return None
    styles = looks([design.short for design in members])
    meaning = "Inputs of one kind, with biases of the same norms, through blocks of each design."
    draws = _draws(members[0], pd.concat(design.rows for design in members))
    caption, plot = summary.join([draws, "each design has its own layers"]), _lines(panels, styles, is_flat=True)
    data = pd.concat([table.assign(quantity=words.title, place=below) for words, below, table in panels])
    return Figure("The designs compared", plot.figure(styles), meaning, caption=caption, data=data)


def _of_design(design: ProbeDesign, metric: str, depth: int, part: str) -> pd.DataFrame:
    """Return one quantity of a design, after the last block where `depth` is negative."""
    if part == "gain":
        output, inputs = _of_design(design, metric, depth, "mlp"), _of_design(design, metric, 0, "input")
        pairs = output.merge(inputs[["seed", "at", "value"]], on=["seed", "at"], suffixes=("", "_in"))
        pairs["value"] -= pairs.pop("value_in")
        return pairs.assign(low=np.nan, high=np.nan, least=np.nan, greatest=np.nan)
    layer = design.layers if depth < 0 else depth
    return design.table(metric, layer, design.short, bias="input", part=part, layer=layer)


def _lines(
    panels: Sequence[LinePanel], styles: Looks, is_flat: bool = False, bare: Sequence[str] = (), **sizes: int
) -> Canvas:
    """Draw panels against the norm of the bias: for each look mean, band and a thin line for each seed.

    Lines on one another stay visible: the first are broad (unless `is_flat`); those of `bare` are means alone.
    """
    canvas = Canvas.grid([panel_title(words.title, below) for words, below, _ in panels], **sizes)
    widths = [1.8] * len(styles) if is_flat else np.linspace(3.4, 1.4, len(styles)).tolist()
    for axes, (words, _, table) in zip(canvas.panels, panels, strict=False):
        scale = StepScale.of(table["at"])
        for (name, look), width in zip(styles.items(), widths, strict=True):
            if (table["arm"] == name).any():
                lines.means(axes, scale, table, name, look, width, 2.6 + 1.4 * width, name not in bare)
        axes.x(**scale.axis(AXIS))
        axes.y(**Values.of(words, table["value"]).axis())
    return canvas


def _draws(design: ProbeDesign, rows: pd.DataFrame) -> str:
    """Return what was drawn, and how seeds are shown."""
    info, zero = design.info, "at the left end β = 0, set apart" if (rows["at"] == 0).any() else ""
    draw = f"each draw has weights, {info.batch} sequences of {info.inputs} inputs and a bias of its own"
    return summary.join([zero, draw, summary.intervals(rows.assign(arm=""), "bands")])
