"""Histograms that lie beside the rows: `METRIC/NAME_histogram` with counts, `METRIC/NAME_edges` with bin edges."""

from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics.report import tables
from dynamics.report.plot import draw
from dynamics.report.plot.canvas import Canvas, Cell
from dynamics.report.plot.style import MAGNITUDE, Look, plain

LAYERS = 6
"""Layers that a figure shows at most."""


def found(arrays: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Every histogram as (along, site, name), sorted."""
    return sorted(set(_pairs(arrays)[["along", "site", "name"]].itertuples(index=False, name=None)))


def table(arrays: pd.DataFrame, site: str, name: str, along: str = "step") -> tuple[pd.DataFrame, np.ndarray]:
    """Shares of one histogram, and its edges (n,).

    Returns:
        A frame with the columns `arm at layer shares`; shares (n + 1,) sum to 1, the outermost beyond the edges.
        Seeds are pooled; what has other edges than the most is left out.
    """
    pairs = _pairs(arrays)
    pairs = pairs[(pairs["site"] == site) & (pairs["name"] == name) & (pairs["along"] == along)]
    keys = pairs["edges"].map(np.ndarray.tobytes)
    pairs = pairs[keys == keys.mode()[0]]
    pooled = pairs.groupby(["arm", "at", "layer"])["values"].agg(lambda each: np.sum(list(each), axis=0))
    shares = [counts / total if (total := counts.sum()) > 0 else counts * np.nan for counts in pooled]
    return pooled.index.to_frame(index=False).assign(shares=shares), pairs["edges"].iloc[0]


def _pairs(arrays: pd.DataFrame) -> pd.DataFrame:
    """Counts (`values`) beside their `edges`, with the `name`; counts without fitting edges drop out."""
    parts = arrays["metric"].astype(str).str.extract(r"/(?P<name>[^/]+)_(?P<kind>histogram|edges)$")
    arrays = arrays.join(parts)
    keys = ["arm", "seed", "along", "at", "site", "layer", "name"]
    counts, edges = (arrays.loc[arrays["kind"] == kind, [*keys, "values"]] for kind in ("histogram", "edges"))
    pairs = counts.merge(edges.rename(columns={"values": "edges"}), on=keys)
    return pairs[pairs["values"].map(len) == pairs["edges"].map(len) + 1]


def figure(shares: pd.DataFrame, edges: np.ndarray, name: str, look: dict[str, Look], along: str = "step") -> go.Figure:
    """A row for each arm, a column for each layer: bins x positions as a map of the square root of the shares."""
    shares = tables.thin(shares)
    layers = np.sort(shares["layer"].unique())
    layers = layers[np.unique(np.linspace(0, len(layers) - 1, LAYERS).round().astype(int))]
    titles = [f"<b>layer {layer}</b>" for layer in layers]
    canvas = Canvas(len(look), len(layers), titles, panel=170, gap=46, right=96)
    total = np.nansum(np.stack(shares["shares"].to_list()), axis=0)
    filled = np.flatnonzero(total) if total.any() else np.arange(len(total))
    ticks = _ticks(edges, filled)
    for row, (arm, style) in enumerate(look.items()):
        for col, layer in enumerate(layers):
            mine = shares[(shares["arm"] == arm) & (shares["layer"] == layer)].sort_values("at")
            if len(mine):
                _map(canvas, (row, col), mine, edges, plain(along))
            canvas.x((row, col), title={"text": plain(along) if row == len(look) - 1 else ""})
            canvas.y((row, col), range=[filled[0] - 0.5, filled[-1] + 0.5], **ticks)
        arm_name = f"<span style='color:{style.colour}'>{style.mark} {plain(arm, 22)}</span>"
        canvas.y((row, 0), title={"text": f"{arm_name}<br>{plain(name.replace('_', ' '))}"})
    high = float(np.nanmax(np.stack(shares["shares"].to_list()))) if total.any() else 1.0
    levels = high * np.array([0.01, 0.1, 0.3, 0.6, 1.0])
    bar = {
        **canvas.bar("share of a bin"),
        "tickvals": np.sqrt(levels),
        "ticktext": [f"{v:.2g}" for v in levels],
    }
    canvas.set(coloraxis3={"colorscale": MAGNITUDE, "cmin": 0, "cmax": np.sqrt(high), "colorbar": bar})
    return canvas.figure()


def _map(canvas: Canvas, cell: Cell, mine: pd.DataFrame, edges: np.ndarray, along: str) -> None:
    share = np.stack(mine["shares"].to_list(), axis=1)
    names = [
        f"below {edges[0]:.3g}",
        *(f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)),
        f"from {edges[-1]:.3g}",
    ]
    canvas.add(
        cell,
        type="heatmap",
        x=draw.positions(canvas, cell, mine["at"].to_list(), most=4),
        y=np.arange(len(edges) + 1),
        # An empty bin stays blank, so that the reach of the values can be seen.
        z=np.sqrt(np.where(share > 0, share, np.nan)),
        customdata=share,
        text=[[text] * share.shape[1] for text in names],
        coloraxis="coloraxis3",
        hoverongaps=False,
        hovertemplate=f"{along} %{{x}}, %{{text}}: %{{customdata:.3g}}<extra></extra>",
    )


def _ticks(edges: np.ndarray, filled: np.ndarray) -> dict[str, object]:
    """About five edges as ticks, round ones where there are any: edge i stands between the bins i and i + 1."""
    low, high = max(filled[0] - 1, 0), min(filled[-1], len(edges) - 1)
    inside, labels = np.arange(low, high + 1), [f"{edge:.1g}" for edge in edges.round(12) + 0.0]
    off = np.abs(edges - [float(label) for label in labels])
    exact = inside[off[inside] <= 0.015 * np.abs(edges[inside]) + 1e-12]
    if len(exact) < 3:
        exact, labels = inside, [f"{edge:.2g}" for edge in edges]
    at = np.unique([exact[np.abs(exact - target).argmin()] for target in np.linspace(low, high, 5)])
    return {"tickvals": at + 0.5, "ticktext": [labels[i] for i in at]}
