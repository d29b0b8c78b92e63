import warnings
from inspect import signature
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Shaped
from torch import Tensor

from dynamics.errors import InputError
from dynamics.metrics.streaming import STATE_SITES, Estimate, Sample, undefined
from dynamics.metrics.streaming.arithmetic import floating
from dynamics.metrics.streaming.intervals import t_interval, too_few
from dynamics.metrics.streaming.neighbors import different_rows

FEWEST = 10  # different states below which no dimension is estimated
ESTIMATORS = {
    name.lower(): name
    for name in "CorrInt DANCo ESS FisherS GRIDE KNN MADA MLE MOM MiND_ML PH TLE".split()  # noqa: SIM905
}  # further estimators of scikit-dimension, by the suffix that names their variant
DRAWING = {  # those that draw subsets of the states by their places, and what that does to their value
    "KNN": "four of 3 to 6 states: from 1 to the width for the same cloud",
    "PH": "a thousand of half the states and more: 1 % apart for 400 states of 5 dimensions",
}


def intrinsic_dimension(x: Float[Tensor, "n d"], keep: float = 0.9) -> Float64[Tensor, ""]:
    """Return the intrinsic dimension of a cloud of states by the ratio of each one's two nearest neighbour distances.

    Formula: the slope through the origin of -log(1 - F(mu)) on log(mu), mu = r_2 / r_1, F its empirical distribution,
        over the lowest 90 % of mu; duplicates (equal up to rounding: half their distance within 4 units in the last
        place of their norm) dropped first. The fit is scikit-dimension's.
    Pitfalls: biased downwards as the dimension grows: Gaussians of 10, 20 and 50 dimensions give 9.8, 17.4 and 33.4
        with 4096 states. Near duplicates beyond rounding are kept and pull it down (1 % took a tenth off).
    Interval: sandwich over windows and over the components of the graph of first neighbours, Student's t on the log
        scale; sampling error only, not the bias.

    `x`: states; n = 4096 is the size it is compared at. `keep`: share of the lowest ratios that are fitted. NaN for
    fewer than 10 different states, or states that are not finite.
    >>> x = torch.randn(999, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 64).tril()
    >>> round(float(intrinsic_dimension(x)), 1)
    2.0
    """
    x = floating(x)
    finite = bool(torch.stack(x.aminmax()).isfinite().all()) if x.numel() else False
    different = different_rows(x, k=2) if finite else None
    enough = different is not None and len(different.rows) >= FEWEST
    value = two_nn(different.distances, keep) if different is not None and enough else torch.nan
    return torch.tensor(value, dtype=torch.float64, device=x.device)


def two_nn(distances: Float64[Tensor, "n 2"], keep: float = 0.9) -> float:
    """Return the TwoNN estimate from first and second neighbour distances; NaN where there is none."""
    from skdim.id import TwoNN

    # a hair more, lest rounding drop the last of the ratios kept
    return _fitted(TwoNN(discard_fraction=1 - keep - 1e-9, dist=True), distances)


def _fitted(estimator: Any, data: Tensor) -> float:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        value = estimator.fit(data.cpu().numpy()).dimension_
    return float(value) if np.isfinite(value) and value > 0 else float("nan")


