"""Rows for loggers, under the flat names that they have on a dashboard. No torch here."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from dynamics.record import Array, Row

# Sites that are not put before a metric's name: its name alone is unique, or the site leads it anyway.
PLAIN_SITES = ("residual", "attention", "weight", "train", "validation", "cost")
STEP = "trainer/global_step"  # the x axis of every key: updates made
OF_LAYER = re.compile(r"(.+)/layer_(\d+)")
OF_HEAD = re.compile(r".+_head/L\d+H\d+")
HISTOGRAM, EDGES = "logit_max/logit_histogram", "logit_max/logit_edges"  # arrays of the record that are logged


@runtime_checkable
class RowLogger(Protocol):
    """A logger that keeps one row a step, which it may send once all of its values are there."""

    def begin(self, step: int) -> None:
        """Begin, or resume, at `step`: what was logged beyond it will be logged again."""

    def log_values(self, values: Mapping[str, Any], step: int) -> None:
        """Add values to the row of `step`, the number of updates made."""

    def complete(self, step: int) -> None:
        """Take all rows up to `step` as whole."""


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


def log_rows(loggers: Iterable[Any], rows: Sequence[Row], step: int, arrays: Sequence[Array] = ()) -> dict[str, float]:
    """Pass rows to Lightning's loggers, one call each; returns their values by flat name.

    Of `arrays`, those that keep rows get the histograms of the attention logits of whole layers.
    """
    values = {flat_name(row): row.value for row in rows}
    for logger in loggers:
        if isinstance(logger, RowLogger):
            logger.log_values(values | _histograms(arrays), step)
        else:
            logger.log_metrics(values, step)
    return values


def _histograms(arrays: Sequence[Array]) -> dict[str, Any]:
    """Return counts and edges of the bins, without the empty ones at both ends and what lies outside of all bins."""
    kept: dict[int, dict[str, Any]] = {}
    for array in arrays:
        if array.head == -1 and array.metric in (HISTOGRAM, EDGES):
            kept.setdefault(array.layer, {})[array.metric] = array.values
    histograms = {}
    for layer, parts in kept.items():
        counts, edges = parts[HISTOGRAM][1:-1], parts[EDGES]
        if (filled := counts.nonzero()[0]).size:
            first, last = int(filled[0]), int(filled[-1]) + 1
            content = {"counts": counts[first:last].tolist(), "edges": edges[first : last + 1].tolist()}
            histograms[f"attention_logits/layer_{layer:02d}"] = content
    return histograms


def begin(loggers: Iterable[Any], step: int) -> None:
    """Tell loggers that keep rows which step the run starts from."""
    for logger in loggers:
        if isinstance(logger, RowLogger):
            logger.begin(step)


def complete(loggers: Iterable[Any], step: int) -> None:
    """Tell loggers that keep rows up to which step all values have been passed to them."""
    for logger in loggers:
        if isinstance(logger, RowLogger):
            logger.complete(step)
