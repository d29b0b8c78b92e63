"""Colours and markers of the figures, safe for colour-blind readers."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale, unlabel_rgb

INK, SOFT, GRID, PAPER = "#1b1f24", "#57606a", "#e7eaee", "#ffffff"
# Okabe and Ito's palette without its yellow, which is lost on white.
ARMS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
SYMBOLS = (("circle", "●"), ("square", "■"), ("diamond", "◆"), ("triangle-up", "▲"), ("cross", "✚"), ("x", "✖"))
DASHES = ("solid", "dash", "dashdot", "longdash")  # dotted are levels to compare with
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


Scale = list[tuple[float, str]]  # places from 0 to 1, each with its colour
SHADES = 40  # of a scale: as many positions as a figure of geometry draws


def _part(name: str, start: float, end: float) -> Scale:
    places = np.linspace(0, 1, SHADES)
    colours = sample_colorscale(name, start + (end - start) * places)
    return [(place, _hex(*unlabel_rgb(colour))) for place, colour in zip(places.tolist(), colours, strict=True)]


def _hex(*channels: float) -> str:
    return "#" + "".join(f"{round(channel):02x}" for channel in channels)


TIME = _part("Viridis", 0.92, 0.0)  # early is faint, late is strong; viridis without its lightest yellow
DEPTH = _part("Plasma", 0.88, 0.0)
MAGNITUDE = _part("Cividis", 0.0, 1.0)
SIGNED = _part("RdBu", 1.0, 0.0)


def shades(scale: Scale, places: Sequence[float] | np.ndarray) -> list[str]:
    """Return the colours of a scale at places from 0 to 1, each the nearest that the scale has."""
    nearest = np.clip(np.round(np.asarray(places, dtype=float) * (SHADES - 1)), 0, SHADES - 1)
    return [scale[int(i)][1] for i in nearest]


def _dark() -> dict[str, str]:
    """Return the colour that stands on a dark page for each that would be lost there; bands by how they begin."""
    arms = ("#4aa8e8", "#f28239", "#2cc295", "#e09bc2", "#f0b73d", "#8fd0f5", "#ffffff")
    pairs = {INK: "#e6e9ed", SOFT: "#a5aeb8", GRID: "#2f363e", PAPER: "#14181d", **dict(zip(ARMS, arms, strict=True))}
    pairs |= {_band(light): _band(dark) for light, dark in zip(ARMS, arms, strict=True)}
    for light, dark in ((TIME, _part("Viridis", 0.25, 1.0)), (DEPTH, _part("Plasma", 0.25, 1.0))):
        pairs |= {colour: other for (_, colour), (_, other) in zip(light, dark, strict=True)}
    return pairs


def _band(colour: str) -> str:
    return "rgba({},{},{},".format(*(int(colour[i : i + 2], 16) for i in (1, 3, 5)))


DARK = _dark()  # the page replaces the colours of a figure by these

LETTERS = {"family": FONT, "size": 12, "color": INK}
AXIS = {
    **{"gridcolor": GRID, "zeroline": False, "linecolor": SOFT, "showline": True},
    **{"ticks": "outside", "ticklen": 4, "tickcolor": SOFT, "tickfont": {"size": 11}},
    **{"title": {"font": {"size": 12}, "standoff": 6}, "automargin": False},
}
TEMPLATE = go.layout.Template(
    layout={
        **{"font": LETTERS, "paper_bgcolor": PAPER, "plot_bgcolor": PAPER},
        **{"hovermode": "closest", "hoverlabel": {"bgcolor": PAPER, "font": LETTERS}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"},
        "margin": {"l": 62, "r": 16, "t": 44, "b": 46},
        "xaxis": AXIS,
        "yaxis": {**AXIS, "automargin": True},  # room for the long labels of values that hardly differ
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
        """Return the colour of its bands."""
        return f"{_band(self.colour)}0.16)"

    @property
    def group(self) -> str:
        """Return the name under which the legend hides and shows it."""
        return f"{self.colour} {self.symbol} {self.dash}"

    def line(self, width: float) -> dict[str, Any]:
        """Return plotly's settings of a line."""
        return {"color": self.colour, "width": width, "dash": self.dash}

    def drawn(self, width: float, size: float) -> dict[str, Any]:
        """Return plotly's settings of its line with markers, under its entry of the legend."""
        return {"line": self.line(width), "marker": self.marker(size), "legendgroup": self.group}

    def marker(self, size: float) -> dict[str, Any]:
        """Return plotly's settings of a marker."""
        return {"symbol": self.symbol, "size": size, "color": self.colour}


Looks = dict[str, Look]  # of each arm, by its name, in their order on the page


def looks(names: Sequence[str]) -> Looks:
    """Return a look for every arm, no two of 84 alike; with the dashes, lines that coincide are all seen."""
    return {
        name: Look(ARMS[i % len(ARMS)], *SYMBOLS[i % len(SYMBOLS)], DASHES[i % len(DASHES)])
        for i, name in enumerate(names)
    }


def plain(text: str, width: int = 0) -> str:
    """Return text for a figure, where `<` would be read as markup; broken into lines of `width` characters.

    >>> plain("a <b> c"), plain("encoder (bidirectional, mlm)", 16)
    ('a &lt;b&gt; c', 'encoder<br>(bidirectional,<br>mlm)')
    """
    return "<br>".join(escape(line, quote=False) for line in (wrap(text, width) if width else [text]))


def panel_title(title: str, below: str = "", width: int = 0) -> str:
    """Return a bold title of a panel, and soft lines below it.

    >>> panel_title("drift", "queries")
    "<b>drift</b><br><span style='color:#57606a'>queries</span>"
    """
    lines = "<br>".join(map(plain, below.splitlines()))
    soft = f"<br><span style='color:{SOFT}'>{lines}</span>" if lines else ""
    return f"<b>{plain(title, width)}</b>{soft}"
