"""The designs of a probe as frames, and what they show in words."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from dynamics import record
from dynamics.report import tables
from dynamics.report.names import capital, number, words
from dynamics.report.study import Settings, Study

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


@dataclass(frozen=True)
class Design:
    """One kind of block: its full and its short name, its actual size, and its rows.

    `rows` have the columns of the record and `at` (the norm of the bias), `bias`, `part`, `seed`.
    """

    name: str
    short: str
    width: int
    layers: int
    told: Settings
    rows: pd.DataFrame

    def table(self, metric: str, layer: int, of: str, **where: str) -> pd.DataFrame:
        """One quantity at a layer (input: layer 0), a line for each value of the column `of`."""
        rows = self.rows[self.rows["metric"] == metric]
        rows = rows[rows["layer"].isin([0, layer])]
        for column, value in where.items():
            rows = rows[rows[column] == value]
        return rows.assign(arm=rows[of])[["arm", *tables.COLUMNS[1:]]]

    def has(self, metric: str) -> bool:
        """Whether the quantity was measured, with a value somewhere."""
        return bool(np.isfinite(self.rows.loc[self.rows["metric"] == metric, "value"]).any())


def split(study: Study) -> tuple[Study, list[Design]]:
    """The study without its probes, and the designs of these."""
    probes = [run for run, told in study.runs.items() if told.get("kind") == "probe"]
    rest = replace(
        study,
        rows=study.rows[~study.rows["run"].isin(probes)],
        arms=tuple(arm for arm in study.arms if not set(arm.runs) & set(probes)),
    )
    return rest, [design for run in probes for design in _designs(run, study, several=len(probes) > 1)]


def _designs(run: str, study: Study, several: bool) -> list[Design]:
    told = study.runs[run]
    rows = study.rows[study.rows["run"] == run].drop(columns=["at", "seed", "arm", "along"])
    parsed = {text: dict(pair.split("=", 1) for pair in text.split(",")) for text in rows["condition"].unique()}
    keys = pd.DataFrame(
        [
            {
                "condition": text,
                "at": float(keys.pop("beta")),
                **{key: keys.pop(key, "") for key in ("bias", "part", "seed")},
                "rest": record.condition(**keys),
            }
            for text, keys in parsed.items()
        ]
    )
    rows = rows.merge(keys, on="condition")
    found = []
    for mine in told.get("designs", ()):
        own = rows[(rows["subject"] == mine["subject"]) & (rows["rest"] == mine["condition"])]
        short = ", ".join(filter(None, [mine["subject"] or "random blocks", mine["condition"], several * run]))
        name = mine["label"] + f" ({run})" * several
        if len(own):
            found.append(Design(name, short, mine["width"], mine["layers"], told, own))
    return found


def mean(design: Design, metric: str, at: float, **where: Any) -> float:
    """A quantity at one norm, averaged over seeds; `where` picks rows by their columns."""
    rows = design.rows[(design.rows["metric"] == metric) & (design.rows["at"] == at)]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return float(rows["value"].mean())


def cone_reading(design: Design) -> str:
    """The cone in numbers, near the norm at which half of an input is bias."""
    at = float(min(design.rows["at"].unique(), key=lambda beta: abs(beta - design.width**0.5)))
    places = {PARTS[part]: (part, min(1, i)) for i, part in enumerate(PARTS)}
    if design.layers > 1:
        places[f"output of block {design.layers}"] = "mlp", design.layers
    told = []
    for name, (part, layer) in places.items():
        pooled, within = (mean(design, metric, at, part=part, layer=layer) for metric in CONE[:2])
        if np.isfinite(pooled):
            told.append(f"{name} {number(pooled)}" + (f" ({number(within)})" if np.isfinite(within) else ""))
    return f"Mean cosine at β = {at:g} (within a sequence): {', '.join(told)}." if told else ""


def sharpness_reading(design: Design) -> str:
    """How far attention goes from its unbiased entropy, for every place of the bias."""
    metric = next((m for m in ("entropy", "normalized_entropy") if design.has(m)), "")
    ends = design.rows["at"].min(), design.rows["at"].max()
    told = []
    for bias, name in BIASES.items():
        first, last = (mean(design, metric, at, bias=bias, layer=1) for at in ends)
        if np.isfinite([first, last]).all():
            told.append(f"{number(first)} → {number(last)} with the bias {name}")
    start = f"{capital(words(metric).axis)} from β = {ends[0]:g} to {ends[1]:g}: "
    return f"{start}{', '.join(told)}." if told else ""
