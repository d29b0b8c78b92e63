"""What a claim is: what it says, what it is measured by, and what would support or contradict it. No torch here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from dynamics.claims.statistics import Effects

if TYPE_CHECKING:
    from dynamics.claims.evidence import Evidence

Decision = Literal["supported", "contradicted", "inconclusive", "not measurable"]
Role = Literal["needed", "where measured", "control"]


class NotMeasurable(Exception):
    """What a record lacks for a claim, in words."""


class Threshold(NamedTuple):
    """The smallest effect of interest, and why it is that."""

    value: float
    why: str

    def __neg__(self) -> "Threshold":
        """Return the same size with the other sign."""
        return Threshold(-self.value, self.why)


@dataclass(frozen=True)
class Criterion:
    """One effect of a claim, and the least of it that counts.

    Supported: the effect lies beyond the threshold on the claimed side, more surely than chance. Contradicted: it lies
    on the other side, be it that it is real but too small to matter. A criterion that is a `control` never contradicts.
    """

    effect: str  # what is measured in every unit, in words
    measure: Callable[["Evidence"], Effects]
    threshold: Threshold
    above: bool = True  # whether the claim is that the effect lies above it
    role: Role = "needed"

    @property
    def side(self) -> str:
        """Return where the effect is claimed to lie: `> 0.05`."""
        return f"{'>' if self.above else '<'} {self.threshold.value:.3g}"

    @property
    def rule(self) -> str:
        """Return the decision rule in words."""
        return f"{self.effect} {self.side}"


@dataclass(frozen=True)
class Claim:
    """A finding as a program; all its criteria that are needed, or measured, must be supported."""

    id: str
    statement: str
    source: str
    quantity: str
    criteria: tuple[Criterion, ...]
    needs: str  # what the record must hold
    opposes: tuple[str, ...] = ()  # claims that cannot hold with this one
    note: str = ""  # what the measurement leaves out

    @property
    def anchor(self) -> str:
        """Return its id on the page."""
        return f"claim-{self.id.lower()}"
