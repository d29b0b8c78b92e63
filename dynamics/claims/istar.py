"""Claims of Stable Anisotropic Regularization, I-STAR (arXiv 2305.19358). No torch here."""

from collections import defaultdict
from collections.abc import Callable
from itertools import product

import numpy as np

from dynamics.claims import measures as m
from dynamics.claims.base import Claim, Criterion, Threshold
from dynamics.claims.controls import dimension_controls
from dynamics.claims.evidence import Evidence, last_step
from dynamics.claims.members import Member, Repetition
from dynamics.claims.quality import quality
from dynamics.claims.statistics import Effects, Measured

SOURCE = "Rudman and Eickhoff, Stable Anisotropic Regularization, arXiv 2305.19358"
NAME = "istar"
LAMBDAS = 4  # that a correlation over lambda takes
MARGIN = Threshold(1.0, "1 % of the value without a regulariser: the source's gains are 0.5 to 3 %")
SWEEP = "runs of one design with I-STAR at lambda < 0 and > 0, and without it, of equal seeds"
QUALITY = "quality at the last validation (bits, accuracy ...), against the run without a regulariser"
Change = Callable[[Member, Member], Measured | None]  # of a regularised run against the one without

_score = m.quantity("residual", "isoscore", m.logs())
_dimension = m.quantity("residual", "intrinsic_dimension", m.logs())


def _sweep(evidence: Evidence) -> list[Member]:
    """Return all training runs that are without a regulariser or have I-STAR alone, fine-tuned ones too."""
    members = [member for member in evidence.members if member.population == evidence.population == "seeds"]
    return [member for member in members if not member.regularizer[1] or member.regularizer[0].lower() == NAME]


def _against_none(change: Change, sign: int) -> m.Measure:
    """Return the mean change at all lambdas of one sign against the run of the same design and seed without any."""

    def measure(evidence: Evidence) -> Effects:
        members = _sweep(evidence)
        plain = {member.repetition: member for member in members if not member.regularizer[1]}
        pairs = [(member, plain.get(member.repetition)) for member in members if member.regularizer[1] * sign > 0]
        return Effects(evidence.by_unit((one.unit, change(one, base)) for one, base in pairs if base is not None))

    return measure


def _isoscore_change(member: Member, base: Member) -> Measured | None:
    step = last_step((member, base))
    return None if step is None else m.minus(_score(member, step), _score(base, step))


def _quality_change(member: Member, base: Member) -> Measured | None:
    """Return how much better a run is than another, in per cent of that one's quality."""
    after, before = quality(member), quality(base)
    if after is None or before is None or after[0] != before[0] or before[1] == 0:
        return None
    return Measured(100 * (after[1] - before[1]) / abs(before[1]))


def _over_lambda(evidence: Evidence) -> Effects:
    """Return the correlation over lambda between IsoScore and the intrinsic dimension (logarithms), in every seed."""
    points: dict[Repetition, list[tuple[float, float]]] = defaultdict(list)
    for member in _sweep(evidence):
        score, dimension = m.at_end(_score)(member), m.at_end(_dimension)(member)
        if score is not None and dimension is not None:
            points[member.repetition].append((score.value, dimension.value))
    sweeps = [(key.unit, np.array(values).T) for key, values in points.items() if len(values) >= LAMBDAS]
    return Effects(evidence.by_unit((unit, Measured(float(np.corrcoef(values)[0, 1]))) for unit, values in sweeps))


def _jitter(member: Member) -> float:
    """Return the spread of the mini-batch estimate of IsoScore*, from neighbouring steps of the second half."""
    grid = member.grid("train", "isoscore_star")
    values = grid.values[len(grid.values) // 2 :, 0] if grid is not None else np.empty(0)
    return float(np.std(np.diff(values)) / np.sqrt(2) / np.abs(values).mean()) if len(values) > 8 else np.nan


def _steadier(evidence: Evidence) -> Effects:
    """Return the log ratio of the spreads without shrinkage and with it, of runs that share all else."""
    members = [
        (member, float(member.settings.get("regularizer.reference_weight", "nan"))) for member in _sweep(evidence)
    ]
    pairs = [
        (one, other)
        for (one, weight), (other, shrunk) in product(members, members)
        if weight == 0 < shrunk and (one.repetition, one.regularizer) == (other.repetition, other.regularizer)
    ]
    return Effects(evidence.by_unit((a.unit, Measured(float(np.log(_jitter(a) / _jitter(b))))) for a, b in pairs))


CLAIMS = (
    Claim(
        "S2a",
        "lambda < 0 lowers IsoScore* and lambda > 0 raises it.",
        SOURCE,
        "IsoScore (of all states: IsoScore* without shrinkage), mean over layers 1..L, last step",
        tuple(
            Criterion(
                f"change of log IsoScore with lambda {text}",
                _against_none(_isoscore_change, sign),
                Threshold(sign * 0.05, "5 %: what the regulariser aims at must move by more than its noise"),
                above=sign > 0,
            )
            for sign, text in ((-1, "< 0"), (1, "> 0"))
        ),
        SWEEP + ", with `isoscore`",
    ),
    Claim(
        "S2b",
        "Lower isotropy comes with lower intrinsic dimension.",
        SOURCE,
        "IsoScore and intrinsic dimension (TwoNN), means over layers 1..L, last step, over lambda",
        (
            Criterion(
                "Pearson correlation of their logarithms over lambda",
                _over_lambda,
                Threshold(0.3, "a moderate correlation; over few lambdas less is noise"),
            ),
            *dimension_controls(),
        ),
        f"runs of one design with I-STAR at {LAMBDAS} lambdas or more (none counts as 0), of equal seeds",
    ),
    Claim(
        "S2c",
        "lambda < 0 does not hurt the task, lambda > 0 does.",
        SOURCE,
        QUALITY,
        (
            Criterion("change of quality with lambda < 0, in per cent", _against_none(_quality_change, -1), -MARGIN),
            Criterion(
                "change of quality with lambda > 0, in per cent",
                _against_none(_quality_change, 1),
                -MARGIN,
                above=False,
            ),
        ),
        SWEEP + ", with validation",
        opposes=("B13",),
    ),
    Claim(
        "S2d",
        "Shrinkage makes the mini-batch estimate of IsoScore* stable.",
        SOURCE,
        "IsoScore* of training batches, second half of training",
        (
            Criterion(
                "log ratio of its relative spread between neighbouring steps, without shrinkage over with",
                _steadier,
                Threshold(float(np.log(1.25)), "a fifth less spread"),
            ),
        ),
        "runs with I-STAR that differ in `reference_weight` alone, one of them 0, of equal seeds",
        note="The spread alone: no record has the value of all data, in the layers' union, that a bias is told by.",
    ),
)

BEYOND = (
    Claim(
        "B13",
        "Raising isotropy improves the task.",
        "Gao et al., Representation Degeneration Problem in Training NLG Models, arXiv 1907.12009",
        QUALITY,
        (
            Criterion(
                "change of quality with lambda > 0, in per cent",
                _against_none(_quality_change, 1),
                Threshold(0.0, "any improvement"),
            ),
        ),
        SWEEP + ", with validation",
        opposes=("S2c",),
    ),
)
