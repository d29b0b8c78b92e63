"""What untrained blocks do: cones and sharpness against the norm of a bias, without any training."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from dynamics.report import summary, tables
from dynamics.report.arms import HISTORY, flatten, settings_of
from dynamics.report.figure import Compared, Figure, PageBlock, Section, Table, Text
from dynamics.report.names import Words
from dynamics.report.plot import heat, lines
from dynamics.report.plot.canvas import Axes, Canvas
from dynamics.report.plot.style import INK, Looks, looks, panel_title
from dynamics.report.plot.values import StepScale, Values
from dynamics.report.sections.probe.designs import BIASES, CONE, PARTS, ProbeDesign, designs
from dynamics.report.sections.probe.readings import cone_reading, sharpness_reading
from dynamics.report.sections.settings import setting_rows
from dynamics.report.study import Study
from dynamics.run_info import ProbeInfo

DASHES = {"parallel": "dash", "opposed": "dot"}
"""Of lines that are to lie on another one."""
SHARPNESS = ("score_variance", "normalized_entropy", "max_probability", "min_probability")
AXIS = "norm of the bias, β"
LEAST = 1e-6
"""Where the axis of a probability that vanishes ends."""
INTRODUCTION = (
    "Nothing here was trained: inputs without structure, with one bias added to all of them, pass through blocks whose "
    "weights have just been drawn."
)


def applies(study: Study) -> bool:
    """Whether there is a probe among the runs."""
    return bool(study.of_kind(ProbeInfo))


def section(study: Study) -> Section | None:
    """Return the figures of all designs, and their settings."""
    members = designs(study)
    blocks: list[PageBlock] = [Text(INTRODUCTION), *figures(study, members), settings(study)]
    compared = [Compared(design.name, runs=[design.run]) for design in members]
    return Section("Untrained blocks", "probe", "Untrained blocks", blocks, compared) if len(blocks) > 2 else None


def settings(study: Study) -> Table:
    """Return every setting of the probes: a column for each."""
    aside = (*HISTORY, "kind", "designs")
    probes = study.of_kind(ProbeInfo)
    columns = [flatten({k: v for k, v in settings_of(info).items() if k not in aside}) for info in probes.values()]
    return Table(tuple(probes), setting_rows(columns), "Settings of the probe")


def figures(study: Study, members: Sequence[ProbeDesign]) -> list[Figure]:
    """Return the figures of all designs; of several, those that compare them come first and the rest is folded."""
    are_several = len(members) > 1
    drawn = [_compared(study, members)] if are_several else []
    for design in members:
        for plot in (_cone, _sharpness, _shape, _maps):
            figure = plot(study, design)
            if figure and are_several:
                figure = replace(figure, title=f"{figure.title}: {design.name}").folded()
            drawn.append(figure)
    return [figure for figure in drawn if figure]


def _cone(study: Study, design: ProbeDesign) -> Figure | None:
    """Draw cosine and norms against the bias, after the first block and after the last."""
    return _by_part(
        study,
        design,
        [metric for metric in CONE if design.has(metric)],
        "The cone: outputs against inputs",
        "Cosine of two states taken at random, and their mean norm, as the bias that all inputs share grows. "
        "Where a line lies above the input's, the block has narrowed the cone by itself.",
        cone_reading(design),
        "Dotted: the exact values for inputs without structure, β²/(β² + d) and √(β² + d). Sequences share what their "
        "attention averages over: within one the cosine is higher than over all pairs.",
    )


def _shape(study: Study, design: ProbeDesign) -> Figure | None:
    """Draw every other quantity of states."""
    states = design.rows.loc[design.rows["site"] == "residual", "metric"].unique()
    return _by_part(
        study,
        design,
        [metric for metric in states if metric not in CONE and design.has(metric)],
        "The shape of the states",
        "What else the bias does to the cloud: except for the norm of the mean, these quantities do not see the bias "
        "itself, only what the block does with it.",
        "",
        f"Spectra and neighbours use {design.info.sample} states of each draw at most." * bool(design.info.sample),
    )


def _by_part(
    study: Study, design: ProbeDesign, metrics: Sequence[str], title: str, meaning: str, reading: str, caption: str
) -> Figure | None:
    """Draw quantities of states, a row for the first block and one for the last, a line for each part."""
    rows = design.rows[design.rows["metric"].isin(metrics)]
    if rows.empty:
        return None
    panels = [(metric, depth) for depth in sorted({1, design.layers}) for metric in metrics]
    styles = {PARTS[part]: look for part, look in looks(list(PARTS)).items() if part in set(rows["part"])}
    titles = [panel_title(study.words(metric).title, f"block {depth} of {design.layers}") for metric, depth in panels]
    canvas = Canvas.grid(titles, len(metrics))
    for axes, (metric, depth) in zip(canvas.panels, panels, strict=False):
        table = design.table(metric, depth, design.rows["part"].map(PARTS), bias="input")
        _panel(axes, table, study.words(metric), styles)
        if metric in CONE:
            _expected(axes, design.width, metric, StepScale.of(table["at"]))
    canvas.legend(styles)
    return Figure(title, canvas.figure(), meaning, reading, summary.join([_draws(design, rows), caption]))


def _sharpness(study: Study, design: ProbeDesign) -> Figure | None:
    """Draw the first block's attention against the bias, wherever it was put."""
    metrics = [metric for metric in SHARPNESS if design.has(metric)]
    rows = design.rows[design.rows["metric"].isin(metrics)]
    if rows.empty:
        return None
    styles = {
        BIASES[bias]: replace(look, dash=DASHES.get(bias, "solid"))
        for bias, look in looks(list(BIASES)).items()
        if bias in set(rows["bias"])
    }
    titles = [panel_title(study.words(metric).title, f"block 1 of {design.layers}") for metric in metrics]
    canvas = Canvas.grid(titles, panel=230)
    for axes, metric in zip(canvas.panels, metrics, strict=False):
        table = design.table(metric, 1, design.rows["bias"].map(BIASES))
        _panel(axes, table, study.words(metric), styles)
        if metric == "min_probability":
            ends = np.log10([LEAST, max(float(table["value"].max()), LEAST) * 3])
            axes.y(type="log", range=ends.tolist(), dtick=1, exponentformat="power")
    canvas.legend(styles)
    return Figure(
        "Sharpness of attention",
        canvas.figure(),
        "How unequal a query's scores are and what softmax makes of them, as a bias grows that all tokens share.",
        sharpness_reading(study, design),
        summary.join(
            [
                _draws(design, rows),
                "On the input, β is the norm of a bias of the block's input; on queries and keys, of a bias of "
                "every head, in one random direction for both",
                "softmax ignores what a bias on the keys adds to a whole row, so the lines of queries, of both "
                "parallel and of both opposed should coincide",
                f"the axis of the least probability ends at {LEAST:g}" * ("min_probability" in metrics),
            ]
        ),
    )


