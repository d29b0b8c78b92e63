"""Measurements as papers made them: which metrics, on what, gathered how.

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
from torch import Tensor

from dynamics.errors import InputError
from dynamics.loading.inputs import Source, chunks
from dynamics.loading.text import Encoder, pad
from dynamics.measure import Measurement
from dynamics.record import Row

SHAPE, INHERENT = "shape-of-learning", "inherent"
WINDOWS, CHARACTERS, EMBEDDINGS = 128, 512, 4096

_STATES = {"sites": ["residual", "output"]}
METRICS: dict[str, dict[str, Any]] = {
    SHAPE: dict.fromkeys(
        (
            *("anisotropy", "singular_value_share", "intrinsic_dimension", "intrinsic_dimension_lowest_20"),
            "duplicate_share",
        ),
        _STATES,
    ),
    INHERENT: {
        "mean_cosine": {"sites": ["residual", "output", "query", "key"]},
        "norm_of_mean": {"sites": ["residual", "output", "query", "key"]},
        "mean_norm": _STATES,
    },
}
"""What a protocol measures where --metrics does not say."""


def groups(given: Source, code: Encoder, seed: int) -> Iterator[list[list[int]]]:
    """The 128 windows, shuffled, in groups of at least 4096 embeddings; what is left over is dropped.

    A window that is too long for the model is cut.

    Raises:
        InputError: the text is too short.
    """
    room = code.limit - code.specials if code.limit else None
    found = [code.window(code.ids(text)[:room]) for text in islice(_windows(given), WINDOWS)]
    if len(found) < WINDOWS:
        raise InputError(
            f"{given.facts['source']} holds {len(found)} windows of {CHARACTERS} characters, and --protocol {SHAPE} "
            f"needs {WINDOWS}: give more text."
        )
    if sum(map(len, found)) < EMBEDDINGS:
        raise InputError(f"the {WINDOWS} windows give less than the {EMBEDDINGS} embeddings of one batch.")
    group: list[list[int]] = []
    for i in np.random.default_rng(seed).permutation(WINDOWS):
        group.append(found[i])
        if sum(map(len, group)) >= EMBEDDINGS:
            yield group
            group = []


def _windows(given: Source) -> Iterator[str]:
    rest = ""
    for text, _ in given.items():
        rest += text
        whole = len(rest) - len(rest) % CHARACTERS
        yield from (rest[at : at + CHARACTERS] for at in range(0, whole, CHARACTERS))
        rest = rest[whole:]


def over_groups(
    found: Iterable[list[list[int]]],
    size: int,
    value: int,
    measure: Callable[[list[dict[str, Tensor]]], Measurement],
) -> tuple[Measurement, int]:
    """Measure every group in batches of `size` padded with `value`; mean and deviation over them, and their number.

    A metric's row holds the mean, its 95 % t interval over groups and the tokens in all; `<metric>_deviation` the
    standard deviation.
    """
    rows: dict[tuple, list[Row]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    count = 0
    for group in found:
        count += 1
        result = measure([pad(part, value) for part in chunks(iter(group), size)])
        for row in result.rows:
            rows[row[:8]].append(row)
        for metric, spent in result.seconds.items():
            seconds[metric] += spent
    made = [row for key, members in rows.items() for row in _summary(key, members)]
    return Measurement(made, [], {}, dict(seconds)), count


def _summary(key: tuple, members: list[Row]) -> Iterator[Row]:
    from scipy.special import stdtrit

    values = np.array([row.value for row in members])
    n = sum(row.n for row in members)
    mean, count = float(values.mean()), len(values)
    deviation = float(values.std(ddof=1)) if count > 1 else float("nan")
    half = float(stdtrit(count - 1, 0.975)) * deviation / count**0.5 if count > 1 else float("nan")
    yield Row(*key, mean, mean - half, mean + half, n)
    yield Row(*key[:-1], f"{key[-1]}_deviation", deviation, n=n)
