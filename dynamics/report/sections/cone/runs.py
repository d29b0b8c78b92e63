"""The runs of `dynamics cone` as frames: models, their rows, their settings."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dynamics.report.arms import Settings
from dynamics.report.blocks import Table
from dynamics.report.names import DASH
from dynamics.report.sections.settings import setting_rows
from dynamics.report.study import Study
from dynamics.run_info import ConeInfo

MAIN = "sentences"  # the corpus whose rows have no corpus in their condition
KEYS = ("corpus", "pooling", "state", "transform", "fitted", "against", "against_corpus")
SOURCES = {"sentence-transformers": "its own", "default": "unknown"}


@dataclass(frozen=True)
class ConeModel:
    """One model of a run with its own way of pooling; `is_displayed` unless another step of its series follows."""

    subject: str
    name: str
    facts: Settings
    pooling: str
    series: str
    is_displayed: bool


@dataclass(frozen=True)
class ConeRun:
    """One run of `dynamics cone`.

    `rows` have a column for each of `KEYS`, empty where a condition does not have it, and `depth`: the layer, or one
    more for what the model returns, where that is not its last layer.
    """

    name: str
    info: ConeInfo
    models: tuple[ConeModel, ...]
    rows: pd.DataFrame

    @property
    def displayed(self) -> list[ConeModel]:
        """Return the models that have panels."""
        return [model for model in self.models if model.is_displayed]

    @property
    def corpora(self) -> list[str]:
        """Return the names of the corpora, the main one first, without the sentences of pairs."""
        return [name for name in self.info.corpora if name != "pairs"]

    def of(self, model: ConeModel, metric: str, site: str = "sentence", **where: str) -> pd.DataFrame:
        """Return the rows of a quantity by depth; keys that `where` does not set are empty, but `state` is free."""
        rows = self.rows
        rows = rows[(rows["subject"] == model.subject) & (rows["metric"] == metric) & (rows["site"] == site)]
        for key in KEYS:
            if key in where or key != "state":
                value = where.get(key, "")
                rows = rows[rows[key] == ("" if (key, value) == ("corpus", MAIN) else value)]
        return rows.sort_values("depth")

    def having(self, *metrics: str) -> pd.DataFrame:
        """Return all rows of some quantities."""
        return self.rows[self.rows["metric"].isin(metrics)]

    def final(self, model: ConeModel, metric: str, **where: str) -> "pd.Series[Any] | None":
        """Return the row of a quantity of sentences at the last depth; None where there is none."""
        rows = self.of(model, metric, **where)
        return None if rows.empty else rows.iloc[-1]

    def value(self, model: ConeModel, metric: str, **where: str) -> float:
        """Return the value of `final`, NaN where there is none."""
        row = self.final(model, metric, **where)
        return np.nan if row is None else float(row["value"])


def cone_runs(study: Study) -> list[ConeRun]:
    """Return the cones among the runs."""
    runs = []
    for run, info in study.of_kind(ConeInfo).items():
        rows = study.rows_of(run, KEYS)
        rows = rows[rows["site"].isin(["sentence", "token"])]
        rows = rows.assign(depth=rows["layer"] + (rows["state"] == "output"))
        runs.append(ConeRun(run, info, tuple(_models(info.subjects)), rows))
    return runs


def _models(subjects: dict[str, Settings]) -> list[ConeModel]:
    steps = {key: (str(facts.get("series") or ""), int(facts.get("step") or 0)) for key, facts in subjects.items()}
    short = [str(f.get("model", key)) if key.endswith(("@local", "@main")) else key for key, f in subjects.items()]
    models = []
    for (subject, facts), name in zip(subjects.items(), short, strict=True):
        series, step = steps[subject]
        name = name if short.count(name) == 1 else subject
        is_last = not series or (series, step) == max(end for end in steps.values() if end[0] == series)
        pooling = facts.get("setup", {}).get("mode", "mean")
        models.append(ConeModel(subject, name, facts, pooling, series, is_last))
    return models


def settings(run: ConeRun) -> Table:
    """Return what every model is and how its sentences became vectors: a column for each model."""
    columns = []
    for model in run.displayed:
        facts, setup = model.facts, model.facts.get("setup", {})
        counts = facts.get("input", {}).get(MAIN, {})
        column = {"layers": facts.get("layers"), "width": facts.get("width")}
        column |= {"parameters": f"{facts.get('parameters', 0) / 1e6:.1f} M", "tokenizer": facts.get("tokenizer")}
        column["configuration"] = SOURCES.get(setup.get("source", ""))
        column["pooling"] = f"{setup.get('mode')}{', guessed' if setup.get('guessed') else ''}"
        column["dense layers"] = "; ".join(setup.get("dense", ()))
        column["normalised"] = "yes" if setup.get("normalize") else "no"
        column |= {"prompt": setup.get("prompt"), "not applied": ", ".join(setup.get("left_out", ()))}
        column |= {"sentences": counts.get("sentences"), "their tokens": counts.get("tokens")}
        columns.append(column | {"cut at the model's length": counts.get("truncated")})
    rows = [row for row in setting_rows(columns) if set(row.cells) != {DASH}]
    return Table(tuple(model.name for model in run.displayed), rows, "Models and settings")