def _maps(study: Study, design: ProbeDesign) -> Figure | None:
    """Draw depth by bias, each quantity in its own colours."""
    rows = design.rows[(design.rows["bias"] == "input") & design.rows["part"].isin(["", "input", "mlp"])]
    if rows.empty:
        return None
    metrics = [m for m in dict.fromkeys([*CONE, *rows["metric"].unique(), *SHARPNESS]) if design.has(m)]
    titles = [panel_title(study.words(metric).title) for metric in metrics]
    height = min(300, 40 + 34 * (design.layers + 1))
    canvas = Canvas.grid(titles, panel=height, gap=84, top=56, between=0.1, right=84)
    for axes, metric in zip(canvas.panels, metrics, strict=False):
        colours = f"coloraxis{axes.number}"
        means = tables.over_seeds(rows[rows["metric"] == metric].assign(arm="")[tables.COLUMNS])
        table = means.pivot(index="layer", columns="at", values="value")
        values = Values.of(study.words(metric), means["value"])
        heat.over_positions(axes, table, values, "β = %{x}, layer %{y}", most=6, coloraxis=colours)
        canvas.set(**{colours: values.colours(canvas.bar("", axes.row, axes.col))})
        axes.x(title={"text": AXIS})
        axes.y(title={"text": "layer"}, dtick=-(-len(table) // 8), tickformat="d")
    return Figure(
        "Depth by bias",
        canvas.figure(),
        "Every quantity after each block: down the cone's growth with depth, across its growth with the bias.",
        "",
        summary.join(["Layer 0 = the input, 1..L = the block's output (attention: in the block)", "mean over seeds"]),
    )


def _compared(study: Study, members: Sequence[ProbeDesign]) -> Figure | None:
    """Draw all designs, a line for each: what differs at a glance."""
    last = "output of the last block"
    wanted = [
        ("mean_cosine", 1, "attention", "attention alone, block 1"),
        ("mean_cosine", -1, "mlp", last),
        ("mean_cosine", -1, "gain", f"{last}, less the input's"),
        ("mean_norm", -1, "mlp", last),
        ("anisotropy", -1, "mlp", last),
        ("intrinsic_dimension", -1, "mlp", last),
        ("normalized_entropy", 1, "", "block 1"),
        ("score_variance", 1, "", "block 1"),
    ]
    panels = []
    for metric, depth, part, where in wanted:
        table = pd.concat(_line(design, metric, depth, part) for design in members)
        if np.isfinite(table["value"]).any():
            panels.append((study.words(metric), where, table))
    if not panels:
        return None
    styles = looks([design.short for design in members])
    canvas = Canvas.grid([panel_title(words.title, where) for words, where, _ in panels])
    for axes, (words, _, table) in zip(canvas.panels, panels, strict=False):
        _panel(axes, table, words, styles, is_flat=True)
    canvas.legend(styles)
    rows = pd.concat(design.rows for design in members)
    return Figure(
        "The designs compared",
        canvas.figure(),
        "Inputs of one kind, with biases of the same norms, through blocks of each design.",
        "",
        summary.join([_draws(members[0], rows), "each design has its own layers"]),
    )


def _line(design: ProbeDesign, metric: str, depth: int, part: str) -> pd.DataFrame:
    """Return one quantity of a design, after the last block where `depth` is negative."""
    if part == "gain":
        keys = ["seed", "at"]
        output, inputs = _line(design, metric, depth, "mlp"), _line(design, metric, 0, "input")
        pairs = output.merge(inputs[[*keys, "value"]], on=keys, suffixes=("", "_in"))
        pairs["value"] -= pairs.pop("value_in")
        return pairs.assign(low=np.nan, high=np.nan)
    layer = design.layers if depth < 0 else depth
    return design.table(metric, layer, design.short, bias="input", part=part, layer=layer)


def _panel(axes: Axes, table: pd.DataFrame, words: Words, looks: Looks, is_flat: bool = False) -> None:
    """Draw lines against the norm of the bias: mean, band and a thin line for each seed.

    Lines that lie on one another stay visible: the first are broad (unless `is_flat`), later ones may be dashed;
    these show their means alone.
    """
    scale, values = StepScale.of(table["at"]), Values.of(words, table["value"])
    widths = [1.8] * len(looks) if is_flat else np.linspace(3.4, 1.4, len(looks)).tolist()
    for (name, look), width in zip(looks.items(), widths, strict=True):
        if (table["arm"] == name).any():
            size, is_banded = 2.6 + 1.4 * width, look.dash == "solid"
            lines.means(axes, scale, table, name, look, width, size, is_banded)
    axes.x(**scale.axis(AXIS))
    axes.y(**values.axis())


def _expected(axes: Axes, width: int, metric: str, scale: StepScale) -> None:
    """Draw the exact expectation for inputs without structure."""
    beta = np.geomspace(scale.smallest, scale.largest, 60)
    square = beta**2 + width
    lines.dotted(axes, beta, np.sqrt(square) if metric == "mean_norm" else beta**2 / square, INK)


def _draws(design: ProbeDesign, rows: pd.DataFrame) -> str:
    """Return what was drawn, and how seeds are shown."""
    info = design.info
    zero = "at the left end β = 0, set apart" if (rows["at"] == 0).any() else ""
    draw = f"each draw has weights, {info.batch} sequences of {info.inputs} inputs and a bias of its own"
    return summary.join([zero, draw, summary.intervals(rows.assign(arm=""), "bands")])
