"""Colours, markers and axes of the figures: safe for colour-blind readers, and honest about step 0."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from dynamics.report.names import compact

INK, SOFT, GRID, GAP = "#1b1f24", "#57606a", "#e7eaee", "#f1f2f4"
ARMS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without its yellow, which is lost on white."""
SYMBOLS = (("circle", "●"), ("square", "■"), ("diamond", "◆"), ("triangle-up", "▲"), ("cross", "✚"), ("x", "✖"))
DASHES = ("solid", "dash", "dot", "dashdot")

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def _part(name: str, start: float, end: float) -> list[list[object]]:
    ends = np.linspace(start, end, 12)
    return [[i / 11, colour] for i, colour in enumerate(sample_colorscale(name, ends))]


TIME = _part("Viridis", 0.92, 0.0)
"""Early is light, late is dark; viridis without its lightest yellow."""
DEPTH = _part("Plasma", 0.88, 0.0)
MAGNITUDE = _part("Cividis", 0.0, 1.0)
SIGNED = _part("RdBu", 1.0, 0.0)

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "white", "font": {"family": FONT, "size": 12, "color": INK}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"},
        "margin": {"l": 62, "r": 16, "t": 44, "b": 46},
        **{
            axis: {
                "gridcolor": GRID,
                "linecolor": SOFT,
                "showline": True,
                "ticks": "outside",
                "ticklen": 4,
                "tickcolor": SOFT,
                "tickfont": {"size": 11},
                "title": {"font": {"size": 12}, "standoff": 6},
                "zeroline": False,
                "automargin": axis == "yaxis",  # room for the long labels of values that hardly differ
            }
            for axis in ("xaxis", "yaxis")
        },
    }
)


@dataclass(frozen=True)
class Look:
    """How an arm is drawn: colour, marker and dash all tell it from the others."""

    colour: str
    symbol: str
    mark: str
    dash: str

    @property
    def faint(self) -> str:
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.16)"

    def line(self, width: float) -> dict[str, object]:
        return {"color": self.colour, "width": width, "dash": self.dash}

    def marker(self, size: float) -> dict[str, object]:
        return {"symbol": self.symbol, "size": size, "color": self.colour}


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for every arm, by name, in their order on the page."""
    found = {}
    for i, name in enumerate(names):
        symbol, mark = SYMBOLS[i % len(SYMBOLS)]
        found[name] = Look(ARMS[i % len(ARMS)], symbol, mark, DASHES[i // len(ARMS) % len(DASHES)])
    return found


def plain(text: str, width: int = 0) -> str:
    """Text for a figure, where `<` would be read as markup; broken into lines of `width` characters.

    >>> plain("a <b> c"), plain("encoder (bidirectional, mlm)", 16)
    ('a &lt;b&gt; c', 'encoder<br>(bidirectional,<br>mlm)')
    """
    lines = wrap(text, width) if width else [text]
    return "<br>".join(escape(line, quote=False) for line in lines)


@dataclass(frozen=True)
class Scale:
    """An axis of steps (or of another swept number): logarithmic, with 0 at half the first positive value.

    Where a value is negative the axis is linear.

    >>> scale = Scale.of([0, 1, 10, 100])
    >>> scale.place([0, 1, 100]), scale.ticks()
    ([0.5, 1.0, 100.0], ([0.5, 1.0, 10.0, 100.0], ['0', '1', '10', '100']))
    """

    smallest: float
    largest: float
    has_zero: bool
    log: bool

    @classmethod
    def of(cls, values: Iterable[float]) -> "Scale":
        given = sorted({float(value) for value in values})
        log = bool(given) and given[0] >= 0
        bounds = [value for value in given if value > 0] if log else given
        return cls(*(bounds[0], bounds[-1]) if bounds else (1.0, 1.0), 0.0 in given, log)

    @property
    def zero(self) -> float:
        return self.smallest / 2

    def place(self, values: Iterable[float]) -> list[float]:
        """Where values lie on the axis."""
        return [self.zero if self.log and value == 0 else float(value) for value in values]

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the axis: logarithms to base 10, or the values themselves where it is linear."""
        if not self.log:
            return self.smallest, self.largest
        low, high = np.log10(self.zero if self.has_zero else self.smallest), np.log10(self.largest)
        return float(low), float(high if high > low else low + 1)

    def fraction(self, values: Iterable[float]) -> np.ndarray:
        """Values as 0..1 along the logarithmic axis, for colours."""
        low, high = self.ends
        placed = np.asarray(self.place(values))
        return ((np.log10(placed) if self.log else placed) - low) / ((high - low) or 1.0)

    def ticks(self, most: int = 6) -> tuple[list[float], list[str]]:
        """Positions and labels: 0 and round numbers."""
        low, high = np.floor(np.log10(self.smallest)), np.log10(self.largest)
        decades = [10.0 ** int(k) for k in np.arange(low, high + 1e-9)]
        inside = [d for d in decades if d >= self.smallest * (1 - 1e-9)]
        if len(inside) > most:
            inside = inside[:: -(-len(inside) // most)]
        elif len(inside) < 3:
            round_ones = [digit * d for d in decades for digit in (1, 2, 5)]
            inside = [r for r in round_ones if self.smallest * (1 - 1e-9) <= r <= self.largest * (1 + 1e-9)]
            inside = inside[:: -(-len(inside) // most) or 1] or [self.smallest]
        at = ([self.zero] if self.has_zero else []) + inside
        return at, [compact(0 if value == self.zero else value) for value in at]

    def axis(self, title: str) -> dict[str, object]:
        """Settings of a plotly axis."""
        if not self.log:
            return {"title": {"text": title}}
        at, text = self.ticks()
        low, high = self.ends
        pad = 0.04 * (high - low)
        return {
            "type": "log",
            "tickvals": at,
            "ticktext": text,
            "range": [low - pad, high + pad],
            "title": {"text": title},
        }
