"""Histograms that lie beside the rows: `METRIC/NAME_histogram` with counts, `METRIC/NAME_edges` with bin edges."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics.report import tables
from dynamics.report.plot import heat
from dynamics.report.plot.canvas import Axes, Canvas
from dynamics.report.plot.style import MAGNITUDE, Looks, plain

LAYERS = 6  # that a figure shows at most


def names(arrays: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return every histogram as (along, site, name), sorted."""
    return sorted(set(_pairs(arrays)[["along", "site", "name"]].itertuples(index=False, name=None)))


def shares(arrays: pd.DataFrame, site: str, name: str, along: str = "step") -> tuple[pd.DataFrame, np.ndarray]:
    """Return the shares of one histogram, and its edges (n,).

    Returns:
        A frame with the columns `arm at layer shares`; shares (n + 1,) sum to 1, the outermost beyond the edges.
        Seeds are pooled; what has other edges than the most is left out.
    """
    pairs = _pairs(arrays)
    pairs = pairs[(pairs["site"] == site) & (pairs["name"] == name) & (pairs["along"] == along)]
    keys = pairs["edges"].map(np.ndarray.tobytes)
    pairs = pairs[keys == keys.mode()[0]]
    pooled = pairs.groupby(["arm", "at", "layer"])["values"].agg(lambda counts: np.sum(list(counts), axis=0))
    normalised = [counts / total if (total := counts.sum()) > 0 else counts * np.nan for counts in pooled]
    return pooled.index.to_frame(index=False).assign(shares=normalised), pairs["edges"].iloc[0]


def _pairs(arrays: pd.DataFrame) -> pd.DataFrame:
    """Return counts (`values`) beside their `edges`, with the `name`; counts without fitting edges drop out."""
    arrays = arrays.join(arrays["metric"].astype(str).str.extract(r"/(?P<name>[^/]+)_(?P<kind>histogram|edges)$"))
    keys = ["arm", "seed", "along", "at", "site", "layer", "name"]
    counts, edges = (arrays.loc[arrays["kind"] == kind, [*keys, "values"]] for kind in ("histogram", "edges"))
    pairs = counts.merge(edges.rename(columns={"values": "edges"}), on=keys)
    return pairs[pairs["values"].map(len) == pairs["edges"].map(len) + 1]


def plot(table: pd.DataFrame, edges: np.ndarray, name: str, looks: Looks, along: str = "step") -> go.Figure:
    """Draw the histogram `name`: a row for each arm in `looks`, a column for each layer.

    A panel is a map, bins x positions, of the square root of the shares; `table` and `edges` are from `shares`.
    """
    table = tables.thin(table)
    layers = np.sort(table["layer"].unique())[heat.spread(table["layer"].nunique(), LAYERS)]
    canvas = Canvas(len(looks), len(layers), [f"<b>layer {layer}</b>" for layer in layers], panel=170, gap=46, right=96)
    every = np.stack(table["shares"].to_list())
    total = np.nansum(every, axis=0)
    filled = np.flatnonzero(total) if total.any() else np.arange(len(total))
    ticks = _ticks(edges, filled)
    for row, (arm, look) in enumerate(looks.items()):
        for col, layer in enumerate(layers):
            rows = table[(table["arm"] == arm) & (table["layer"] == layer)].sort_values("at")
            if len(rows):
                _map(canvas[row, col], rows, edges, plain(along))
            canvas[row, col].x(title={"text": plain(along) if row == len(looks) - 1 else ""})
            canvas[row, col].y(range=[filled[0] - 0.5, filled[-1] + 0.5], **ticks)
        arm_title = f"<span style='color:{look.colour}'>{look.mark} {plain(arm, 22)}</span>"
        canvas[row, 0].y(title={"text": f"{arm_title}<br>{plain(name.replace('_', ' '))}"})
    high = float(np.nanmax(every)) if total.any() else 1.0
    levels = high * np.array([0.01, 0.1, 0.3, 0.6, 1.0])
    bar = canvas.bar("share of a bin") | {"tickvals": np.sqrt(levels), "ticktext": [f"{v:.2g}" for v in levels]}
    canvas.set(coloraxis={"colorscale": MAGNITUDE, "cmin": 0, "cmax": np.sqrt(high), "colorbar": bar})
    return canvas.figure()


def _map(axes: Axes, rows: pd.DataFrame, edges: np.ndarray, along: str) -> None:
    share = np.stack(rows["shares"].to_list(), axis=1)
    inner = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
    bins = [f"below {edges[0]:.3g}", *inner, f"from {edges[-1]:.3g}"]
    text, hover = [[label] * share.shape[1] for label in bins], f"{along} %{{x}}, %{{text}}: %{{customdata:.3g}}"
    x = heat.positions(axes, rows["at"].to_list(), most=4)
    z = np.sqrt(np.where(share > 0, share, np.nan))  # an empty bin stays blank: the reach of the values can be seen
    heat.heat(axes, x, np.arange(len(bins)), z, hover, customdata=share, text=text)


def _ticks(edges: np.ndarray, filled: np.ndarray) -> dict[str, Any]:
    """Return about five edges as ticks, round ones where there are any: edge i stands between the bins i and i + 1."""
    low, high = max(filled[0] - 1, 0), min(filled[-1], len(edges) - 1)
    inside, labels = np.arange(low, high + 1), [f"{edge:.1g}" for edge in edges.round(12) + 0.0]
    off = np.abs(edges - [float(label) for label in labels])
    exact = inside[off[inside] <= 0.015 * np.abs(edges[inside]) + 1e-12]
    if len(exact) < 3:
        exact, labels = inside, [f"{edge:.2g}" for edge in edges]
    at = np.unique([exact[np.abs(exact - target).argmin()] for target in np.linspace(low, high, 5)])
    return {"tickvals": at + 0.5, "ticktext": [labels[i] for i in at]}
