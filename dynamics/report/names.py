"""What the names in a record mean: words for headings, axes and captions."""

from typing import NamedTuple

import numpy as np


class Words(NamedTuple):
    """How a quantity is spoken of.

    `estimator` says how the number is made and whether the states are centred; `meaning` what it tells, in a
    line. `signed` quantities have a meaningful zero: where they take both signs, colours diverge from it.
    `wide` ones are positive and may span decades: then their axis is logarithmic.
    """

    title: str
    unit: str = ""
    meaning: str = ""
    estimator: str = ""
    signed: bool = False
    wide: bool = False

    @property
    def axis(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


METRICS = {
    "anisotropy": Words(
        "anisotropy",
        meaning="Share of the variance along one single direction: 1/d in a round cloud, 1 on a line.",
        estimator="σ₁² / Σσᵢ² of the centred states",
    ),
    "anisotropy_uncentered": Words(
        "anisotropy, uncentred",
        meaning="The same share with the mean left in: a cloud far from the origin counts as a line.",
        estimator="σ₁² / Σσᵢ² of the states, not centred",
    ),
    "singular_value_share": Words(
        "singular value share",
        meaning="The largest singular value's share of their sum.",
        estimator="σ₁ / Σσᵢ of the centred states",
    ),
    "mean_cosine": Words(
        "mean cosine",
        meaning="Cosine between two states taken at random: 0 in all directions alike, 1 in a narrow cone.",
        estimator="closed form over all pairs of different tokens, not centred",
        signed=True,
    ),
    "mean_cosine_across_windows": Words(
        "mean cosine across windows",
        meaning="The mean cosine of pairs from different windows, which share no context.",
        estimator="closed form over all pairs from different windows, not centred",
        signed=True,
    ),
    "isoscore": Words(
        "IsoScore",
        meaning="0: all variance along one direction; 1: the same in all. It grows with the number of points.",
        estimator="(participation ratio - 1) / (d - 1) of the covariance",
    ),
    "participation_ratio": Words(
        "participation ratio",
        "dimensions",
        meaning="How many directions share the variance.",
        estimator="tr(S)² / ‖S‖² of the covariance S",
        wide=True,
    ),
    "effective_rank": Words(
        "effective rank",
        "dimensions",
        meaning="How many directions the states use (also known as RankMe).",
        estimator="exp of the entropy of σᵢ / Σσ",
        wide=True,
    ),
    "intrinsic_dimension": Words(
        "intrinsic dimension",
        meaning="Dimension of the sheet on which the states lie, as seen between nearest neighbours.",
        estimator="TwoNN (ratio of the first two neighbour distances); exact duplicates dropped, so n counts "
        "unique points; near duplicates (a token that recurs at its position) pull it down, and it is biased low "
        "from about 15 dimensions on; the interval covers neither",
        wide=True,
    ),
    "duplicate_share": Words(
        "share of duplicates",
        meaning="States that equal another one exactly; the intrinsic dimension leaves them out.",
        estimator="1 - different states / n",
    ),
    "scale_dependence": Words(
        "scale dependence",
        meaning="About 1 where the intrinsic dimension is the same at all scales.",
        estimator="intrinsic dimension of an eighth of the states over that of all, mean over the eighths",
    ),
    "local_anisotropy": Words(
        "local anisotropy",
        meaning="Anisotropy within a neighbourhood: never near 0 in so few points; see the random one.",
        estimator="anisotropy of the 64 nearest neighbours, centred on their mean, mean over sampled states",
    ),
    "local_anisotropy_random": Words(
        "local anisotropy, random",
        meaning="What 64 states drawn at random give: the value to compare the local anisotropy with.",
        estimator="anisotropy of 64 random states, centred on their mean, averaged over draws",
    ),
    "linear_cka": Words(
        "linear CKA",
        meaning="Similarity of two representations of the same tokens: 1 where equal up to rotation and scale.",
        estimator="‖yᵀx‖² / (‖xᵀx‖ ‖yᵀy‖), both centred",
    ),
    "procrustes_linearity": Words(
        "linearity",
        meaning="1 where one representation is a linear map of the other.",
        estimator="share of the variance that the best linear map explains, both centred",
    ),
    "cka_to_start": Words(
        "linear CKA to step 0",
        meaning="Similarity of a layer's states to those of the same tokens at step 0, up to rotation and scale.",
        estimator="‖yᵀx‖² / (‖xᵀx‖ ‖yᵀy‖), both centred, on the same sample of tokens",
    ),
    "linearity_to_start": Words(
        "linearity to step 0",
        meaning="1 where a layer's states are a linear map of what they were at step 0.",
        estimator="share of the variance that the best linear map explains, both centred, on the same sample of tokens",
    ),
    "mean_norm": Words("mean norm", meaning="Mean length of a state.", estimator="mean of ‖x‖, not centred", wide=True),
    "norm_of_mean": Words(
        "norm of the mean",
        meaning="How far the whole cloud lies from the origin.",
        estimator="‖mean of the states‖, not centred",
        wide=True,
    ),
    "kurtosis": Words(
        "kurtosis of the neurons",
        meaning="1 where all coordinates are alike; high where a few are outliers.",
        estimator="mean(s⁴) / mean(s²)² over the root mean squares s of the coordinates, not centred",
        wide=True,
    ),
    "drift": Words(
        "drift",
        meaning="How far the mean has moved since the weights were drawn.",
        estimator="‖mean now - mean at step 0‖ per head, on the same tokens",
    ),
    "qk_alignment": Words(
        "query-key alignment",
        meaning="1: mean query and mean key point the same way; -1: opposite ways; 0: they are orthogonal.",
        estimator="cosine of the mean query with the mean key, per head",
        signed=True,
    ),
    "qk_mean_cosine": Words(
        "mean cosine, queries to keys",
        meaning="Cosine of a query and a key taken at random.",
        estimator="closed form over all pairs of a query and a key, per head, not centred",
        signed=True,
    ),
    "entropy": Words(
        "attention entropy",
        "nats",
        meaning="Low: sharp attention; high: spread over many keys.",
        estimator="entropy of each attention row, mean over queries",
    ),
    "normalized_entropy": Words(
        "attention entropy, normalised",
        meaning="1: uniform over the keys that a query may see; 0: all on one key.",
        estimator="entropy / log(visible keys), mean over queries; rows with one visible key left out",
    ),
    "max_probability": Words(
        "largest attention probability",
        meaning="Near 1 where attention is sharp.",
        estimator="largest probability of each row, mean over queries",
    ),
    "min_probability": Words(
        "least attention probability",
        meaning="1 / keys where attention is uniform, near 0 where it is sharp.",
        estimator="smallest probability of each row among the visible keys, mean over queries",
        wide=True,
    ),
    "score_variance": Words(
        "score variance",
        meaning="How far a query's scores lie apart: all that softmax sees of them.",
        estimator="variance of each row of scores over the visible keys, mean over queries",
        wide=True,
    ),
    "sink_mass": Words(
        "attention sink",
        meaning="Attention that goes to the very first position.",
        estimator="mean probability on position 0; query 0 left out",
    ),
    "logit_max": Words(
        "largest attention logit",
        meaning="Large logits make attention sharp.",
        estimator="largest scaled logit of a head",
        signed=True,
    ),
    "qk_symmetry": Words(
        "symmetry of W_q W_kᵀ",
        meaning="1: symmetric; -1: antisymmetric; 0: neither (random weights).",
        estimator="tr(M M) / ‖M‖² with M = W_q W_kᵀ; a layer's M sums its heads'; weights alone, no data",
        signed=True,
    ),
    "cone_gap": Words(
        "gap",
        meaning="How much more two sentence vectors agree than two of their tokens.",
        estimator="mean cosine of sentence vectors less that of the tokens of the same sentences",
        signed=True,
    ),
    "axis_share": Words(
        "share of the axis",
        meaning="Share of the variance of sentence vectors along the axis of their cone.",
        estimator="σ₁² / Σσᵢ² of the centred vectors as the model hands them out",
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
"""What a reader sees without a click, in this order."""

CURVES = ("train", "validation")
QUALITY = (
    "bits_per_character",
    "accuracy",
    "matthews_correlation",
    "spearman_correlation",
    "pearson_correlation",
    "f1",
    "exact_match",
)
"""Curves that tell how well a model does what it learns, the most telling first."""
DASH = "\N{EN DASH}"
"""Stands where there is no value."""
MINUS = "\N{MINUS SIGN}"
PLACES = {site: place for place, site in enumerate(SITES)}


def words(metric: str) -> Words:
    """The words of a metric; a variant borrows from the metric that its name begins with.

    >>> words("anisotropy").title, words("intrinsic_dimension_mle").title, words("stable_rank").title
    ('anisotropy', 'intrinsic dimension (mle)', 'stable rank')
    """
    if metric in METRICS:
        return METRICS[metric]
    stem = max((name for name in METRICS if metric.startswith(f"{name}_")), key=len, default=None)
    if stem is None:
        return Words(metric.replace("_", " "), signed=True)
    variant = metric[len(stem) + 1 :].replace("_", " ")
    known = METRICS[stem]
    estimator = f"the variant '{variant}' of {known.title}"
    return known._replace(title=f"{known.title} ({variant})", estimator=estimator)


def site(name: str) -> str:
    """The words of a site."""
    return SITES.get(name, name)


def heading(name: str, metric: str) -> str:
    """Title of a figure.

    >>> heading("query", "drift")
    'Drift (queries)'
    """
    return f"{capital(words(metric).title)} ({site(name)})"


def capital(text: str) -> str:
    """Text that begins a sentence or a title: `str.capitalize` without its lower-casing."""
    return text[:1].upper() + text[1:]


def compact(value: float) -> str:
    """A step or another position on an axis, short.

    >>> [compact(v) for v in (0, 0.25, 512, 1000, 1024, 2500, 143000, 3e6)]
    ['0', '0.25', '512', '1k', '1024', '2.5k', '143k', '3M']
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return min(f"{value / size:.4g}{letter}", f"{value:.10g}", key=len)
    return f"{value:.4g}"


def number(value: float) -> str:
    """A measured value with three significant digits and four decimals at most; a dash where there is none.

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
