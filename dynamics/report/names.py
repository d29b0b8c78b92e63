"""What the names in a record mean: words for headings, axes and captions, and how numbers are written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Words:
    """The words of a quantity.

    Args:
        title: its name in text.
        unit: empty where it has none.
        meaning: what it says, in a line.
        estimator: how the number is computed and whether the states are centred.
        signed: whether zero means something: where values take both signs, colours diverge from it.
        wide: whether it is positive and may span decades: then its axis is logarithmic.
    """

    title: str
    unit: str = ""
    meaning: str = ""
    estimator: str = ""
    signed: bool = False
    wide: bool = False

    @property
    def axis(self) -> str:
        """Return the title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


Descriptions = Mapping[str, Mapping[str, Any]]
"""Facts of metrics by name, as `run.json` has them; keys that `Words` does not have are ignored."""

METRICS: Descriptions = json.loads((Path(__file__).parent / "metrics.json").read_text())
"""Facts of the metrics that have a class, for runs that do not describe theirs."""

OTHERS = {
    "cone_gap": Words(
        "gap",
        meaning="How much more two sentence vectors agree than two of their tokens.",
        estimator="mean cosine of sentence vectors less that of the tokens of the same sentences",
        signed=True,
    ),
    "axis_share": Words(
        "share of the axis",
        meaning="Share of the variance of sentence vectors along the axis of their cone.",
        estimator="σ₁² / Σσᵢ² of the centred vectors as the model returns them",
    ),
    "axis_stability": Words(
        "stability of the axis",
        meaning="1 where other sentences would give the same axis.",
        estimator="absolute cosine with the axis of resampled sentences, mean over 200 resamples",
    ),
    "axis_cosine": Words(
        "cosine of axes",
        meaning="1 where two axes are one line, 0 where they are at right angles.",
        estimator="absolute cosine between first principal components, centred",
    ),
    "similarity_preservation": Words(
        "preservation of similarity",
        meaning="1 where a layer ranks all pairs of sentences as the last layer does.",
        estimator="Spearman correlation between pairwise cosines at a layer and at the last",
        signed=True,
    ),
    "spearman": Words(
        "Spearman correlation",
        "\N{MULTIPLICATION SIGN} 100",
        meaning="Agreement of cosines with human scores.",
        estimator="rank correlation of the pairs' cosines with their scores, times 100",
        signed=True,
    ),
    "bits_per_character": Words("cross-entropy", "bits per character"),
    "accuracy": Words("accuracy"),
    "f1": Words("F1"),
    "exact_match": Words("exact match"),
    "matthews_correlation": Words("Matthews correlation"),
    "pearson_correlation": Words("Pearson correlation"),
    "spearman_correlation": Words("Spearman correlation"),
    "loss": Words("loss", "nats; squared error of a score"),
}
"""Quantities without a metric class."""

SITES = {
    "residual": "residual stream",
    "output": "after the final norm",
    "query": "queries",
    "key": "keys",
    "attention": "attention",
    "weight": "weights",
    "sentence": "sentence vectors",
    "token": "token vectors",
    "train": "training",
    "validation": "validation",
    "cost": "cost",
}

LAYERS = {
    "residual": "layer 0 = embeddings, 1..L = residual stream after each block, before the final norm",
    "output": "the last layer after the final norm",
    "query": "layers 1..L; queries as they enter the dot product",
    "key": "layers 1..L; keys as they enter the dot product",
    "attention": "layers 1..L",
    "weight": "layers 1..L",
    "sentence": "layer 0 = embeddings, 1..L = after each block",
    "token": "layer 0 = embeddings, 1..L = after each block",
}

CORE = (
    ("residual", "anisotropy"),
    ("residual", "intrinsic_dimension"),
    ("residual", "mean_cosine"),
    ("residual", "norm_of_mean"),
    ("query", "drift"),
    ("key", "drift"),
    ("attention", "qk_alignment"),
    ("attention", "normalized_entropy"),
)
"""Site and metric of what a reader sees without a click, in this order."""

