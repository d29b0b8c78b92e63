"""Protocols of papers: which metrics, on what text, averaged how.

`shape-of-learning` (2311.05928): 128 windows of 512 characters; their tokens in shuffled batches of at least 4096
embeddings; anisotropy and intrinsic dimension of each batch, then mean and standard deviation over the batches. The
authors' layers are `output_hidden_states`, so that their last layer is our site `output`.

`inherent` (2401.12143): mean cosine over all pairs of tokens, norm of the mean state, and the mean norm, over the
whole input; queries and keys likewise.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from scipy.special import stdtrit
from torch import Tensor

from dynamics.errors import InputError
from dynamics.experiments.scan.options import INHERENT, SHAPE_OF_LEARNING
from dynamics.loading.encoder import Encoder
from dynamics.loading.inputs import InputSource, chunks
from dynamics.loading.text import pad
from dynamics.measure import Measurement
from dynamics.record import Row

WINDOWS, CHARACTERS, EMBEDDINGS = 128, 512, 4096

_STATES = {"sites": ["residual", "output"]}
_STATES_AND_HEADS = {"sites": ["residual", "output", "query", "key"]}
METRICS: dict[str, dict[str, Any]] = {  # without --metrics
    SHAPE_OF_LEARNING: {
        **dict.fromkeys(("anisotropy", "singular_value_share", "intrinsic_dimension"), _STATES),
        **dict.fromkeys(("intrinsic_dimension_lowest_20", "duplicate_share"), _STATES),
    },
    INHERENT: {**dict.fromkeys(("mean_cosine", "norm_of_mean"), _STATES_AND_HEADS), "mean_norm": _STATES},
}


def groups(source: InputSource, code: Encoder, seed: int) -> Iterator[list[list[int]]]:
    """Yield 128 windows (cut to the model's limit), shuffled, in groups of at least 4096 embeddings; drop the rest."""
    room = code.limit - code.specials if code.limit else None
    windows = [code.window(code.ids(text)[:room]) for text in islice(_windows(source), WINDOWS)]
    if len(windows) < WINDOWS:
        raise InputError(
            f"{source.facts['source']} holds {len(windows)} windows of {CHARACTERS} characters, and --protocol "
            f"{SHAPE_OF_LEARNING} needs {WINDOWS}: give more text."
        )
    if sum(map(len, windows)) < EMBEDDINGS:
        raise InputError(f"the {WINDOWS} windows hold less than the {EMBEDDINGS} embeddings of one batch.")
    group: list[list[int]] = []
    for i in np.random.default_rng(seed).permutation(WINDOWS):
        group.append(windows[i])
        if sum(map(len, group)) >= EMBEDDINGS:
            yield group
            group = []


def _windows(source: InputSource) -> Iterator[str]:
    rest = ""
    for text, _ in source.items():
        rest += text
        whole = len(rest) - len(rest) % CHARACTERS
        yield from (rest[at : at + CHARACTERS] for at in range(0, whole, CHARACTERS))
        rest = rest[whole:]


def over_groups(
    groups: Iterable[list[list[int]]], size: int, value: int, measure: Callable[[list[dict[str, Tensor]]], Measurement]
) -> tuple[Measurement, int]:
    """Measure every group in batches of `size` padded with `value`; return the mean over groups, and their number.

    A metric's row holds the mean, its 95 % t interval over groups and the tokens in all; `<metric>_deviation` the
    standard deviation.
    """
    rows: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    results = [measure([pad(part, value) for part in chunks(iter(group), size)]) for group in groups]
    for result in results:
        for row in result.rows:
            rows[row[:8]].append(row)
        for metric, spent in result.seconds.items():
            seconds[metric] += spent
    summaries = [row for same in rows.values() for row in _summary(same)]
    return Measurement(summaries, [], {}, dict(seconds), results[0].missing if results else ()), len(results)


def _summary(rows: list[Row]) -> Iterator[Row]:
    values, count = np.array([row.value for row in rows]), len(rows)
    mean, deviation = float(values.mean()), float(values.std(ddof=1)) if count > 1 else np.nan
    half = float(stdtrit(count - 1, 0.975)) * deviation / count**0.5 if count > 1 else np.nan
    row = rows[0]._replace(value=mean, low=mean - half, high=mean + half, n=sum(row.n for row in rows))
    yield row
    yield row._replace(metric=f"{row.metric}_deviation", value=deviation, low=np.nan, high=np.nan)
