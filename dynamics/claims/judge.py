"""Judges claims by evidence: every criterion tested, all tests corrected together, one verdict a claim. No torch here.

A claim is supported when all its criteria are: its p-value is the greatest of theirs (an intersection-union test, which
needs no correction within the claim). It is contradicted when one of them is: the least of their p-values, times how
many they are. The smaller of both p-values, doubled, is corrected over all claims and populations that were measured
(Benjamini-Yekutieli); a verdict takes a corrected one below 0.05.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from dynamics.claims.base import Claim, Criterion, Decision, NotMeasurable
from dynamics.claims.evidence import Evidence, evidence
from dynamics.claims.members import Population
from dynamics.claims.statistics import LEVEL, Effects, Outcome, corrected, outcome
from dynamics.report.names import estimate
from dynamics.report.study import Study

POPULATIONS: tuple[Population, ...] = ("seeds", "models")


class Judged(NamedTuple):
    """A criterion and its outcome, `missing` where there is none; `effects` are those of the units."""

    criterion: Criterion
    outcome: Outcome | None = None
    effects: Effects | None = None
    missing: str = ""

    @property
    def text(self) -> str:
        """The effect in words and numbers, and the rule."""
        found = self.outcome._asdict() | {"value": self.outcome.effect} if self.outcome is not None else None
        return f"{self.criterion.effect}, {estimate(found)}, claimed {self.criterion.side}"

    @property
    def fails(self) -> bool:
        """Whether its interval is not wholly on the claimed side."""
        if self.outcome is None:
            return False
        threshold = self.criterion.threshold.value
        return self.outcome.low <= threshold if self.criterion.above else self.outcome.high >= threshold

    @property
    def p_for(self) -> float:
        """The p-value for the claimed side."""
        if self.outcome is None:
            return 1.0
        own = self.outcome.p_above if self.criterion.above else self.outcome.p_below
        return max(own, self.effects.p if self.effects else 0.0)

    @property
    def turns(self) -> str:
        """Where a curve turns, and the p-value of that many change points; empty for effects that are not phases."""
        if self.effects is None or not self.effects.points:
            return ""
        steps = " and ".join(point.text for point in self.effects.points)
        return f"Change points: step {steps} (p = {self.effects.p:.2g})."

    @property
    def p_against(self) -> float:
        """The p-value for the other side."""
        return 1.0 if self.outcome is None else self.outcome.p_below if self.criterion.above else self.outcome.p_above


@dataclass(frozen=True)
class Judgement:
    """The verdict on a claim in one population; `other` is that in the other one, where it was measured too."""

    claim: Claim
    population: Population
    judged: tuple[Judged, ...]
    missing: str = ""  # what the record lacks, where the claim is not measurable
    corrected: float = 1.0  # p-value after correction
    other: "Judgement | None" = None

    @property
    def counted(self) -> list[Judged]:
        """The criteria that were measured, without controls."""
        return [one for one in self.judged if one.outcome is not None and one.criterion.role != "control"]

    @property
    def p_for(self) -> float:
        """The p-value for the claim."""
        return max((one.p_for for one in self.counted), default=1.0)

    @property
    def p_against(self) -> float:
        """The p-value against the claim."""
        return min(1.0, len(self.counted) * min((one.p_against for one in self.counted), default=1.0))

    @property
    def p(self) -> float:
        """The p-value of the claim's test, of both sides."""
        return min(1.0, 2 * min(self.p_for, self.p_against))

    @property
    def failed_controls(self) -> list[str]:
        """The controls that the claim does not survive: whose interval is not on the right side of the threshold."""
        return [one.criterion.effect for one in self.judged if one.criterion.role == "control" and one.fails]

    @property
    def verdict(self) -> Decision:
        """What the record says of the claim."""
        if self.missing:
            return "not measurable"
        if self.corrected >= LEVEL:
            return "inconclusive"
        if self.p_against < self.p_for:
            return "contradicted"
        return "inconclusive" if self.failed_controls else "supported"

    @property
    def deciding(self) -> Judged | None:
        """The criterion that decides: the least certain one, or the one that contradicts."""
        if not self.counted:
            return None
        if self.verdict == "contradicted":
            return min(self.counted, key=lambda one: one.p_against)
        return max(self.counted, key=lambda one: one.p_for)

    @property
    def main(self) -> Judged | None:
        """The criterion whose effect stands for the claim: the first that was measured."""
        return next(iter(self.counted), None)

    @property
    def reason(self) -> str:
        """What a reader must know beside the verdict, in sentences; empty where there is nothing."""
        if self.missing:
            return f"Missing: {self.claim.needs} ({self.missing})."
        parts = []
        if (deciding := self.deciding) is not None and deciding is not self.main:
            parts.append(f"Decided by: {deciding.text}.")
        if self.main is not None and self.main.turns:
            parts.append(self.main.turns)
        if self.verdict == "inconclusive" and self.corrected < LEVEL:
            parts.append(f"Does not survive its control: {'; '.join(self.failed_controls)}.")
        elif self.verdict == "inconclusive" and min(self.p_for, self.p_against) < 0.025:
            parts.append("Clear by itself, not after correction for the number of claims.")
        elif self.verdict == "supported" and (controls := self._controls()):
            parts.append(controls)
        absent = [one for one in self.judged if one.missing and one.criterion.role == "where measured"]
        parts += [f"Not judged: {one.criterion.effect} ({one.missing})." for one in absent]
        if self.other is not None and self.other.verdict != self.verdict:
            parts.append(f"Over {self.other.population}: {self.other.verdict}.")
        return " ".join(parts)

    def _controls(self) -> str:
        controls = [one for one in self.judged if one.criterion.role == "control"]
        survived = [one.criterion.effect for one in controls if not one.missing]
        missing = [one.criterion.effect for one in controls if one.missing]
        parts = [f"Survives: {'; '.join(survived)}."] if survived else []
        return " ".join([*parts, *([f"Controls that the record lacks: {'; '.join(missing)}."] if missing else [])])

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain JSON; null where there is no number."""
        main, deciding, claim = self.main, self.deciding, self.claim
        found = main.outcome if main is not None and not self.missing else None
        return {
            **{"id": claim.id, "verdict": self.verdict, **_numbers(found), "population": self.population},
            **{"p": self.corrected if found else None, "p_uncorrected": self.p if found else None},
            **{"statement": claim.statement, "source": claim.source, "opposes": list(claim.opposes)},
            **{"decided_by": deciding.criterion.rule if found and deciding else None, "reason": self.reason},
            "criteria": [
                {
                    "rule": one.criterion.rule,
                    "role": one.criterion.role,
                    "missing": one.missing,
                    **_numbers(one.outcome),
                    **({"turns": [p._asdict() for p in one.effects.points]} if one.turns and one.effects else {}),
                }
                for one in self.judged
            ],
            "other": self.other.to_dict() if self.other is not None else None,
        }


def _numbers(found: Outcome | None) -> dict[str, float | int | None]:
    if found is None:
        return {"effect": None, "low": None, "high": None, "n": 0}
    return {"effect": found.effect, "low": found.low, "high": found.high, "n": found.n}


def judge(study: Study, claims: Iterable[Claim]) -> list[Judgement]:
    """Return a judgement of every claim, in their order.

    A claim is judged over seeds (training runs, draws of a probe) and over models (scans, cones). Where both are
    measurable, the verdict is that over seeds, in which the compared arms differ by what was set, and by nothing else.
    """
    claims = tuple(claims)
    whole = evidence(study)
    sources = {population: replace(whole, population=population) for population in POPULATIONS}
    found = {population: [_judged(claim, source) for claim in claims] for population, source in sources.items()}
    measured = [one for judgements in found.values() for one in judgements if not one.missing]
    p_values = dict(zip(map(id, measured), corrected([one.p for one in measured]), strict=True))
    final = {
        population: [replace(one, corrected=p_values.get(id(one), 1.0)) for one in judgements]
        for population, judgements in found.items()
    }
    return [_first(seeds, models) for seeds, models in zip(final["seeds"], final["models"], strict=True)]


def _first(seeds: Judgement, models: Judgement) -> Judgement:
    if seeds.missing and models.missing:
        both = [text for text in (seeds.missing, models.missing) if not text.endswith("found 0")] or [seeds.missing]
        return replace(seeds, missing="; or ".join(dict.fromkeys(both)))
    if seeds.missing:
        return models
    return seeds if models.missing else replace(seeds, other=models)


def _judged(claim: Claim, source: Evidence) -> Judgement:
    judged = tuple(_measured(criterion, source) for criterion in claim.criteria)
    counted = [one for one in judged if one.criterion.role != "control"]
    lacking = [one.missing for one in counted if one.missing and one.criterion.role == "needed"]
    if not any(one.outcome for one in counted):
        lacking = [one.missing for one in counted]
    return Judgement(claim, source.population, judged, "; ".join(dict.fromkeys(lacking)))


def _measured(criterion: Criterion, source: Evidence) -> Judged:
    try:
        effects = criterion.measure(source)
    except NotMeasurable as error:
        return Judged(criterion, missing=str(error))
    found = outcome(effects, criterion.threshold.value)
    if not np.isfinite([found.effect, found.p_above]).all():
        return Judged(criterion, missing=f"finite values of {criterion.effect}")
    return Judged(criterion, found, effects)


def verdicts(judgements: Sequence[Judgement]) -> dict[str, Decision]:
    """Return the verdict of every claim by its id."""
    return {one.claim.id: one.verdict for one in judgements}
