"""Rows for loggers, under the flat names that they have on a dashboard. No torch here."""

from collections.abc import Iterable, Sequence
from typing import Any

from dynamics.record import Row

# Sites that are not put before a metric's name: its name alone is unique, or the site leads it anyway.
PLAIN_SITES = ("residual", "attention", "weight", "train", "validation", "cost")


def flat_name(row: Row) -> str:
    """Return a row's key for loggers: exact, zero-padded so that alphabetical order is layer order.

    >>> flat_name(Row("r", "", "", 0, "residual", 3, -1, "anisotropy", 0.5))
    'anisotropy/layer_03'
    >>> flat_name(Row("r", "", "", 0, "query", 3, 2, "drift", 0.5))
    'query_drift_head/L03H02'
    >>> flat_name(Row("r", "", "", 0, "train", -1, -1, "loss", 0.5))
    'train/loss'
    """
    if row.layer < 0:
        return f"{row.site}/{row.metric}"
    name = row.metric if row.site in PLAIN_SITES else f"{row.site}_{row.metric}"
    return f"{name}_head/L{row.layer:02d}H{row.head:02d}" if row.head >= 0 else f"{name}/layer_{row.layer:02d}"


def log_rows(loggers: Iterable[Any], rows: Sequence[Row], step: int) -> dict[str, float]:
    """Pass rows to Lightning's loggers, one call each; returns their values by flat name."""
    values = {flat_name(row): row.value for row in rows}
    for logger in loggers:
        logger.log_metrics(values, step)
    return values
