"""Axes and colours: `StepScale` for steps, honest about step 0, and `Values` for what was measured."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynamics.report.names import Words, compact
from dynamics.report.plot.style import MAGNITUDE, SIGNED, plain

SPAN = 5.0  # wide quantities (`names.Words`) that span more than this factor have a logarithmic axis
NEGATIVE = 0.05  # share of the largest value beyond which the lowest, below zero, makes a quantity take both signs


@dataclass(frozen=True)
class StepScale:
    """An axis of steps (or of another swept number): logarithmic, with 0 at half the first positive value.

    Where a value is negative the axis is linear.

    >>> scale = StepScale.of([0, 1, 10, 100])
    >>> scale.place([0, 1, 100]), scale.ticks()
    ([0.5, 1.0, 100.0], ([0.5, 1.0, 10.0, 100.0], ['0', '1', '10', '100']))
    """

    smallest: float
    largest: float
    has_zero: bool
    log: bool

    @classmethod
    def of(cls, values: Iterable[float]) -> "StepScale":
        """Return the axis that holds `values`."""
        ordered = sorted({float(value) for value in values})
        log = bool(ordered) and ordered[0] >= 0
        bounds = [value for value in ordered if value > 0] if log else ordered
        return cls(*(bounds[0], bounds[-1]) if bounds else (1.0, 1.0), 0.0 in ordered, log)

    @property
    def zero(self) -> float:
        """Return where 0 is drawn."""
        return self.smallest / 2

    def place(self, values: Iterable[float]) -> list[float]:
        """Return where values lie on the axis."""
        return [self.zero if self.log and value == 0 else float(value) for value in values]

    @property
    def ends(self) -> tuple[float, float]:
        """Return both ends of the axis: logarithms to base 10, or the values themselves where it is linear."""
        if not self.log:
            return self.smallest, self.largest
        low, high = np.log10(self.zero if self.has_zero else self.smallest), np.log10(self.largest)
        return float(low), float(high if high > low else low + 1)

    def fraction(self, values: Iterable[float]) -> np.ndarray:
        """Return values as 0..1 along the axis, for colours."""
        low, high = self.ends
        placed = np.asarray(self.place(values))
        return ((np.log10(placed) if self.log else placed) - low) / ((high - low) or 1.0)

    def ticks(self, most: int = 6) -> tuple[list[float], list[str]]:
        """Return positions and labels: 0 and round numbers."""
        low, high = np.floor(np.log10(self.smallest)), np.log10(self.largest)
        decades = [10.0 ** int(k) for k in np.arange(low, high + 1e-9)]
        inside = [ten for ten in decades if ten >= self.smallest * (1 - 1e-9)]
        if len(inside) < 3:
            finer = [digit * ten for ten in decades for digit in (1, 2, 5)]
            inside = [tick for tick in finer if self.smallest * (1 - 1e-9) <= tick <= self.largest * (1 + 1e-9)]
        inside = inside[:: -(-len(inside) // most) or 1] or [self.smallest]
        at = ([self.zero] if self.has_zero else []) + inside
        return at, [compact(0 if value == self.zero else value) for value in at]

    def axis(self, title: str) -> dict[str, Any]:
        """Return plotly's settings of the axis."""
        if not self.log:
            return {"title": {"text": title}}
        (low, high), (at, text) = self.ends, self.ticks()
        span = [low - 0.04 * (high - low), high + 0.04 * (high - low)]
        return {"type": "log", "tickvals": at, "ticktext": text, "range": span, "title": {"text": title}}


@dataclass(frozen=True)
class Values:
    """The axis and the colours of a quantity, the same for all arms."""

    title: str
    low: float
    high: float
    log: bool
    diverging: bool

    @classmethod
    def of(cls, words: Words, values: Iterable[float]) -> "Values":
        """Choose by what the quantity is and what values it takes; those that are not finite do not count."""
        finite = np.asarray(values, dtype=float)
        finite = finite[np.isfinite(finite)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        log = words.wide and low > 0 and high > SPAN * low
        # A few slightly negative values leave a one-sided quantity one-sided.
        diverging = words.signed and low < -NEGATIVE * max(abs(low), abs(high))
        return cls(words.axis + (" (log)" if log else ""), low, high, log, diverging)

    @property
    def short_title(self) -> str:
        """Return the title, broken into short lines."""
        return plain(self.title, 26)

    def axis(self) -> dict[str, Any]:
        """Return plotly's settings of the axis, without its title."""
        if not self.log:
            return {}
        at, text = StepScale.of([self.low, self.high]).ticks()
        return {"type": "log", "tickvals": at, "ticktext": text}

    def shade(self, values: np.ndarray) -> np.ndarray:
        """Return what the colours stand for."""
        return np.log10(values) if self.log else values

    def colours(self, bar: dict[str, Any]) -> dict[str, Any]:
        """Return plotly's settings of a colour axis with the colour bar `bar`: both signs diverge about 0."""
        if self.diverging:
            reach = max(abs(self.low), abs(self.high))
            return {"colorscale": SIGNED, "cmin": -reach, "cmax": reach, "colorbar": bar}
        low, high = self.shade(np.array([self.low, self.high])).tolist()
        if self.log:
            at, text = StepScale.of([self.low, self.high]).ticks()
            bar = {**bar, "tickvals": np.log10(at), "ticktext": text}
        high = high if high > low else low + (abs(low) or 1.0)
        return {"colorscale": MAGNITUDE, "cmin": low, "cmax": high, "colorbar": bar}
