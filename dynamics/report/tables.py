"""The record as tidy frames, one for each figure. Pure pandas; no plots here.

Frames of geometry have the columns `COLUMNS`; averaged over seeds, `seeds` (how many) in place of `seed`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dynamics.report.names import APART, BITS, CORE, CURVES, MASKED_BITS, QUALITY, SITES
from dynamics.scales import bounds_within

SERIES = ["arm", "at", "layer", "head"]
RANGE = ["least", "greatest"]  # columns: the range of a row's metric, NaN where it is unbounded
COLUMNS = ["arm", "seed", "at", "layer", "head", "value", "low", "high", "n", *RANGE]
SEEDS = 3  # that an interval over seeds takes
BANDS = 4  # seeds that are drawn as a band or bar; fewer are points
DRAWN = 40  # positions (steps) that a figure of geometry draws at most
Quantity = tuple[str, str, str]  # of geometry: along (`step`, or a condition that varies), site and metric


def quantities(rows: pd.DataFrame) -> list[Quantity]:
    """Return every quantity of geometry, the core first, then by site and name."""
    geometry = rows[~rows["site"].isin(APART)]
    core = {pair: i for i, pair in enumerate(CORE)}
    sites = {site: i for i, site in enumerate(SITES)}

    def place(quantity: Quantity) -> tuple[object, ...]:
        along, site, metric = quantity
        return (along != "step", along, core.get((site, metric), len(core)), sites.get(site, len(sites)), site, metric)

    return sorted(geometry[["along", "site", "metric"]].drop_duplicates().itertuples(index=False, name=None), key=place)


def core(quantities: Sequence[Quantity]) -> list[Quantity]:
    """Return the quantities that a reader sees without a click: those of `CORE`, else the first ones."""
    return [quantity for quantity in quantities if quantity[1:] in CORE] or list(quantities[: len(CORE)])


def geometry(rows: pd.DataFrame, site: str, metric: str, along: str = "step") -> pd.DataFrame:
    """Return one quantity, tidy, with all its heads."""
    chosen = rows[(rows["site"] == site) & (rows["metric"] == metric) & (rows["along"] == along)]
    return chosen[COLUMNS].sort_values(["arm", "seed", *SERIES[1:]], ignore_index=True)


def without_heads(table: pd.DataFrame) -> pd.DataFrame:
    """Return one value a layer: head -1 where the record has it, else the mean over heads, without an interval."""
    keys = ["arm", "seed", "at", "layer"]
    recorded = table[table["head"] == -1]
    rest = table.merge(recorded[keys], on=keys, how="left", indicator=True).query("_merge == 'left_only'")
    if rest.empty:
        return recorded.reset_index(drop=True)
    means = _average(rest, keys).assign(head=-1, low=np.nan, high=np.nan)[COLUMNS]
    return pd.concat([recorded, means] if len(recorded) else [means]).sort_values(keys, ignore_index=True)


def aside(table: pd.DataFrame) -> "pd.Series[bool]":
    """Whether a row is of layer 0, the embeddings, beside layers above: it is in no mean, peak, axis or colour scale.

    On characters its geometry is that of a few duplicated points.
    """
    return (table["layer"] == 0) & bool((table["layer"] > 0).any())


def over_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over the layers 1..L of each seed (over all, where no layer is above 0).

    A layer without a single finite value is left out; any other gap leaves a gap in the mean. The interval is from
    the mean of the lower to that of the upper bounds: it holds however much the errors of the layers go together.
    """
    table = table[(table["head"] == -1) & ~aside(table)]
    has_values = table.groupby(["arm", "seed", "layer"])["value"].transform("count") > 0
    ends = {end: (end, lambda bounds: bounds.mean(skipna=False)) for end in ("low", "high")}
    means = _average(table[has_values], ["arm", "seed", "at"], **ends)
    return means.assign(layer=-1, head=-1)[COLUMNS]


def reached(table: pd.DataFrame) -> pd.DataFrame:
    """Return what lies at positions that all seeds of an arm have reached; the column `seeds` says how many these are.

    So no mean over seeds changes its members along the steps.
    """
    seeds = table.groupby("arm")["seed"].transform("nunique")
    return table.assign(seeds=seeds)[table.groupby(["arm", "at"])["seed"].transform("nunique") == seeds]


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds with its interval, where all are; of one seed, its value and sampling interval."""
    table = reached(table)
    means = _average(table, [*SERIES, "seeds"], spread=("value", "std"), low=("low", "first"), high=("high", "first"))
    means.loc[means["members"] < means["seeds"], "value"] = np.nan
    low, high = seed_interval(means)
    is_single = means["seeds"] == 1
    means = means.assign(low=means["low"].where(is_single, low), high=means["high"].where(is_single, high))
    return means[[*SERIES, "value", "low", "high", "n", "seeds"]]


def drawn(means: pd.DataFrame) -> pd.DataFrame:
    """Return `over_seeds` without the intervals of fewer than `BANDS` seeds: those are drawn as points."""
    few = (means["seeds"] > 1) & (means["seeds"] < BANDS)
    return means.assign(low=means["low"].mask(few), high=means["high"].mask(few))


def final(table: pd.DataFrame, end: str = "max") -> pd.DataFrame:
    """Return the last position of every arm, or the first with `end="min"`."""
    return table[table["at"] == table.groupby("arm")["at"].transform(end)].reset_index(drop=True)


def highest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the layer with the highest value (not layer 0: see `aside`), for each arm and position that has one.

    `clear` says whether its interval lies above the runner-up's value (never, where there is no interval).
    """
    ranked = table[~aside(table)].dropna(subset="value").sort_values("value", ascending=False, kind="stable")
    groups = ranked.groupby(["arm", "at"], sort=False)
    second = groups["value"].shift(-1)
    best = ranked.assign(clear=ranked["low"] > second.fillna(-np.inf))[groups.cumcount() == 0]
    return best.sort_values(["arm", "at"], ignore_index=True)


