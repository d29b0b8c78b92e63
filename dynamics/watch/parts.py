"""One part of a record as the page takes it: values by quantity, over layers or over steps. No torch here."""

import math
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from dynamics import record
from dynamics.run_info import Facts

Groups = list[Facts]
"""What a part holds: of each subject, condition, step, site and metric the values of its layers (`layers`; with
`heads`, a list of heads for each value); of learning curves the values of their steps (`steps`)."""

COLUMNS = ("subject", "condition", "step", "site", "metric", "layer", "head", "value", "low", "high", "reason")
# Of a learning curve of training that the page gets, about: a part of a long run gives every k-th step. Of a run that
# is followed from its start the first parts stay as dense as they were, which makes it a few times as many.
POINTS = 1000


def geometry(path: Path, heads: bool = False) -> Groups:
    """Return the values of the layers of one measured step, or with `heads` those of every head.

    Raises:
        InputError: the part cannot be read.
    """
    table = record.read_part(path)
    is_layer = pc.equal(table["head"], -1)
    chosen = table.filter(pc.invert(is_layer) if heads else is_layer)
    groups: dict[tuple[Any, ...], Facts] = {}
    for *key, layer, head, value, low, high, reason in _rows(chosen, COLUMNS):
        group = groups.get(tuple(key))
        if group is None:
            names = ("subject", "condition", "step", "site", "metric")
            empty: Facts = {"layers": [], "values": []} | (
                {"heads": []} if heads else {"low": [], "high": [], "why": []}
            )
            group = groups[tuple(key)] = {**dict(zip(names, key, strict=True)), **empty}
        group["layers"].append(layer)
        group["values"].append(_finite(value))
        if heads:
            group["heads"].append(head)
            continue
        group["low"].append(_finite(low))
        group["high"].append(_finite(high))
        group["why"].append(reason or ("" if math.isfinite(value) else f"the value is {value}"))
    return [_without_nothing(group) for group in groups.values()]


def curves(path: Path, parts: int) -> Groups:
    """Return the learning curves in a block of steps, of a run with so many blocks.

    Validation and cost are whole. Of training, every k-th step and the last, so that a run has about `POINTS` of them.

    Raises:
        InputError: the part cannot be read.
    """
    every = max(1, parts * record.BLOCK // POINTS)
    groups: dict[tuple[str, str], Facts] = {}
    rows = sorted(_rows(record.read_part(path), ("step", "subject", "site", "metric", "value")), key=itemgetter(0))
    last = rows[-1][0] if rows else 0
    for step, subject, site, metric, value in rows:
        if site == "train" and step % every and step != last:
            continue
        key = {"subject": subject, "condition": "", "site": site, "metric": metric}
        group = groups.setdefault((site, metric), {**key, "steps": [], "values": []})
        group["steps"].append(step)
        group["values"].append(_finite(value))
    return list(groups.values())


def _rows(table: Any, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in columns), strict=True)


def _finite(value: float) -> float | None:
    """Return a value as JSON can hold it."""
    return value if math.isfinite(value) else None


def _without_nothing(group: Facts) -> Facts:
    """Return a group without the intervals and reasons that none of its layers has."""
    return {key: value for key, value in group.items() if key not in ("low", "high", "why") or any(_said(value))}


def _said(values: list[Any]) -> Iterator[bool]:
    return (value not in (None, "") for value in values)
