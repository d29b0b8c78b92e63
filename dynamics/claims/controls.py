"""Controls of the intrinsic dimension: what a claim that rests on it must survive. No torch here.

An effect of the dimension may be one of the estimator. Where the record has them: untrained models and shuffled texts
must have a smaller dimension effect, duplicates must be few, and the dimension must not depend on the scale.
"""

import numpy as np

from dynamics.claims import measures as m
from dynamics.claims.base import Criterion, Threshold
from dynamics.claims.members import TRANSFORMERS, Member
from dynamics.claims.statistics import Effects, Measured, directed

DIMENSION = "intrinsic_dimension"


def _apart_from(control: str) -> m.Measure:
    """Return how far the log dimension of models is from that of their control, whatever the direction."""
    measure = m.against_control(m.quantity("residual", DIMENSION, m.logs()), control, *TRANSFORMERS)
    return lambda evidence: Effects(directed(measure(evidence).units))


def _scale(member: Member, step: int) -> Measured | None:
    value = member.at("residual", "scale_dependence", step)
    return None if value is None else Measured(abs(float(np.log(value.value))), value.error)


def dimension_controls() -> tuple[Criterion, ...]:
    """Return the controls, each a criterion that counts where it was measured."""
    return (
        *(
            Criterion(
                f"distance of the dimension from that of the {control} control (of the logarithm)",
                _apart_from(control),
                Threshold(0.05, "5 %: what is not above it is not learned"),
                role="control",
            )
            for control in ("untrained", "shuffled")
        ),
        Criterion(
            "share of duplicates among the states",
            m.level(m.quantity("residual", "duplicate_share"), *TRANSFORMERS),
            Threshold(0.5, "the estimate drops duplicates: what is left must still be most of the states"),
            above=False,
            role="control",
        ),
        Criterion(
            "change of the dimension over an eightfold scale (of the logarithm)",
            m.level(_scale, *TRANSFORMERS),
            Threshold(0.35, "a factor of 1.4: beyond it there is no one dimension to speak of"),
            above=False,
            role="control",
        ),
    )