def two_nn_influence(
    distances: Float64[Tensor, "n 2"], neighbours: Int[Tensor, " n"], value: float, keep: float = 0.9
) -> tuple[Float[np.ndarray, " n"], Shaped[np.ndarray, " n"]]:
    """Return each state's influence on the logarithm of the TwoNN estimate `value`, and its component.

    The score of the censored fit, psi_i = 1[l_i <= c] - value min(l_i, c) with l = log mu and c its cut-off, over their
    number; 1.014 for the linear fit in the place of maximum likelihood. Points of one component of the graph of first
    neighbours share distances, so their influences are not independent.

    `distances`: first and second neighbour distances. `neighbours`: index of the first neighbour.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    log_mu = (distances[:, 1] / distances[:, 0]).log().cpu().numpy()
    n = len(log_mu)
    cut = np.sort(log_mu)[int(n * keep) - 1]
    fitted = log_mu <= cut
    psi = fitted - value * np.minimum(log_mu, cut)
    edges = coo_array((np.ones(n), (np.arange(n), neighbours.cpu().numpy())), shape=(n, n))
    return 1.014 * psi / fitted.sum(), connected_components(edges, directed=False)[1]


def two_nn_variance(
    distances: Float64[Tensor, "n k"],
    neighbours: Int[Tensor, "n k"],
    windows: Int[Tensor, " n"],
    value: float,
    keep: float = 0.9,
) -> tuple[float, float]:
    """Return the variance of the logarithm of the TwoNN estimate `value`, over draws of as many windows; its freedom.

    a + 2.5 max(b - ab, 0): a is that of points clustered by the components of the graph of first neighbours. A window
    also moves the ratios of the points elsewhere whose neighbours it holds (as near duplicates across windows do): b is
    the sum over windows of their squared influence, from what the estimate would be without each, ab the part of it
    that independent points have too. The 2.5 is as calibrated on states of trained models (docs/calibration.md).

    `distances`, `neighbours`: those of the k > 2 nearest neighbours.
    """
    terms, component = two_nn_influence(distances[:, :2], neighbours[:, 0], value, keep)
    apart, window = distances.cpu().numpy(), np.unique(windows.cpu().numpy(), return_inverse=True)[1]
    holder = window[neighbours.cpu().numpy()]
    log_mu = np.log(apart[:, 1] / apart[:, 0])
    cut = np.sort(log_mu)[int(len(log_mu) * keep) - 1]

    def moved(window_left_out: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        first, second, *_ = np.sort(np.where(holder == window_left_out[:, None], np.inf, apart), axis=1).T
        with np.errstate(invalid="ignore"):  # both may lie in the window that is left out
            after = np.where(np.isfinite(second), np.log(second / first), log_mu)
        change = (after <= cut) * 1.0 - (log_mu <= cut) - value * (np.minimum(after, cut) - np.minimum(log_mu, cut))
        return -1.014 * change / (log_mu <= cut).sum()

    all_terms, labels, components = [terms], [window], [component]
    for rank in (0, 1):
        elsewhere = (holder[:, rank] != window) & ((holder[:, rank] != holder[:, 0]) | (rank == 0))
        all_terms.append(moved(holder[:, rank])[elsewhere])
        labels.append(holder[elsewhere, rank])
        components.append(component[elsewhere])
    change = np.concatenate(all_terms[1:])
    influence = np.concatenate([terms, change - (change.mean() if len(change) else 0)])
    label, both = np.concatenate(labels), np.concatenate(components)
    count = window.max() + 1
    of_window = np.bincount(label, influence, minlength=count)
    by_windows = (of_window - of_window.mean()).var(ddof=1) * count
    by_both = np.bincount(np.unique(both * count + label, return_inverse=True)[1], influence)
    by_components = np.bincount(component, terms)
    parts = float((by_components**2).sum()), 2.5 * max(float(by_windows - (by_both**2).sum()), 0)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / component.max() + parts[1] ** 2 / (count - 1))  # Satterthwaite
    return sum(parts), float(freedom)


def by_estimator(x: Float[Tensor, "n d"], estimator: str) -> float:
    """Return the dimension of `x`, without duplicates, by a seeded estimator of scikit-dimension, or NaN."""
    import skdim.id

    kind = getattr(skdim.id, estimator)
    seed = {"random_state": 0} if "random_state" in signature(kind.__init__).parameters else {}
    return _fitted(kind(**seed), x.double())


class IntrinsicDimension(Sample):
    """Dimension of the sheet on which the states lie, as seen between nearest neighbours.

    Args:
        estimator: `TwoNN`, or another global estimator of scikit-dimension by its name
        keep: share of the lowest ratios that TwoNN fits
    """

    range = (0, None)
    wide = True
    estimator = (
        "TwoNN (ratio of the first two neighbour distances); exact duplicates dropped, so n counts unique points;"
        " near duplicates (a token that recurs at its position) pull it down, and it is biased low from about 15 "
        "dimensions on; the interval covers neither"
    )
    source = "Facco et al. (arXiv 1803.06992), TwoNN; `keep=0.2` is the fit of Razzhigaev et al. (arXiv 2311.05928)"
    default_sites = dict.fromkeys(STATE_SITES, 12)
    variants = {
        **{suffix: {"estimator": estimator} for suffix, estimator in ESTIMATORS.items()},
        "lowest_20": {"keep": 0.2},
    }

    def __init__(self, estimator: str = "TwoNN", keep: float = 0.9, size: int = 4096, seed: int = 0) -> None:
        super().__init__(size, seed)
        if not 0 < keep < 1:
            raise InputError(f"intrinsic_dimension.keep must lie strictly between 0 and 1 (got {keep}).")
        if estimator not in (estimators := ["TwoNN", *ESTIMATORS.values()]):
            raise InputError(f"intrinsic_dimension.estimator must be one of {', '.join(estimators)} (got {estimator}).")
        self.method, self.keep = estimator, keep
        if estimator != "TwoNN":
            drawn = f"; random subsets, {DRAWING[estimator]}" if estimator in DRAWING else ""
            chance = ", so that another order or seed gives another value" if drawn else ""
            self._vary(
                estimator.lower(), f"{estimator} of scikit-dimension, seed 0; exact duplicates dropped{drawn}{chance}"
            )
        elif keep != 0.9:
            percent = f"{keep * 100:g}"
            self._vary(f"lowest_{percent}", f"TwoNN on the lowest {percent} % of the ratios; exact duplicates dropped")

    def _vary(self, suffix: str, estimator: str) -> None:
        self.name, self.title = f"{self.name}_{suffix}", f"intrinsic dimension ({suffix.replace('_', ' ')})"
        self.estimator = estimator

    @classmethod
    def variant(cls, suffix: str) -> dict[str, Any] | None:
        if suffix.startswith("lowest_") and suffix[7:].isdigit():
            return {"keep": int(suffix[7:]) / 100}
        return super().variant(suffix)

    def estimate(self, states: Sample) -> Estimate:
        if states.trouble:
            return undefined(1, len(states.places), states.trouble)
        n = len(states.distinct.rows)
        if n < FEWEST:
            return undefined(1, n, "; ".join(filter(None, [f"fewer than {FEWEST} different states", states.rounded])))
        low = high = np.array([np.nan])
        windows = len(states.windows.unique())
        reason = too_few(windows)
        if self.method == "TwoNN":
            _, _, distances, neighbours = states.distinct
            value = np.array([two_nn(distances[:, :2], self.keep)])
            if np.isfinite(value).all() and not reason:
                variance, freedom = two_nn_variance(distances, neighbours, states.windows, float(value[0]), self.keep)
                low, high = t_interval(value, value * np.sqrt(variance), freedom, "log")
        else:
            value = np.array([by_estimator(states.different, self.method)])
            reason = f"no interval is known for {self.method}"
        reason = reason if np.isfinite(value).all() else "the neighbour distances leave it undefined"
        reason = "; ".join(filter(None, [reason, states.rounded and f"{states.rounded} and were left out"]))
        return Estimate(value, low, high, n, reason, windows=windows)
