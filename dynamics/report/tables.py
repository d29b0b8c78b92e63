"""The record as tidy frames: one for each figure. Pure pandas; no plots here.

Every frame of geometry has the columns `arm seed at layer head value low high n`; one that is averaged over
seeds has `seeds` (how many) in place of `seed`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dynamics.report.names import CORE, CURVES, QUALITY, SITES

SERIES = ["arm", "at", "layer", "head"]
COLUMNS = ["arm", "seed", "at", "layer", "head", "value", "low", "high", "n"]
DRAWN = 40
"""Positions (steps) that a figure of geometry draws at most."""

Quantity = tuple[str, str, str]
"""What a figure of geometry is about: along (`step`, or a condition that varies), site and metric."""


def quantities(rows: pd.DataFrame) -> list[Quantity]:
    """Return every quantity of geometry, the core first, then by site and name."""
    geometry = rows[~rows["site"].isin([*CURVES, "cost"])]
    sites = list(SITES)

    def place(quantity: Quantity) -> tuple[object, ...]:
        along, site, metric = quantity
        core = CORE.index((site, metric)) if (site, metric) in CORE else len(CORE)
        return (along != "step", along, core, sites.index(site) if site in sites else len(sites), site, metric)

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
    means = _average(rest, keys)
    means = means.assign(head=-1, low=np.nan, high=np.nan)[COLUMNS]
    parts = [part for part in (recorded, means) if not part.empty]
    return pd.concat(parts).sort_values(keys, ignore_index=True)


def over_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over the layers 1..L of each seed (over all, where no layer is above 0); no interval.

    A layer without a single finite value is left out; any other gap leaves a gap in the mean.
    """
    table = table[table["head"] == -1]
    if (table["layer"] > 0).any():
        table = table[table["layer"] > 0]
    has_values = table.groupby(["arm", "seed", "layer"])["value"].transform("count") > 0
    means = _average(table[has_values], ["arm", "seed", "at"])
    return means.assign(layer=-1, head=-1, low=np.nan, high=np.nan)[COLUMNS]


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds with its 95 % t interval; of a single seed, its own value and sampling interval.

    Only positions that all seeds of an arm have reached are kept: no mean changes its members along the steps.
    """
    seeds = table.groupby("arm")["seed"].nunique()
    reached = table.groupby(["arm", "at"])["seed"].nunique().reset_index(name="seeds")
    reached = reached[reached["seeds"] == reached["arm"].map(seeds)]
    table = table.merge(reached, on=["arm", "at"])
    means = _average(table, [*SERIES, "seeds"], spread=("value", "std"), low=("low", "first"), high=("high", "first"))
    means.loc[means["members"] < means["seeds"], "value"] = np.nan
    several = means["seeds"] > 1
    half = t_half(means.loc[several, "spread"], means.loc[several, "seeds"])
    means.loc[several, "low"] = means.loc[several, "value"] - half
    means.loc[several, "high"] = means.loc[several, "value"] + half
    return means[[*SERIES, "value", "low", "high", "n", "seeds"]]


def final(table: pd.DataFrame) -> pd.DataFrame:
    """Return the last position of every arm."""
    return table[table["at"] == table.groupby("arm")["at"].transform("max")].reset_index(drop=True)


def first(table: pd.DataFrame) -> pd.DataFrame:
    """Return the first position of every arm."""
    return table[table["at"] == table.groupby("arm")["at"].transform("min")].reset_index(drop=True)


def highest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the layer with the highest value, for each arm and position; positions without a value drop out.

    `clear` says whether its interval lies above the runner-up's value (never, where there is no interval).
    """
    ranked = table.dropna(subset="value").sort_values("value", ascending=False, kind="stable")
    groups = ranked.groupby(["arm", "at"], sort=False)
    best = groups.head(1)
    second = groups.nth(1)[["arm", "at", "value"]].rename(columns={"value": "second"})
    best = best.merge(second, on=["arm", "at"], how="left")
    best["clear"] = best["low"] > best["second"].fillna(-np.inf)
    return best.drop(columns="second").sort_values(["arm", "at"], ignore_index=True)


def thin(table: pd.DataFrame, most: int = DRAWN) -> pd.DataFrame:
    """Return at most `most` positions of each arm: the first, the last and about evenly spaced ones on a log axis."""
    kept = []
    for _, part in table.groupby("arm", sort=False):
        positions = np.sort(part["at"].unique())
        kept.append(part[part["at"].isin(positions[chosen(positions, most)])])
    return pd.concat(kept).sort_index() if kept else table


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
    return np.unique(np.abs(scale[:, None] - targets[None, :]).argmin(axis=0))


def curves(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a learning curve: columns `arm seed site at value low high`; training averaged in log-spaced bins."""
    table = rows[rows["site"].isin(CURVES) & (rows["metric"] == metric)]
    table = table[["arm", "seed", "site", "step", "value", "low", "high"]].rename(columns={"step": "at"})
    parts = []
    for (_, _, site), part in table.groupby(["arm", "seed", "site"], sort=False):
        parts.append(binned(part) if site == "train" else part)
    return pd.concat(parts, ignore_index=True) if parts else table


def binned(curve: pd.DataFrame, bins: int = 24) -> pd.DataFrame:
    """Return a curve averaged within bins of equal width in log(1 + step), `bins` to a factor of e; columns stay.

    The edges are fixed, so that seeds that have run for different lengths share their bins. The first bins hold
    one step each.
    """
    scale = np.log1p(curve["at"].to_numpy(dtype=float))
    groups = curve.assign(at=scale).groupby(np.floor(scale * bins))
    means = groups.agg(at=("at", "mean"), value=("value", "mean"))
    shared = {column: curve[column].iloc[0] for column in ("arm", "seed", "site")}
    means = means.assign(at=np.expm1(means["at"]).round(6), **shared, low=np.nan, high=np.nan)
    return means.reset_index(drop=True)[list(curve.columns)]


def curve_means(table: pd.DataFrame) -> pd.DataFrame:
    """Return learning curves averaged over seeds, for each of their sites; columns of `over_seeds` and `site`."""
    means = [
        over_seeds(part.assign(layer=-1, head=-1, n=0)).assign(site=site)
        for site, part in table.groupby("site", sort=False)
    ]
    return pd.concat(means, ignore_index=True) if means else table.assign(seeds=0)


def curve_metrics(rows: pd.DataFrame) -> list[str]:
    """Return the metrics of the learning curves; how well the models do comes first."""
    metrics = rows.loc[rows["site"].isin(CURVES), "metric"].unique()
    order = (*QUALITY, "loss")
    return sorted(metrics, key=lambda m: (order.index(m) if m in order else len(order), m))


def _average(table: pd.DataFrame, keys: list[str], **more: tuple[str, str]) -> pd.DataFrame:
    """Return the mean of `value` (NaN if any member is), the least `n`, the number of `members`, and `more`."""
    parts = {"value": ("value", "mean"), "finite": ("value", "count"), "members": ("value", "size"), "n": ("n", "min")}
    means = table.groupby(keys, as_index=False).agg(**parts, **more)
    means.loc[means["finite"] < means["members"], "value"] = np.nan
    return means.drop(columns="finite")


def t_half(spread: pd.Series, seeds: pd.Series) -> np.ndarray:
    """Return half the width of a mean's 95 % t interval, from the standard deviation over so many seeds."""
    from scipy.special import stdtrit

    return stdtrit(seeds.to_numpy() - 1, 0.975) * spread.to_numpy() / np.sqrt(seeds.to_numpy())
