"""Transforms that reduce a cone: each is fitted on some vectors and applies to others.

So the mean, the axes and the scales can be taken from one corpus or model and applied to another.
"""

from collections.abc import Callable

import numpy as np

Transform = Callable[[np.ndarray], np.ndarray]
PER_COMPONENT = 4  # vectors that whitening needs for each component that it scales


def centred(x: np.ndarray, components: int | None = None) -> Transform:
    """Subtract the mean of x (n, d)."""
    mean = x.mean(0)
    return lambda y: y - mean


def all_but_the_top(x: np.ndarray, components: int | None = None) -> Transform:
    """Subtract the mean and k leading principal components, d / 100 by default; NaN where x has no more than k.

    Source: Mu, Bhat and Viswanath, All-but-the-Top (arXiv 1702.01417), algorithm 1, which proposes d / 100.
    """
    mean = x.mean(0)
    k = max(1, round(x.shape[1] / 100)) if components is None else components
    rank, _, axes = _principal(x - mean)
    if k >= rank:  # nothing but rounding would be left
        return lambda y: np.full_like(y, np.nan)
    top = axes[:k]
    return lambda y: (y - mean) - (y - mean) @ top.T @ top


def whitened(x: np.ndarray, components: int | None = None) -> Transform:
    """Subtract the mean and scale the k leading principal components to equal variance; the others are dropped.

    k is the width, or a quarter of the vectors fitted on where that is less: scales of components that few vectors
    distinguish are noise, which whitening would amplify.

    Source: Su et al., Whitening Sentence Representations (arXiv 2103.15316), equations 5 to 7, with its cut to k.
    """
    mean = x.mean(0)
    rank, scales, axes = _principal(x - mean)
    k = min(rank, max(1, len(x) // PER_COMPONENT))
    kernel = (axes[:k] / scales[:k, None]).T * np.sqrt(len(x))
    return lambda y: (y - mean) @ kernel


TRANSFORMS: dict[str, Callable[[np.ndarray, int | None], Transform]] = {
    "centred": centred,
    "all-but-the-top": all_but_the_top,
    "whitened": whitened,
}


def _principal(centred: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the numerical rank, the singular values, descending, and the right singular vectors as rows."""
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    return int((scales > 1e-6 * scales[0]).sum()), scales, axes
