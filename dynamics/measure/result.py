"""What a measurement returns: rows, arrays, and what was asked for and has no value."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from dynamics.record import Array, Row


class Missing(NamedTuple):
    """A metric that was asked for and has no value, at a site: in these layers, or in any where none are named."""

    metric: str
    site: str
    layers: tuple[int, ...]
    reason: str
    stack: str = ""
    rows: tuple[Row, ...] = ()  # what the record keeps of it


class Measurement(NamedTuple):
    """The result of one measurement.

    `missing` is what was asked for and not delivered. `references` are the tensors that later measurements of the same
    model compare with (drift), by site, layer and metric. `seconds` is the time spent on each metric (metrics that
    share an accumulator share its time evenly) and, where `measure` ran the model, on its `forward` passes.
    """

    rows: list[Row]
    arrays: list[Array]
    references: dict[str, Tensor]
    seconds: dict[str, float]
    missing: Sequence[Missing] = ()

    @property
    def recorded(self) -> list[Row]:
        """The rows, and NaN with the reason for what is missing, at layer -1 where no layer is known."""
        return [*self.rows, *(row for entry in self.missing for row in entry.rows)]


def united(parts: Sequence[Measurement]) -> Measurement:
    """Return the measurement that ranks have made parts of (see `Share`); a metric's seconds are the ranks' mean."""
    seconds: Counter[str] = Counter()
    for part in parts:
        seconds.update(part.seconds)
    return Measurement(
        rows=sorted((row for part in parts for row in part.rows), key=lambda row: (row.condition, row.site, row.layer)),
        arrays=[array for part in parts for array in part.arrays],
        references={name: kept for part in parts for name, kept in part.references.items()},
        seconds={name: spent / len(parts) for name, spent in seconds.items()},
        missing=parts[0].missing,
    )
