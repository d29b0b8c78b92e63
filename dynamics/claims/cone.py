"""Claims about the cone of sentence vectors (Inside the Cone). No torch here."""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from dynamics.claims import measures as m
from dynamics.claims.base import Claim, Criterion, NotMeasurable, Threshold
from dynamics.claims.evidence import Evidence
from dynamics.claims.statistics import HALF_WIDTH, UNITS, Effects, Measured
from dynamics.run_info import ConeInfo

SOURCE = "Inside the Cone (four experiments on sentence encoders)"
KEYS = ("corpus", "pooling", "transform", "fitted", "against", "against_corpus")  # of a condition, beside the state
TUNED = r"mxbai|bge|gte|e5|minilm|sentence|simcse|sbert|all-mpnet|nomic|instructor"  # contrastive, by their names
OfModel = Callable[[pd.DataFrame], Measured | None]  # of the rows of one model at its last step

CONE = Threshold(
    0.1, "the source reports gaps of 0.25 to 0.5 where it finds one; sentences drawn anew move it by about 0.01"
)


def _measured(value: float, row: "pd.Series[float]") -> Measured:
    error = (row["high"] - row["low"]) / (2 * HALF_WIDTH)
    return Measured(value, float(error) if np.isfinite(error) else 0.0)


def _models(of: OfModel, is_tuned: bool = False) -> m.Measure:
    """Return a quantity of every model of the cones, of those tuned on sentences alone if so asked."""

    def measure(evidence: Evidence) -> Effects:
        _require_cone(evidence)
        rows = evidence.cone
        rows = rows.assign(**{key: rows[key].fillna("") if key in rows else "" for key in (*KEYS, "state")})
        rows = rows.assign(
            depth=rows["layer"] + (rows["state"] == "output"), model=rows["subject"].str.split("@").str[0]
        )
        last = rows[rows["step"] == rows.groupby("model")["step"].transform("max")]
        models = [(str(name), part) for name, part in last.groupby("model")]
        chosen = [(name, part) for name, part in models if not is_tuned or _is_tuned(evidence, part)]
        return Effects(evidence.by_unit((name, of(part)) for name, part in chosen))

    return measure


def _require_cone(evidence: Evidence) -> None:
    if evidence.cone.empty:
        raise NotMeasurable("no cone among the runs")
    if evidence.population != "models":
        raise NotMeasurable(f"{UNITS} models at least, found 0")


def _is_tuned(evidence: Evidence, rows: pd.DataFrame) -> bool:
    """Whether a model was tuned to tell sentences apart: it brings its own way of pooling, or its name says so."""
    for run, subject in rows[["run", "subject"]].drop_duplicates().itertuples(index=False):
        info = evidence.study.runs.get(run)
        if isinstance(info, ConeInfo) and (setup := info.subjects.get(subject, {}).get("setup")):
            return bool(setup.get("source") == "sentence-transformers")
    return bool(re.search(TUNED, str(rows["subject"].iloc[0]).lower()))


def _of(rows: pd.DataFrame, metric: str, site: str = "sentence", **where: str) -> pd.DataFrame:
    """Return the rows of a quantity by depth: of the main corpus, the model's own pooling, no transform."""
    rows = rows[(rows["metric"] == metric) & (rows["site"] == site) & (rows["head"] == -1)]
    for key in KEYS:
        rows = rows[rows[key] == where.get(key, "")]
    return rows.drop_duplicates("depth").set_index("depth").sort_index()


def _gap(rows: pd.DataFrame) -> Measured | None:
    """Return the mean cosine of sentence vectors less that of their tokens, mean over the middle third of the depth."""
    gap = _of(rows, "cone_gap")
    if gap.empty:
        sentences, tokens = (_of(rows, "mean_cosine", site) for site in ("sentence", "token"))
        gap = (sentences[["value", "low", "high"]] - tokens[["value", "low", "high"]]).dropna(subset="value")
        gap = gap.assign(low=np.nan, high=np.nan)
    if len(gap) < 3:
        return None
    depth = gap.index / gap.index.max()
    middle = gap[(depth >= 1 / 3) & (depth <= 2 / 3)].mean(numeric_only=True)
    return _measured(float(middle["value"]), middle)


