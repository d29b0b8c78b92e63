"""The runs of `dynamics cone` as frames: models, their rows, their settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dynamics.report.arms import Settings
from dynamics.report.figure import Table, TableRow
from dynamics.report.names import DASH
from dynamics.report.study import Study
from dynamics.run_info import ConeInfo

MAIN = "sentences"
"""The corpus whose rows have no corpus in their condition."""
KEYS = ("corpus", "pooling", "state", "transform", "fitted", "against", "against_corpus")


@dataclass(frozen=True)
class ConeModel:
    """One model of a run; `is_displayed` unless it is a step that another of its series follows."""

    subject: str
    name: str
    facts: Settings
    series: str
    step: int
    is_displayed: bool

    @property
    def pooling(self) -> str:
        """Return the model's own way of pooling."""
        return str(self.facts.get("setup", {}).get("mode", "mean"))


@dataclass(frozen=True)
class ConeRun:
    """One run of `dynamics cone`.

    Args:
        name: of the run.
        info: what its `run.json` says.
        models: that it measured.
        rows: with a column for each of `KEYS`, empty where a condition does not have it, and `depth`: the layer, or one
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
                rows = rows[rows[key] == where.get(key, "")]
        return rows.sort_values("depth")

    def final(self, model: ConeModel, metric: str, **where: str) -> "pd.Series[Any] | None":
        """Return the row of a quantity of sentences at the last depth; None where there is none."""
        rows = self.of(model, metric, **where)
        return None if rows.empty else rows.iloc[-1]


def where_corpus(name: str) -> dict[str, str]:
    """Return what the rows of a corpus have in their condition."""
    return {} if name == MAIN else {"corpus": name}


def cone_runs(study: Study) -> list[ConeRun]:
    """Return the cones among the runs."""
    return [_cone_run(study, run, info) for run, info in study.of_kind(ConeInfo).items()]


def _cone_run(study: Study, run: str, info: ConeInfo) -> ConeRun:
    rows = study.rows_of(run, KEYS)
    rows = rows[rows["site"].isin(["sentence", "token"])]
    return ConeRun(run, info, tuple(_models(info)), rows.assign(depth=rows["layer"] + (rows["state"] == "output")))


def _models(info: ConeInfo) -> list[ConeModel]:
    ends: dict[str, int] = {}
    for facts in info.subjects.values():
        if facts.get("series"):
            ends[facts["series"]] = max(ends.get(facts["series"], 0), int(facts["step"]))
    short = {
        subject: str(facts.get("model", subject)) if subject.endswith(("@local", "@main")) else subject
        for subject, facts in info.subjects.items()
    }
    models = []
    for subject, facts in info.subjects.items():
        name = short[subject] if list(short.values()).count(short[subject]) == 1 else subject
        series, step = str(facts.get("series") or ""), int(facts.get("step") or 0)
        models.append(ConeModel(subject, name, facts, series, step, not series or step == ends[series]))
    return models


def settings(run: ConeRun) -> Table:
    """Return what every model is and how its sentences became vectors: a column for each model."""
    facts = [model.facts for model in run.displayed]
    setups = [of_model.get("setup", {}) for of_model in facts]
    inputs = [of_model.get("input", {}).get(MAIN, {}) for of_model in facts]
    sources = {"sentence-transformers": "its own", "default": "unknown"}
    columns: list[tuple[str, Sequence[object]]] = [
        *((key, [of_model.get(key) for of_model in facts]) for key in ("layers", "width")),
        ("parameters", [f"{of_model.get('parameters', 0) / 1e6:.1f} M" for of_model in facts]),
        ("tokenizer", [of_model.get("tokenizer") for of_model in facts]),
        ("configuration", [sources.get(setup.get("source", ""), "") for setup in setups]),
        ("pooling", [f"{setup.get('mode')}{', guessed' if setup.get('guessed') else ''}" for setup in setups]),
        ("dense layers", ["; ".join(setup.get("dense", ())) for setup in setups]),
        ("normalised", ["yes" if setup.get("normalize") else "no" for setup in setups]),
        ("prompt", [setup.get("prompt") for setup in setups]),
        ("not applied", [", ".join(setup.get("left_out", ())) for setup in setups]),
        ("sentences", [counts.get("sentences") for counts in inputs]),
        ("their tokens", [counts.get("tokens") for counts in inputs]),
        ("cut at the model's length", [counts.get("truncated") for counts in inputs]),
    ]
    rows = [
        TableRow(label, tuple(DASH if cell in (None, "") else str(cell) for cell in cells))
        for label, cells in columns
        if any(cell not in (None, "") for cell in cells)
    ]
    return Table(tuple(model.name for model in run.displayed), rows, "Models and settings")
