"""The designs of a probe as frames, and what they show in words."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dynamics import record
from dynamics.report import tables
from dynamics.report.names import capital, number
from dynamics.report.study import Study
from dynamics.runs import ProbeInfo

PARTS = {
    "input": "input",
    "attention": "attention alone",
    "residual": "after the residual",
    "mlp": "block's output",
}
BIASES = {
    "input": "on the input",
    "query": "on queries",
    "parallel": "on both, parallel",
    "opposed": "on both, opposed",
    "key": "on keys",
}
CONE = ("mean_cosine", "mean_cosine_within_windows", "mean_norm")
KEYS = ("beta", "bias", "part", "seed")


@dataclass(frozen=True)
class ProbeDesign:
    """One kind of block.

    Args:
        name, short: what it is called, in full and in a legend.
        run: that it belongs to.
        info: what `run.json` says of this.
        width, layers: its actual size.
        rows: with the columns of the record and `at` (the norm of the bias), `bias`, `part`, `seed`.
    """

    name: str
    short: str
    run: str
    info: ProbeInfo
    width: int
    layers: int
    rows: pd.DataFrame

    def table(self, metric: str, layer: int, of: str, **where: str) -> pd.DataFrame:
        """Return one quantity at a layer (the input: layer 0), with the column `of` as arm; `where` selects rows."""
        rows = self._rows(metric, **where)
        rows = rows[rows["layer"].isin([0, layer])]
        return rows.assign(arm=rows[of])[tables.COLUMNS]

    def mean(self, metric: str, at: float, **where: Any) -> float:
        """Return a quantity at one norm, averaged over seeds; `where` selects rows."""
        return float(self._rows(metric, at=at, **where)["value"].mean())

    def has(self, metric: str) -> bool:
        """Whether the quantity was measured, with a value somewhere."""
        return bool(np.isfinite(self._rows(metric)["value"]).any())

    def _rows(self, metric: str, **where: Any) -> pd.DataFrame:
        rows = self.rows[self.rows["metric"] == metric]
        for column, value in where.items():
            rows = rows[rows[column] == value]
        return rows


def designs(study: Study) -> list[ProbeDesign]:
    """Return the designs of all probes among the runs."""
    probes = study.of_kind(ProbeInfo)
    return [design for run, info in probes.items() for design in _designs(study, run, info, several=len(probes) > 1)]


def _designs(study: Study, run: str, info: ProbeInfo, several: bool) -> Iterator[ProbeDesign]:
    rows = study.rows_of(run, KEYS)
    rows = rows.assign(at=rows["beta"].astype(float), rest=rows["condition"].map(_without_keys))
    for facts in info.designs:
        subject, condition = facts["subject"], facts["condition"]
        part = rows[(rows["subject"] == subject) & (rows["rest"] == condition)]
        short = ", ".join(filter(None, [subject or "random blocks", condition, several * run]))
        name = facts["label"] + f" ({run})" * several
        if len(part):
            yield ProbeDesign(name, short, run, info, facts["width"], facts["layers"], part)


def _without_keys(condition: str) -> str:
    return record.condition(**{k: v for k, v in record.parse_condition(condition).items() if k not in KEYS})


def cone_reading(design: ProbeDesign) -> str:
    """Return the cone in numbers, near the norm at which half of an input is bias."""
    at = float(min(design.rows["at"].unique(), key=lambda beta: abs(beta - design.width**0.5)))
    places = {PARTS[part]: (part, min(1, i)) for i, part in enumerate(PARTS)}
    if design.layers > 1:
        places[f"output of block {design.layers}"] = "mlp", design.layers
    parts = []
    for name, (part, layer) in places.items():
        pooled, within = (design.mean(metric, at, part=part, layer=layer) for metric in CONE[:2])
        if np.isfinite(pooled):
            parts.append(f"{name} {number(pooled)}" + (f" ({number(within)})" if np.isfinite(within) else ""))
    return f"Mean cosine at β = {at:g} (within a sequence): {', '.join(parts)}." if parts else ""


def sharpness_reading(study: Study, design: ProbeDesign) -> str:
    """Return how far attention moves from its unbiased entropy, for every place of the bias."""
    metric = next((m for m in ("entropy", "normalized_entropy") if design.has(m)), "")
    ends = design.rows["at"].min(), design.rows["at"].max()
    parts = []
    for bias, name in BIASES.items():
        first, last = (design.mean(metric, at, bias=bias, layer=1) for at in ends)
        if np.isfinite([first, last]).all():
            parts.append(f"{number(first)} → {number(last)} with the bias {name}")
    start = f"{capital(study.words(metric).axis)} from β = {ends[0]:g} to {ends[1]:g}: "
    return f"{start}{', '.join(parts)}." if parts else ""
