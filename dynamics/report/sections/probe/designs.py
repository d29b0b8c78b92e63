"""The designs of a probe as frames."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dynamics import record
from dynamics.report import tables
from dynamics.report.study import Study
from dynamics.run_info import ProbeInfo

PARTS = {"input": "input", "attention": "attention alone", "residual": "after the residual", "mlp": "block's output"}
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
    """One kind of block, its actual size, and the run that it belongs to; `short` is its name in a legend.

    `rows` have the columns of the record and `at` (the norm of the bias), `bias`, `part`, `seed`.
    """

    name: str
    short: str
    run: str
    info: ProbeInfo
    width: int
    layers: int
    rows: pd.DataFrame

    def table(self, metric: str, depth: int, arm: Any, **where: Any) -> pd.DataFrame:
        """Return one quantity after a block and of the input (layer 0); `arm` names lines, `where` selects rows."""
        rows = self.of(metric, **where)
        return rows[rows["layer"].isin([0, depth])].assign(arm=arm)[tables.COLUMNS]

    def has(self, metric: str) -> bool:
        """Whether the quantity was measured, with a value somewhere."""
        return bool(np.isfinite(self.of(metric)["value"]).any())

    def of(self, metric: str, **where: Any) -> pd.DataFrame:
        """Return the rows of one quantity that have the values of `where` in its columns."""
        rows = self.rows[self.rows["metric"] == metric]
        for column, value in where.items():
            rows = rows[rows[column] == value]
        return rows


def designs(study: Study) -> list[ProbeDesign]:
    """Return the designs of all probes among the runs."""
    probes, members = study.of_kind(ProbeInfo), []
    for run, info in probes.items():
        rows, several = study.rows_of(run, KEYS), len(probes) > 1
        rows = rows.assign(at=rows["beta"].astype(float), rest=rows["condition"].map(_without_keys))
        for facts in info.designs:
            subject, condition = facts["subject"], facts["condition"]
            part = rows[(rows["subject"] == subject) & (rows["rest"] == condition)]
            short = ", ".join(filter(None, [subject or "random blocks", condition, several * run]))
            name = facts["label"] + f" ({run})" * several
            if len(part):
                members.append(ProbeDesign(name, short, run, info, facts["width"], facts["layers"], part))
    return members


def _without_keys(condition: str) -> str:
    return record.condition(**{k: v for k, v in record.parse_condition(condition).items() if k not in KEYS})
