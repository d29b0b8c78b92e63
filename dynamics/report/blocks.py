"""What a page consists of: sections of blocks. Each kind of block has a template of that name."""

import base64
import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics.report.plot.style import Look

Fold = Literal["", "closed", "open"]


class PageBlock(Protocol):
    """A part of a section; `kind` names its template."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Figure:
    """A figure with its words, and the rows that it shows."""

    kind: ClassVar[str] = "figure"
    title: str
    plot: go.Figure
    meaning: str = ""  # what it shows
    reading: str = ""  # its numbers in words
    caption: str = ""  # how the numbers were computed
    columns: int = 4  # of panels; they set the least width
    fold: Fold = ""  # whether it can be folded away, and is so at first
    detail: "Figure | None" = None  # a figure below it
    data: pd.DataFrame | None = None

    def folded(self) -> "Figure":
        """Return the figure as one that waits for a click."""
        return replace(self, fold="closed")

    @property
    def spec(self) -> dict[str, Any]:
        """Return the figure as plain JSON, without the template, which the page has once."""
        spec = self.plot.to_plotly_json()
        return as_json({**spec, "layout": {k: v for k, v in spec["layout"].items() if k != "template"}})

    @property
    def packed(self) -> str:
        """Return the figure as the page holds it."""
        return pack(json.dumps(self.spec, separators=(",", ":")))

    @property
    def csv(self) -> str:
        """Return the rows that it shows as a packed CSV with five significant digits; empty columns are left out."""
        if self.data is None:
            return ""
        rows = self.data.drop(columns=["least", "greatest"], errors="ignore").replace("", np.nan)
        return pack(rows.dropna(axis="columns", how="all").to_csv(index=False, float_format="%.5g"))

    @property
    def file_name(self) -> str:
        """Return the title as the name of a file, without its ending."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())

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
    findings: Sequence[str] = ()  # what it says, in sentences for the head of the page


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


def pack(text: str) -> str:
    """Return text compressed (gzip), in letters that a page may hold (base64): the browser unpacks it.

    >>> gzip.decompress(base64.b64decode(pack("a" * 1000))) == b"a" * 1000, len(pack("a" * 1000)) < 60
    (True, True)
    """
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
