"""What the untrained probe shows: cones and sharpness against the norm of a bias, without any training.

Pure: frames and `run.json` in, plotly figures out.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from dynamics.report import summary, tables
from dynamics.report.drawn import Drawn
from dynamics.report.names import words
from dynamics.report.plot import draw
from dynamics.report.plot.canvas import Canvas, Cell
from dynamics.report.plot.style import INK, SOFT, Look, Scale, looks, plain
from dynamics.report.plot.values import Values
from dynamics.report.sections.probe_designs import BIASES, CONE, PARTS, Design, cone_reading, sharpness_reading

DASHES = {"parallel": "dash", "opposed": "dot"}
"""Of lines that are to lie on another one."""
SHARPNESS = ("score_variance", "normalized_entropy", "max_probability", "min_probability")
AXIS = "norm of the bias, β"
LEAST = 1e-6
"""Where the axis of a probability that vanishes ends."""


def drawn(designs: Sequence[Design]) -> list[Drawn]:
    """The figures of all designs; with several, those that compare them come first and the rest is folded."""
    made = [_compared(designs)] if len(designs) > 1 else []
    for design in designs:
        own = [_cone(design), _sharpness(design), _shape(design), _maps(design)]
        if len(designs) > 1:
            own = [one and one._replace(title=f"{one.title}: {design.name}", folded=True) for one in own]
        made += own
    return [one for one in made if one]


def _cone(design: Design) -> Drawn | None:
    """Cosine and norms against the bias, after the first block and after the last."""
    return _by_part(
        design,
        [metric for metric in CONE if design.has(metric)],
        "The cone: outputs against inputs",
        "Cosine of two states taken at random, and their mean norm, as the bias that all inputs share grows. "
        "Where a line lies above the input's, the block has narrowed the cone by itself.",
        cone_reading(design),
        "Dotted: what inputs without structure give, β²/(β² + d) and √(β² + d). Sequences share what their "
        "attention averages over: within one the cosine is higher than over all pairs.",
    )


def _shape(design: Design) -> Drawn | None:
    """Every other quantity of states."""
    states = design.rows.loc[design.rows["site"] == "residual", "metric"].unique()
    metrics = [metric for metric in states if metric not in CONE and design.has(metric)]
    return _by_part(
        design,
        metrics,
        "The shape of the states",
        "What else the bias does to the cloud: these quantities but for the norm of the mean do not see the bias "
        "itself, only what the block makes of it.",
        "",
        f"Spectra and neighbours use {design.told.get('sample')} states of each draw at most.",
    )


def _by_part(
    design: Design, metrics: Sequence[str], title: str, meaning: str, reading: str, caption: str
) -> Drawn | None:
    """Panels of quantities of states, a row for the first block and one for the last, a line for each part."""
    rows = design.rows[design.rows["metric"].isin(metrics)]
    if rows.empty:
        return None
    depths = sorted({1, design.layers})
    look = {PARTS[part]: how for part, how in looks(list(PARTS)).items() if part in set(rows["part"])}
    titles = [_title(metric, f"block {depth} of {design.layers}") for depth in depths for metric in metrics]
    canvas = Canvas(len(depths), len(metrics), titles, panel=210, gap=88, top=98, between=0.06, share_y=False, lift=46)
    for row, depth in enumerate(depths):
        for col, metric in enumerate(metrics):
            table = design.table(metric, depth, "part", bias="input")
            table["arm"] = table["arm"].map(PARTS)
            _panel(canvas, (row, col), table, metric, look)
            if metric in CONE:
                _expected(canvas, (row, col), design.width, metric, Scale.of(table["at"]))
    _legend(canvas, look)
    return Drawn(title, canvas.figure(), meaning, reading, summary.join([_draws(design, rows), caption]))


def _sharpness(design: Design) -> Drawn | None:
    """The first block's attention against the bias, wherever it was put."""
    metrics = [metric for metric in SHARPNESS if design.has(metric)]
    rows = design.rows[design.rows["metric"].isin(metrics)]
    if rows.empty:
        return None
    look = {
        BIASES[bias]: replace(how, dash=DASHES.get(bias, "solid"))
        for bias, how in looks(list(BIASES)).items()
        if bias in set(rows["bias"])
    }
    titles = [_title(metric, f"block 1 of {design.layers}") for metric in metrics]
    canvas = Canvas(1, len(metrics), titles, panel=230, top=98, between=0.065, share_y=False, lift=46)
    for col, metric in enumerate(metrics):
        table = design.table(metric, 1, "bias")
        table["arm"] = table["arm"].map(BIASES)
        _panel(canvas, (0, col), table, metric, look)
    _legend(canvas, look)
    return Drawn(
        "Sharpness of attention",
        canvas.figure(),
        "How unequal a query's scores are and what softmax makes of them, as a bias grows that all tokens share.",
        sharpness_reading(design),
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


def _maps(design: Design) -> Drawn | None:
    """Depth by bias, each quantity in its own colours."""
    rows = design.rows[(design.rows["bias"] == "input") & design.rows["part"].isin(["", "input", "mlp"])]
    known = [m for m in (*CONE, *rows["metric"].unique(), *SHARPNESS) if design.has(m)]
    metrics = list(dict.fromkeys(known))
    if rows.empty:
        return None
    columns = min(4, len(metrics))
    titles = [_title(metric) for metric in metrics]
    lines = -(-len(metrics) // columns)
    height = min(300, 40 + 34 * (design.layers + 1))
    canvas = Canvas(lines, columns, titles, panel=height, gap=84, top=56, between=0.1, share_y=False, right=84)
    for i, metric in enumerate(metrics):
        cell = divmod(i, columns)
        table = rows[rows["metric"] == metric].assign(arm="")[tables.COLUMNS]
        means = tables.over_seeds(table)
        _map(canvas, cell, means, metric, f"coloraxis{i + 1}" if i else "coloraxis")
    for i in range(len(metrics), lines * columns):
        canvas.x(divmod(i, columns), visible=False)
        canvas.y(divmod(i, columns), visible=False)
    return Drawn(
        "Depth by bias",
        canvas.figure(),
        "Every quantity after each block: down the cone's growth with depth, across its growth with the bias.",
        "",
        summary.join(["Layer 0 = the input, 1..L = the block's output (attention: in the block)", "mean over seeds"]),
    )


def _compared(designs: Sequence[Design]) -> Drawn | None:
    """All designs, a line for each: what differs at a glance."""
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
    shown = []
    for metric, depth, part, where in wanted:
        table = pd.concat(_line(design, metric, depth, part) for design in designs)
        if np.isfinite(table["value"]).any():
            shown.append((_title(metric, where), metric, table))
    if not shown:
        return None
    look = looks([design.short for design in designs])
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    titles = [title for title, _, _ in shown]
    canvas = Canvas(lines, columns, titles, panel=210, gap=88, top=98, between=0.06, share_y=False, lift=46)
    for i, (_, metric, table) in enumerate(shown):
        _panel(canvas, divmod(i, columns), table, metric, look, flat=True)
    for i in range(len(shown), lines * columns):
        canvas.x(divmod(i, columns), visible=False)
        canvas.y(divmod(i, columns), visible=False)
    _legend(canvas, look)
    rows = pd.concat(design.rows for design in designs)
    return Drawn(
        "The designs compared",
        canvas.figure(),
        "Inputs of one kind, with biases of the same norms, through blocks of each design.",
        "",
        summary.join([_draws(designs[0], rows), "layers are each design's own"]),
    )


def _line(design: Design, metric: str, depth: int, part: str) -> pd.DataFrame:
    """One quantity of a design, after the last block where `depth` is negative."""
    layer = design.layers if depth < 0 else depth
    if part == "gain":
        keys = ["seed", "at"]
        out, given = (_line(design, metric, at, of) for at, of in ((depth, "mlp"), (0, "input")))
        apart = out.merge(given[[*keys, "value"]], on=keys, suffixes=("", "_in"))
        apart["value"] -= apart.pop("value_in")
        return apart.assign(low=np.nan, high=np.nan)
    table = design.table(metric, layer, "metric", bias="input", part=part)
    return table[table["layer"] == layer].assign(arm=design.short)


def _panel(
    canvas: Canvas, cell: Cell, table: pd.DataFrame, metric: str, look: dict[str, Look], flat: bool = False
) -> None:
    """Lines against the norm of the bias: mean, band and a thin line for each seed.

    Lines that lie on one another stay visible: the first are broad (but where `flat`), later ones may be dashed;
    these show their means alone.
    """
    scale, values = Scale.of(table["at"]), Values.of(metric, table["value"])
    widths = [1.8] * len(look) if flat else np.linspace(3.4, 1.4, len(look))
    for (name, how), width in zip(look.items(), widths, strict=True):
        mine = table[table["arm"] == name]
        if mine.empty:
            continue
        means = tables.over_seeds(mine)
        if how.dash == "solid":
            draw.seeds(canvas, cell, scale, mine, name, how)
            draw.band(canvas, cell, scale, means, how)
        shown = {"line": how.line(float(width)), "marker": how.marker(2.6 + 1.4 * float(width))}
        draw.line(canvas, cell, scale, means, plain(name), **shown)
    canvas.x(cell, **scale.axis(AXIS))
    canvas.y(cell, **values.axis())
    if metric == "min_probability":
        ends = np.log10([LEAST, max(float(table["value"].max()), LEAST) * 3])
        canvas.y(cell, type="log", range=ends.tolist(), dtick=1, exponentformat="power")


def _expected(canvas: Canvas, cell: Cell, width: int, metric: str, scale: Scale) -> None:
    """The exact expectation for inputs without structure."""
    beta = np.geomspace(scale.smallest, scale.largest, 60)
    square = beta**2 + width
    value = np.sqrt(square) if metric == "mean_norm" else beta**2 / square
    dots = {"line": {"dash": "dot", "width": 1.5, "color": INK}, "hoverinfo": "skip"}
    canvas.add(cell, type="scatter", mode="lines", x=beta, y=value, **dots)


def _map(canvas: Canvas, cell: Cell, means: pd.DataFrame, metric: str, axis: str) -> None:
    values = Values.of(metric, means["value"])
    table = means.pivot(index="layer", columns="at", values="value")
    canvas.add(
        cell,
        type="heatmap",
        x=draw.positions(canvas, cell, table.columns, most=6),
        y=table.index.to_numpy(),
        z=values.shade(table.to_numpy()),
        customdata=table.to_numpy(),
        coloraxis=axis,
        hoverongaps=False,
        hovertemplate="β = %{x}, layer %{y}: %{customdata:.4g}<extra></extra>",
    )
    bar = canvas.bar("", cell[0], cell[1])
    colours = values.colours(bar)
    colours["colorbar"]["title"] = {"text": ""}
    canvas.set(**{axis: colours})
    canvas.x(cell, title={"text": AXIS})
    canvas.y(cell, title={"text": "layer"}, dtick=-(-len(table) // 8), tickformat="d")


def _legend(canvas: Canvas, look: dict[str, Look]) -> None:
    for name, how in look.items():
        shown = {"line": how.line(2), "marker": how.marker(7), "name": plain(name)}
        canvas.add((0, 0), type="scatter", mode="lines+markers", x=[None], y=[None], **shown, showlegend=True)
    canvas.set(showlegend=True)


def _title(metric: str, where: str = "") -> str:
    below = f"<br><span style='color:{SOFT}'>{plain(where)}</span>" if where else ""
    return f"<b>{plain(words(metric).title)}</b>{below}"


def _draws(design: Design, rows: pd.DataFrame) -> str:
    """What was drawn, and how seeds are shown."""
    told = design.told
    return summary.join(
        [
            "at the left end β = 0, set apart" if (rows["at"] == 0).any() else "",
            f"each draw has weights, {told.get('batch')} sequences of {told.get('inputs')} inputs and a bias "
            "of its own",
            summary.intervals(rows.assign(arm=""), "bands"),
        ]
    )