CURVES = ("train", "validation")
"""Sites of the learning curves."""
QUALITY = (
    "bits_per_character",
    "accuracy",
    "matthews_correlation",
    "spearman_correlation",
    "pearson_correlation",
    "f1",
    "exact_match",
)
"""Curves that say how well a model does what it learns, the most telling first."""
DASH = "\N{EN DASH}"
"""Stands where there is no value."""
MINUS = "\N{MINUS SIGN}"


def words(metric: str, descriptions: Descriptions | None = None) -> Words:
    """Return the words of a metric; a variant borrows from the metric that its name begins with.

    Args:
        metric: its name.
        descriptions: facts that runs state themselves; they come before those of this package.

    >>> words("anisotropy").title, words("intrinsic_dimension_mle").title, words("stable_rank").title
    ('anisotropy', 'intrinsic dimension (mle)', 'stable rank')
    >>> words("stable_rank", {"stable_rank": {"title": "stable rank", "unit": "dimensions"}}).axis
    'stable rank (dimensions)'
    """
    described = {**METRICS, **(descriptions or {})}
    if metric in described:
        facts = {"title": metric.replace("_", " "), **described[metric]}
        return Words(**{key: value for key, value in facts.items() if key in Words.__dataclass_fields__})
    if metric in OTHERS:
        return OTHERS[metric]
    stem = max((name for name in (*described, *OTHERS) if metric.startswith(f"{name}_")), key=len, default="")
    if not stem:
        return Words(metric.replace("_", " "), signed=True)
    variant, base = metric[len(stem) + 1 :].replace("_", " "), words(stem, descriptions)
    return replace(base, title=f"{base.title} ({variant})", estimator=f"the variant '{variant}' of {base.title}")


def site(name: str) -> str:
    """Return the words of a site."""
    return SITES.get(name, name)


def capital(text: str) -> str:
    """Return text that begins a sentence or a title: `str.capitalize` without its lower-casing."""
    return text[:1].upper() + text[1:]


def compact(value: float) -> str:
    """Return a step or another position on an axis, short.

    >>> [compact(v) for v in (0, 0.25, 512, 1000, 1024, 2500, 143000, 3e6)]
    ['0', '0.25', '512', '1k', '1024', '2.5k', '143k', '3M']
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return min(f"{value / size:.4g}{letter}", f"{value:.10g}", key=len)
    return f"{value:.4g}"


def number(value: float) -> str:
    """Return a measured value with three significant digits and at most four decimals; a dash where there is none.

    >>> [number(v) for v in (0.61234, 12.345, 123456.0, 0.00123, 2e-6, 0)]
    ['0.612', '12.3', '123000', '0.0012', '2.0e-06', '0']
    """
    if value != value:
        return DASH
    rounded = float(f"{value:.3g}")
    if abs(rounded) >= 100 or rounded == 0:
        text = f"{rounded:.0f}"
    elif abs(rounded) < 5e-4:
        text = f"{value:.1e}"
    else:
        text = f"{value:.{min(4, 2 - int(np.floor(np.log10(abs(rounded)))))}f}"
    return MINUS + text[1:] if text[0] == "-" else text


def estimate(row: Any, missing: str = DASH) -> str:
    """Return a value with its interval, where it has one.

    Args:
        row: with `value`, `low` and `high`, or None.
        missing: stands where there is no finite value.

    >>> estimate({"value": 0.5, "low": 0.4, "high": 0.6}), estimate(None, "undefined")
    ('0.500 [0.400, 0.600]', 'undefined')
    """
    if row is None or not np.isfinite(row["value"]):
        return missing
    bounded = np.isfinite(row["low"]) and np.isfinite(row["high"])
    return number(row["value"]) + (f" [{number(row['low'])}, {number(row['high'])}]" if bounded else "")
