"""Quality of training runs, and the claims about geometry and quality over designs. No torch here."""

from collections import defaultdict

import numpy as np

from dynamics.claims import measures as m
from dynamics.claims.base import Claim, Criterion, NotMeasurable, Threshold
from dynamics.claims.evidence import Evidence, design_key
from dynamics.claims.members import Member
from dynamics.claims.statistics import Effects, Measured
from dynamics.report.names import BITS, MASKED_BITS, QUALITY

DESIGNS = 4  # that a correlation over designs takes
NEEDS = f"{DESIGNS} designs or more of one kind, of equal seeds, with `effective_rank` and validation"
_rank = m.quantity("residual", "effective_rank", m.logs())


def quality(member: Member) -> tuple[str, float] | None:
    """Return the metric by which the last validation of a run is told, and its value; higher is better."""
    for metric in QUALITY:
        grid = member.grid("validation", metric)
        if grid is not None and np.isfinite(grid.values[-1, 0]):
            return metric, float(grid.values[-1, 0]) * (-1 if metric in (BITS, MASKED_BITS) else 1)
    return None


def _designs(evidence: Evidence) -> dict[str, dict[str, tuple[float, float]]]:
    """Return log rank and quality by seed and design, of the kind of models with the most designs."""
    kinds: dict[str, dict[str, dict[str, tuple[float, float]]]] = defaultdict(lambda: defaultdict(dict))
    for member in evidence.trained if evidence.population == "seeds" else ():
        rank, judged = m.at_end(_rank)(member), quality(member)
        if rank is not None and judged is not None:
            design = design_key(member.settings) + str(member.regularizer)
            kinds[f"{member.kind} {judged[0]}"][member.unit][design] = rank.value, judged[1]
    most = max(kinds.values(), key=lambda units: sum(map(len, units.values())), default={})
    designs = {unit: points for unit, points in most.items() if len(points) >= DESIGNS}
    evidence.enough(designs)
    return designs


def _rank_with_quality(evidence: Evidence) -> Effects:
    points = {unit: np.array([*values.values()]).T for unit, values in _designs(evidence).items()}
    return Effects({unit: Measured(float(np.corrcoef(each)[0, 1])) for unit, each in points.items()})


def _rank_with_design(evidence: Evidence) -> Effects:
    """Return the correlation over designs between the ranks of a seed and the mean ranks of the other seeds."""
    designs = _designs(evidence)
    shared = sorted(set.intersection(*(set(points) for points in designs.values())))
    if len(shared) < DESIGNS:
        raise NotMeasurable(f"{DESIGNS} designs that all seeds share, found {len(shared)}")
    ranks = {unit: np.array([points[key][0] for key in shared]) for unit, points in designs.items()}
    others = {unit: np.mean([values for other, values in ranks.items() if other != unit], axis=0) for unit in ranks}
    return Effects({unit: Measured(float(np.corrcoef(own, others[unit])[0, 1])) for unit, own in ranks.items()})


CLAIMS = (
    Claim(
        "B10",
        "Geometry reflects hyperparameters rather than the quality of the model.",
        "arXiv 2602.20433",
        "effective rank (logarithm) over designs, and quality at the last validation",
        (
            Criterion(
                "correlation over designs between one seed's ranks and the mean of the others'",
                _rank_with_design,
                Threshold(0.5, "the design decides a quarter of the variance of rank, and more"),
            ),
            Criterion(
                "correlation over designs between rank and quality, if it is positive",
                _rank_with_quality,
                Threshold(0.5, "less than a quarter of the variance of rank goes with quality"),
                above=False,
            ),
            Criterion(
                "correlation over designs between rank and quality, if it is negative",
                _rank_with_quality,
                Threshold(-0.5, "less than a quarter of the variance of rank goes with quality"),
            ),
        ),
        NEEDS,
        opposes=("B11",),
    ),
    Claim(
        "B11",
        "A higher effective rank goes with a better model.",
        "Garrido et al., RankMe, arXiv 2210.02885",
        "effective rank (logarithm) over designs, and quality at the last validation",
        (
            Criterion(
                "correlation over designs between rank and quality",
                _rank_with_quality,
                Threshold(0.5, "rank tells a quarter of the variance of quality, and more"),
            ),
        ),
        NEEDS,
        opposes=("B10",),
    ),
)
