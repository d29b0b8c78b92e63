"""How the values of one quantity are shown: on which axis, in which colours."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynamics.report.names import words
from dynamics.report.plot.style import MAGNITUDE, SIGNED, Scale, plain

SPAN = 5.0
"""Wide quantities (`names.Words`) that span more than this factor have a logarithmic axis."""


@dataclass(frozen=True)
class Values:
    """The axis and the colours of a quantity, the same for all arms.

    >>> Values.of("intrinsic_dimension", [1.0, 40.0]).log, Values.of("anisotropy", [0.01, 0.9]).log
    (True, False)
    """

    title: str
    low: float
    high: float
    log: bool
    diverging: bool

    @classmethod
    def of(cls, metric: str, values: Iterable[float]) -> "Values":
        """Choose by what the quantity is and what values it takes; those that are not finite do not count."""
        given = np.asarray(values, dtype=float)
        given = given[np.isfinite(given)]
        low, high = (float(given.min()), float(given.max())) if given.size else (0.0, 1.0)
        known = words(metric)
        log = known.wide and low > 0 and high > SPAN * low
        # A few slightly negative values leave a one-sided quantity one-sided.
        diverging = known.signed and low < -0.05 * max(abs(low), abs(high))
        return cls(known.axis + (" (log)" if log else ""), low, high, log, diverging)

    def axis(self) -> dict[str, Any]:
        """Settings of a plotly axis, without its title."""
        if not self.log:
            return {}
        at, text = Scale.of([self.low, self.high]).ticks()
        return {"type": "log", "tickvals": at, "ticktext": text}

    def shade(self, values: np.ndarray) -> np.ndarray:
        """What the colours stand for."""
        return np.log10(values) if self.log else values

    def colours(self, bar: dict[str, Any]) -> dict[str, Any]:
        """Settings of a plotly colour axis with the colour bar `bar`: diverging about 0 where both signs are taken."""
        bar = {**bar, "title": {**bar["title"], "text": plain(self.title, 26)}}
        if self.diverging:
            reach = max(abs(self.low), abs(self.high))
            return {"colorscale": SIGNED, "cmin": -reach, "cmax": reach, "colorbar": bar}
        low, high = self.shade(np.array([self.low, self.high])).tolist()
        if self.log:
            at, text = Scale.of([self.low, self.high]).ticks()
            bar |= {"tickvals": np.log10(at), "ticktext": text}
        high = high if high > low else low + (abs(low) or 1.0)
        return {"colorscale": MAGNITUDE, "cmin": low, "cmax": high, "colorbar": bar}
