"""A figure with its words, as a section of the page hands it over."""

from typing import NamedTuple

import plotly.graph_objects as go


class Drawn(NamedTuple):
    """A figure, its heading, what it shows in words, and how it was made; `folded` ones wait for a click."""

    title: str
    figure: go.Figure
    meaning: str
    reading: str
    caption: str
    folded: bool = False