def thin(table: pd.DataFrame, most: int = DRAWN) -> pd.DataFrame:
    """Return at most `most` positions of each arm: the first, the last and about evenly spaced ones on a log axis."""
    positions = {arm: np.sort(at.unique()) for arm, at in table.groupby("arm")["at"]}
    kept = {(arm, at) for arm, places in positions.items() for at in places[chosen(places, most)]}
    return table[pd.MultiIndex.from_frame(table[["arm", "at"]]).isin(kept)]


def chosen(positions: Sequence[float] | np.ndarray, most: int) -> np.ndarray:
    """Return the indices of at most `most` positions, about evenly spaced in log(1 + position), both ends among them.

    >>> chosen(range(0, 1001), 5)
    array([   0,    5,   31,  177, 1000])
    """
    values = np.asarray(positions, dtype=float)
    if len(values) <= most:
        return np.arange(len(values))
    scale = np.log1p(values - values.min())
    targets = np.linspace(scale[0], scale[-1], most)
    return np.unique(np.abs(scale[:, None] - targets).argmin(axis=0))


def curves(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a learning curve: columns `arm seed site at value low high` and `RANGE`; training in log-spaced bins.

    Bits per character come with those per masked character, of other arms.
    """
    names = (BITS, MASKED_BITS) if metric == BITS else (metric,)
    table = rows[rows["site"].isin(CURVES) & rows["metric"].isin(names)]
    table = table[["arm", "seed", "site", "step", "value", "low", "high", *RANGE]].rename(columns={"step": "at"})
    groups = table.groupby(["arm", "seed", "site"], sort=False)
    parts = [binned(part) if site == "train" else part for (_, _, site), part in groups]
    return pd.concat(parts, ignore_index=True) if parts else table


def binned(curve: pd.DataFrame, bins: int = 24) -> pd.DataFrame:
    """Return a curve averaged within bins of equal width in log(1 + step), `bins` to a factor of e; columns stay.

    The edges are fixed, so that seeds that have run for different lengths share their bins. The first bins hold
    one step each.
    """
    scale = np.log1p(curve["at"].to_numpy(dtype=float))
    means = curve.assign(at=scale).groupby(np.floor(scale * bins))[["at", "value"]].mean().reset_index(drop=True)
    shared = curve[["arm", "seed", "site", *RANGE]].iloc[0]
    return means.assign(at=np.expm1(means["at"]).round(6), **shared, low=np.nan, high=np.nan)[list(curve.columns)]


def curve_means(table: pd.DataFrame) -> pd.DataFrame:
    """Return learning curves averaged over seeds, for each of their sites; columns of `over_seeds` and `site`."""
    parts = table.assign(layer=-1, head=-1, n=0).groupby("site", sort=False)
    means = [over_seeds(part).assign(site=site) for site, part in parts]
    return pd.concat(means, ignore_index=True) if means else table.assign(seeds=0)


def curve_metrics(rows: pd.DataFrame) -> list[str]:
    """Return the metrics of the learning curves; how well the models do comes first, bits of both kinds as one."""
    metrics = set(rows.loc[rows["site"].isin(CURVES), "metric"])
    metrics -= {MASKED_BITS} if BITS in metrics else set()
    order = (*QUALITY, "loss")
    return sorted(metrics, key=lambda m: (order.index(m) if m in order else len(order), m))


def _average(table: pd.DataFrame, keys: list[str], **more: tuple[str, Any]) -> pd.DataFrame:
    """Return the mean of `value` (NaN if any member is), the least `n`, the number of `members`, and `more`."""
    parts = {"value": ("value", "mean"), "finite": ("value", "count"), "members": ("value", "size"), "n": ("n", "min")}
    parts |= {end: (end, "first") for end in RANGE}
    means = table.groupby(keys, as_index=False).agg(**parts, **more)
    means.loc[means["finite"] < means["members"], "value"] = np.nan
    return means.drop(columns="finite")


def seed_interval(means: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the 95 % t interval of means over seeds; NaN below `SEEDS` seeds.

    It is symmetric where the metric's range is unbounded (logit, log, Fisher's z), and so stays within it. `means`
    has the columns `value spread seeds` (mean, standard deviation, how many) and `RANGE`.
    """
    from scipy.special import stdtrit

    value, spread, seeds, least, greatest = (
        means[name].to_numpy(dtype=float) for name in ("value", "spread", "seeds", *RANGE)
    )
    half = stdtrit(np.maximum(seeds - 1, 1), 0.975) * spread / np.sqrt(seeds)
    return bounds_within(value, np.where(seeds >= SEEDS, half, np.nan), least, greatest)
