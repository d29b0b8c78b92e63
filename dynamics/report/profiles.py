"""What the profile of a quantity over the layers of a model looks like, in three numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BELL = 0.05
"""Least height of a bell of anisotropy: 5 % of the variance.

The bells of arXiv 2311.05928 are 20 to 80 % high, seeds differ by about 1 %. Noise alone puts the peak of a flat
profile between its ends, and so a little above them.
"""


class Profile(NamedTuple):
    """The shape of the values at layers 1..L, one after the other; the embeddings, layer 0, are left out."""

    peak: float  # where the greatest value stands: 0 the first layer, 1 the last
    height: float  # the greatest value between the ends, less the greater of the ends: positive is a peak in between
    span: float  # the greatest value less the least: 0 is flat


def profile(values: Sequence[float]) -> Profile:
    """Return the shape of a profile; NaN where it has fewer than three layers or a value that is not finite.

    The peak is the first of several equal ones. A bell has a `height` of more than `BELL`; "flatter" (claim S1b) is the
    smaller `span`.

    >>> profile([0.1, 0.5, 0.2])
    Profile(peak=0.5, height=0.3, span=0.4)
    """
    x = np.asarray(values, dtype=float)
    if len(x) < 3 or not np.isfinite(x).all():
        return Profile(np.nan, np.nan, np.nan)
    height = x[1:-1].max() - max(x[0], x[-1])
    return Profile(int(x.argmax()) / (len(x) - 1), float(height), float(x.max() - x.min()))