def _removed(rows: pd.DataFrame) -> Measured | None:
    """Return the share of the greatest mean cosine of inner layers that is gone in the model's own vectors."""
    cosine = _of(rows, "mean_cosine")["value"]
    inner = cosine[(cosine.index > 0) & (cosine.index < cosine.index.max())]
    return Measured(float(1 - cosine.iloc[-1] / inner.max())) if len(inner) and inner.max() > 0 else None


def _turned_by_corpus(rows: pd.DataFrame) -> Measured | None:
    """Return the axis' cosine with itself when sentences are resampled, less that with the axes of other corpora."""
    between = rows[(rows["metric"] == "axis_cosine") & (rows["against_corpus"] != "") & (rows["against"] == "")]
    stability = rows[rows["metric"] == "axis_stability"]["value"].mean()
    return Measured(float(stability - between["value"].mean())) if len(between) else None


def _turned_by_tuning(evidence: Evidence) -> Effects:
    """Return, of every tuned model, its axis' stability less its cosine with the axes of models that were not tuned."""
    rows = evidence.cone
    _require_cone(evidence)
    if "against" not in rows:
        raise NotMeasurable("no cone of several models of one width among the runs")
    tuned = {subject: _is_tuned(evidence, part) for subject, part in rows.groupby("subject")}
    axes = rows[(rows["metric"] == "axis_cosine") & rows["against"].fillna("").ne("")]
    stability = rows[rows["metric"] == "axis_stability"].groupby("subject")["value"].mean()
    turned: list[tuple[str, Measured | None]] = []
    for subject, other, cosine in axes[["subject", "against", "value"]].itertuples(index=False):
        if other in tuned and tuned[subject] != tuned[other]:
            model = subject if tuned[subject] else other
            turned.append((model, Measured(float(stability.get(model, 1.0) - cosine))))
    return Effects(evidence.by_unit(turned))


CLAIMS = (
    Claim(
        "S4a",
        "In the middle layers the cone of sentence vectors is much tighter than that of their tokens.",
        SOURCE,
        "mean cosine of sentence vectors less that of tokens, middle third of the layers",
        (Criterion("gap", _models(_gap), CONE),),
        "a cone of 3 models or more",
    ),
    Claim(
        "S4b",
        "The last layer of a contrastively tuned encoder removes most of the cone.",
        SOURCE,
        "mean cosine of sentence vectors, over the layers",
        (
            Criterion(
                "share of the greatest inner mean cosine that is gone in the model's own vectors",
                _models(_removed, is_tuned=True),
                Threshold(0.5, "most of it: more than half"),
            ),
        ),
        "a cone of 3 models or more that were tuned on sentences",
    ),
    Claim(
        "S4c",
        "The axis of the cone depends on the corpus.",
        SOURCE,
        "first principal axis of sentence vectors, by corpus",
        (
            Criterion(
                "cosine of the axis with itself (sentences resampled) less that with other corpora's",
                _models(_turned_by_corpus),
                Threshold(0.1, "beyond what other sentences of the same corpus do"),
            ),
        ),
        "a cone of 3 models or more with --corpus",
    ),
    Claim(
        "S4d",
        "Fine-tuning rotates the axis of the cone.",
        SOURCE,
        "cosine between the axes of tuned models and of their base",
        (
            Criterion(
                "cosine of the axis with itself (sentences resampled) less that with the base's",
                _turned_by_tuning,
                Threshold(0.5, "more than a turn by 60 degrees; the source reports a cosine of 0.024"),
            ),
        ),
        "a cone of 3 tuned models or more beside a base of equal width",
    ),
)
