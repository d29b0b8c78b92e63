"""The runs of `dynamics cone` as frames: models, their rows, their cards."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from dynamics.report.names import DASH, number
from dynamics.report.origin import Table
from dynamics.report.study import Settings, Study
from dynamics.report.summary import Line

MAIN = "sentences"
"""The corpus whose rows have no corpus in their condition."""
KEYS = ("corpus", "pooling", "state", "transform", "fitted", "against", "against_corpus")


@dataclass(frozen=True)
class Model:
    """One model of a run; `shown` unless it is a step that another of its series follows."""

    subject: str
    name: str
    told: Settings
    series: str
    step: int
    shown: bool

    @property
    def pooling(self) -> str:
        return str(self.told.get("setup", {}).get("mode", "mean"))


@dataclass(frozen=True)
class Cone:
    """One run. `rows` have a column for each key of the condition, empty where it is not there, and `depth`: the
    layer, or one more for what the model hands out, where that is not its last layer.
    """

    run: str
    told: Settings
    models: tuple[Model, ...]
    rows: pd.DataFrame

    @property
    def shown(self) -> list[Model]:
        return [model for model in self.models if model.shown]

    @property
    def corpora(self) -> list[str]:
        """Names of the corpora, the main one first, without the sentences of pairs."""
        return [name for name in self.told.get("corpora", {}) if name != "pairs"]

    def of(self, model: Model, metric: str, **where: str) -> pd.DataFrame:
        """The rows of a quantity whose keys are as given, and empty but for `state` where they are not."""
        rows = self.rows[(self.rows["subject"] == model.subject) & (self.rows["metric"] == metric)]
        for key in KEYS:
            if key in where or key != "state":
                rows = rows[rows[key] == where.get(key, "")]
        return rows.sort_values("depth")

    def final(self, model: Model, metric: str, **where: str) -> pd.Series | None:
        """The row of a quantity at the last depth."""
        rows = self.of(model, metric, **where)
        return None if rows.empty else rows.iloc[-1]


@dataclass(frozen=True)
class End:
    """One end of an axis: texts and tokens with how far they project, in standard deviations."""

    title: str
    texts: tuple[tuple[str, str], ...]
    tokens: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Card:
    """What an axis is: its numbers and its two ends."""

    title: str
    numbers: tuple[str, ...]
    ends: tuple[End, ...]
    note: str


def split(study: Study) -> tuple[Study, list[Cone]]:
    """The study without its cones, and these."""
    runs = [run for run, told in study.runs.items() if told.get("kind") == "cone"]
    if not runs:
        return study, []
    rest = replace(
        study,
        rows=study.rows[~study.rows["run"].isin(runs)],
        arrays=study.arrays[~study.arrays["run"].isin(runs)],
        arms=tuple(arm for arm in study.arms if not set(arm.runs) & set(runs)),
    )
    return rest, [_cone(run, study) for run in runs]


def _cone(run: str, study: Study) -> Cone:
    told = study.runs[run]
    rows = study.rows[(study.rows["run"] == run) & study.rows["site"].isin(["sentence", "token"])]
    parsed = [
        {"condition": text, **dict.fromkeys(KEYS, "")}
        | {key: value for key, _, value in (pair.partition("=") for pair in text.split(",") if pair)}
        for text in rows["condition"].unique()
    ]
    keys = pd.DataFrame(parsed, columns=["condition", *KEYS])
    rows = rows.drop(columns=["arm", "seed", "along", "at"]).merge(keys, on="condition")
    rows["depth"] = rows["layer"] + (rows["state"] == "output")
    return Cone(run, told, tuple(_models(told)), rows)


def _models(told: Settings) -> list[Model]:
    subjects: dict[str, Settings] = told.get("subjects", {})
    ends: dict[str, int] = {}
    for mine in subjects.values():
        if mine.get("series"):
            ends[mine["series"]] = max(ends.get(mine["series"], 0), int(mine["step"]))
    short = {
        subject: str(mine.get("model", subject)) if subject.endswith(("@local", "@main")) else subject
        for subject, mine in subjects.items()
    }
    made = []
    for subject, mine in subjects.items():
        name = short[subject] if list(short.values()).count(short[subject]) == 1 else subject
        series, step = str(mine.get("series") or ""), int(mine.get("step") or 0)
        made.append(Model(subject, name, mine, series, step, not series or step == ends[series]))
    return made


def settings(cone: Cone) -> Table:
    """What every model is and how its sentences became vectors: a column a model."""
    told = [model.told for model in cone.shown]
    setups = [mine.get("setup", {}) for mine in told]
    inputs = [mine.get("input", {}).get(MAIN, {}) for mine in told]
    sources = {"sentence-transformers": "its own", "default": "not told"}
    read: list[tuple[str, list[Any]]] = [
        ("layers", [mine.get("layers") for mine in told]),
        ("width", [mine.get("width") for mine in told]),
        ("parameters", [f"{mine.get('parameters', 0) / 1e6:.1f} M" for mine in told]),
        ("tokenizer", [mine.get("tokenizer") for mine in told]),
        ("configuration", [sources.get(how.get("source", ""), "") for how in setups]),
        ("pooling", [f"{how.get('mode')}{', guessed' if how.get('guessed') else ''}" for how in setups]),
        ("dense layers", ["; ".join(how.get("dense", ())) for how in setups]),
        ("normalised", ["yes" if how.get("normalize") else "no" for how in setups]),
        ("prompt", [how.get("prompt") for how in setups]),
        ("not applied", [", ".join(how.get("left_out", ())) for how in setups]),
        ("sentences", [mine.get("sentences") for mine in inputs]),
        ("their tokens", [mine.get("tokens") for mine in inputs]),
        ("cut at the model's length", [mine.get("truncated") for mine in inputs]),
    ]
    lines = [
        Line(label, tuple(DASH if cell in (None, "") else str(cell) for cell in cells))
        for label, cells in read
        if any(cell not in (None, "") for cell in cells)
    ]
    return Table(tuple(model.name for model in cone.shown), lines)


def between(row: Any) -> str:
    """A value with its interval."""
    if row is None or not np.isfinite(row["value"]):
        return "undefined"
    known = np.isfinite(row["low"]) and np.isfinite(row["high"])
    return number(row["value"]) + (f" [{number(row['low'])}, {number(row['high'])}]" if known else "")


def cards(cone: Cone) -> list[Card]:
    """A card for the axis of every model and corpus."""
    made = []
    for model in cone.shown:
        for corpus, card in model.told.get("cards", {}).items():
            where = {} if corpus == MAIN else {"corpus": corpus}
            n = cone.told.get("corpora", {}).get(corpus, {}).get("sentences")
            numbers = (
                f"share of the variance {between(cone.final(model, 'axis_share', **where))}",
                f"stability {between(cone.final(model, 'axis_stability', **where))}",
                f"cosine with the mean direction {between(cone.final(model, 'axis_to_mean', **where))}",
                f"with the uncentred axis {between(cone.final(model, 'axis_to_uncentered', **where))}",
                f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n}",
            )
            ends = tuple(
                End(title, _texts(card.get(key)), _texts(card.get(f"{key}_tokens")))
                for key, title in (("most", "Highest projection"), ("least", "Lowest projection"))
            )
            several = len(cone.corpora) > 1
            title = model.name + (f", {corpus}" if several else "")
            made.append(Card(title, numbers, ends, str(card.get("vocabulary", ""))))
    return made


def _texts(given: Any) -> tuple[tuple[str, str], ...]:
    return tuple((str(text), number(float(value))) for text, value in given or ())
