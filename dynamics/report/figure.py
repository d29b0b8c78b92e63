"""What a page consists of: sections of blocks. Each kind of block has a template of that name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import plotly.graph_objects as go

from dynamics.report.plot.style import Look

Fold = Literal["", "closed", "open"]


class PageBlock(Protocol):
    """A part of a section; `kind` names its template."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Figure:
    """A figure with its words."""

    kind: ClassVar[str] = "figure"
    title: str
    plot: go.Figure
    meaning: str = ""  # what it shows
    reading: str = ""  # its numbers in words
    caption: str = ""  # how the numbers were computed
    columns: int = 4  # of panels; they set the least width
    fold: Fold = ""  # whether it can be folded away, and is so at first
    detail: "Figure | None" = None  # a figure below it

    def folded(self) -> "Figure":
        """Return the figure as one that waits for a click."""
        return replace(self, fold="closed")

    @property
    def spec(self) -> dict[str, Any]:
        """Return the figure as plain JSON, without the template, which the page has once."""
        spec = self.plot.to_plotly_json()
        return as_json({**spec, "layout": {k: v for k, v in spec["layout"].items() if k != "template"}})

    @property
    def alt(self) -> str:
        """Return what the figure says, for those who do not see it."""
        return " ".join(filter(None, (f"{self.title}.", self.meaning, self.reading)))


class TableRow(NamedTuple):
    """One row of a table: a label, a cell for each column, and whether the cells differ."""

    label: str
    cells: tuple[str, ...]
    differs: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under columns of their own; with `looks`, one for each column, the columns are arms."""

    kind: ClassVar[str] = "table"
    columns: tuple[str, ...]
    rows: list[TableRow]
    title: str = ""
    note: str = ""
    looks: tuple[Look, ...] = ()
    style: str = "settings"


@dataclass(frozen=True)
class Text:
    """A paragraph, or with another `tag` a heading."""

    kind: ClassVar[str] = "text"
    text: str
    tag: str = "p"
    is_soft: bool = False


class Compared(NamedTuple):
    """What the head of the page lists: an arm, a design of a probe or a run of a cone."""

    name: str
    about: str = ""
    runs: Sequence[str] = ()
    look: Look | None = None


@dataclass(frozen=True)
class Section:
    """One section of the page."""

    heading: str
    anchor: str  # its id
    link: str  # its name in the navigation
    blocks: Sequence[PageBlock]
    compared: Sequence[Compared] = ()  # what it adds to the list at the head of the page


def as_json(value: Any) -> Any:
    """Return a figure as plain JSON: five significant digits, null where there is no finite number.

    >>> as_json({"y": np.array([0.1234567, np.nan]), "x": (1, 2)})
    {'y': [0.12346, None], 'x': [1, 2]}
    """
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
