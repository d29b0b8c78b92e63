"""What the names in a record mean: words for headings, axes and captions, and how numbers are written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Words:
    """The words of a quantity."""

    title: str
    unit: str = ""
    meaning: str = ""  # in a line
    estimator: str = ""  # how the number is computed, and whether the states are centred
    signed: bool = False  # whether zero means something: where values take both signs, colours diverge from it
    wide: bool = False  # whether it is positive and may span decades: then its axis is logarithmic
    range: Sequence[float | None] = (None, None)  # least and greatest value, None where there is none

    @property
    def axis(self) -> str:
        """Return the title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


Descriptions = Mapping[str, Mapping[str, Any]]
"""Facts of metrics by name, as `run.json` has them; keys that `Words` does not have are ignored."""

METRICS: Descriptions = {
    # metrics.json: those that have a class, for runs that do not describe theirs; quantities.json: the rest.
    **json.loads((Path(__file__).parent / "metrics.json").read_text()),
    **json.loads((Path(__file__).parent / "quantities.json").read_text()),
}

SITES = {
    "residual": "residual stream",
    "output": "after the final norm",
    "query": "queries",
    "key": "keys",
    "value": "values",
    "attention": "attention",
    "weight": "weights",
    "sentence": "sentence vectors",
    "token": "token vectors",
    "train": "training",
    "validation": "validation",
    "test": "test split",
    "cost": "cost",
}
LAYERS = {
    "residual": "layer 0 = embeddings, 1..L = residual stream after each block, before the final norm",
    "output": "the last layer after the final norm",
    **{site: f"layers 1..L; {SITES[site]} as they enter the dot product" for site in ("query", "key")},
    "value": "layers 1..L; values as attention sums them",
    **dict.fromkeys(("attention", "weight"), "layers 1..L"),
    **dict.fromkeys(("sentence", "token"), "layer 0 = embeddings, 1..L = after each block"),
}

CORE = (
    *(("residual", metric) for metric in ("anisotropy", "intrinsic_dimension", "mean_cosine", "norm_of_mean")),
    *(("query", "drift"), ("key", "drift")),
    *(("attention", "qk_alignment"), ("attention", "normalized_entropy")),
)
"""Site and metric of what a reader sees without a click, in this order."""
CURVES = ("train", "validation")  # sites of the learning curves
APART = (*CURVES, "test", "cost")  # sites that hold no geometry
BITS, MASKED_BITS = "bits_per_character", "bits_per_masked_character"  # of older runs both had the first name
QUALITY = (
    # How well a model does what it learns, the most telling first.
    *(BITS, MASKED_BITS, "accuracy", "matthews_correlation", "spearman_correlation", "pearson_correlation"),
    *("f1", "exact_match"),
)
AUDIT = ("weight_distance", "detour", "initial_std_ratio", "suspect")  # of checkpoints; they are no geometry
DASH = "\N{EN DASH}"  # where there is no value
MINUS = "\N{MINUS SIGN}"


def words(metric: str, descriptions: Descriptions | None = None) -> Words:
    """Return the words of a metric; a variant borrows from the metric that its name begins with.

    Facts in `descriptions`, which runs state themselves, come before those of this package.

    >>> words("anisotropy").title, words("intrinsic_dimension_mle").title, words("stable_rank").title
    ('anisotropy', 'intrinsic dimension (mle)', 'stable rank')
    >>> words("stable_rank", {"stable_rank": {"title": "stable rank", "unit": "dimensions"}}).axis
    'stable rank (dimensions)'
    """
    described = {**METRICS, **(descriptions or {})}
    if metric in described:
        facts = {"title": metric.replace("_", " "), **described[metric]}
        return Words(**{key: value for key, value in facts.items() if key in Words.__dataclass_fields__})
    stem = max((name for name in described if metric.startswith(f"{name}_")), key=len, default="")
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
    """Return a step or another position on an axis, short; from 1000 on no digit is lost.

    >>> [compact(v) for v in (0, 0.25, 512, 1000, 1024, 2500, 16384, 131072, 143000, 1234567, 3e6)]
    ['0', '0.25', '512', '1k', '1024', '2.5k', '16384', '131072', '143k', '1234567', '3M']
    """
    if abs(value) < 1000:
        return f"{value:.4g}"
    size, letter = (1e6, "M") if abs(value) >= 1e6 else (1e3, "k")
    short, whole = f"{value / size:.4g}", f"{value:.10g}"
    return min(short + letter, whole, key=len) if float(short) == value / size else whole


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
    """Return a value with its interval, where it has one; `missing` where there is no row or no finite value.

    >>> estimate({"value": 0.5, "low": 0.4, "high": 0.6}), estimate(None, "undefined")
    ('0.500 [0.400, 0.600]', 'undefined')
    """
    if row is None or not np.isfinite(row["value"]):
        return missing
    bounded = np.isfinite([row["low"], row["high"]]).all()
    return number(row["value"]) + (f" [{number(row['low'])}, {number(row['high'])}]" if bounded else "")
