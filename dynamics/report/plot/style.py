"""Colours and markers of the figures, safe for colour-blind readers."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

INK, SOFT, GRID = "#1b1f24", "#57606a", "#e7eaee"
# Okabe and Ito's palette without its yellow, which is lost on white.
ARMS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SYMBOLS = (("circle", "●"), ("square", "■"), ("diamond", "◆"), ("triangle-up", "▲"), ("cross", "✚"), ("x", "✖"))
DASHES = ("solid", "dash", "dot", "dashdot")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def _part(name: str, start: float, end: float) -> list[list[object]]:
    return [[i / 11, colour] for i, colour in enumerate(sample_colorscale(name, np.linspace(start, end, 12)))]


TIME = _part("Viridis", 0.92, 0.0)  # early is light, late is dark; viridis without its lightest yellow
DEPTH = _part("Plasma", 0.88, 0.0)
MAGNITUDE = _part("Cividis", 0.0, 1.0)
SIGNED = _part("RdBu", 1.0, 0.0)

LETTERS = {"family": FONT, "size": 12, "color": INK}
AXIS = {
    **{"gridcolor": GRID, "zeroline": False, "linecolor": SOFT, "showline": True},
    **{"ticks": "outside", "ticklen": 4, "tickcolor": SOFT, "tickfont": {"size": 11}},
    **{"title": {"font": {"size": 12}, "standoff": 6}, "automargin": False},
}
TEMPLATE = go.layout.Template(
    layout={
        **{"font": LETTERS, "paper_bgcolor": "white", "plot_bgcolor": "white"},
        **{"hovermode": "closest", "hoverlabel": {"bgcolor": "white", "font": LETTERS}},
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
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.16)"

    def line(self, width: float) -> dict[str, Any]:
        """Return plotly's settings of a line."""
        return {"color": self.colour, "width": width, "dash": self.dash}

    def marker(self, size: float) -> dict[str, Any]:
        """Return plotly's settings of a marker."""
        return {"symbol": self.symbol, "size": size, "color": self.colour}


Looks = dict[str, Look]  # of each arm, by its name, in their order on the page


def looks(names: Sequence[str]) -> Looks:
    """Return a look for every arm, no two alike."""
    return {
        name: Look(ARMS[i % len(ARMS)], *SYMBOLS[i % len(SYMBOLS)], DASHES[i // len(ARMS) % len(DASHES)])
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
