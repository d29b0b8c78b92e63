"""The effects that claims are made of: levels, changes along training, contrasts of kinds, arms and controls.

Each function here returns a measure: evidence in, the effect in every unit out. No torch here.
"""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from dynamics.changepoints import fewest
from dynamics.claims.base import NotMeasurable
from dynamics.claims.evidence import Evidence, design_key, last_step
from dynamics.claims.members import Member, Summary
from dynamics.claims.phases import Pattern, turns
from dynamics.claims.statistics import Effects, Measured, mean_of
from dynamics.report.profiles import profile

Measure = Callable[[Evidence], Effects]
OfMember = Callable[[Member, int], Measured | None]  # of a model at a step
Place = tuple[Member, int]  # a model and a step


def height(profile_of: Sequence[Measured]) -> Measured:
    """Return the height of the peak above both ends (`report.profiles.Profile.height`)."""
    return Measured(profile([m.value for m in profile_of]).height, mean_of(profile_of).error)


def span(profile_of: Sequence[Measured]) -> Measured:
    """Return the greatest value less the least: 0 is flat."""
    return Measured(profile([m.value for m in profile_of]).span, mean_of(profile_of).error)


def off_centre(profile_of: Sequence[Measured]) -> Measured:
    """Return how far the peak is from the middle layer, in shares of the depth; its error is that of whole layers."""
    error = 1 / max(len(profile_of) - 1, 1) / np.sqrt(12)
    return Measured(abs(profile([m.value for m in profile_of]).peak - 0.5), float(error))


def upper_rise(profile_of: Sequence[Measured]) -> Measured:
    """Return the mean of the upper third of the layers less that of the middle third."""
    upper, middle = _third(profile_of, 2), _third(profile_of, 1)
    return mean_of(upper) - mean_of(middle) if upper and middle else Measured(np.nan)


def last_to_first(profile_of: Sequence[Measured]) -> Measured:
    """Return the last layer's value less the first's."""
    return profile_of[-1] - profile_of[0]


def greatest(profile_of: Sequence[Measured]) -> Measured:
    """Return the greatest value."""
    return max(profile_of)


def _third(values: Sequence[Measured], third: int) -> Sequence[Measured]:
    bounds = [round(len(values) * i / 3) for i in range(4)]
    return values[bounds[third] : bounds[third + 1]]


def logs(summary: Summary = mean_of) -> Summary:
    """Return a summary of logarithms: differences are then relative."""

    def of_logs(profile_of: Sequence[Measured]) -> Measured:
        if min(m.value for m in profile_of) <= 0:
            return Measured(np.nan)
        return summary([Measured(float(np.log(m.value)), m.error / m.value) for m in profile_of])

    return of_logs


def quantity(site: str, metric: str, summary: Summary = mean_of) -> OfMember:
    """Return a quantity of a model at a step, summed up over its layers 1..L."""
    return lambda member, step: member.at(site, metric, step, summary)


def minus(first: Measured | None, second: Measured | None) -> Measured | None:
    """Return the first less the second; None where either is missing."""
    return None if first is None or second is None else first - second


def less(first: OfMember, second: OfMember) -> OfMember:
    """Return the first of two quantities of a model less the second."""
    return lambda member, step: minus(first(member, step), second(member, step))


def at_end(of: OfMember) -> Callable[[Member], Measured | None]:
    """Return a quantity at the last step of a model."""
    return lambda member: of(member, member.steps[-1]) if member.steps else None


def level(of: OfMember, *kinds: str, modalities: Sequence[str] = ()) -> Measure:
    """Return a quantity of models of some kinds at their last step."""

    def measure(evidence: Evidence) -> Effects:
        members = [m for m in evidence.of(*kinds) if not modalities or m.modality in modalities]
        return Effects(evidence.effects(members, at_end(of)))

    return measure


def at_start(of: OfMember, *kinds: str) -> Measure:
    """Return a quantity of untrained models: of training runs at step 0, and of controls."""

    def measure(evidence: Evidence) -> Effects:
        series = [(m, 0) for m in evidence.of(*kinds) if m.steps[:1] == (0,) and len(m.steps) > 1]
        controls = [m for m in evidence.members if m.population == evidence.population and m.control == "untrained"]
        drawn = [(m, m.steps[-1]) for m in controls if m.kind in kinds and m.steps]
        return Effects(evidence.by_unit((m.unit, of(m, step)) for m, step in (*series, *drawn)))

    return measure


def growth(of: OfMember, *kinds: str) -> Measure:
    """Return the change of a quantity from step 0 (or an untrained control) to the last step."""
    return _since(of, _start, *kinds)


def against_control(of: OfMember, control: str, *kinds: str) -> Measure:
    """Return a quantity of models less that of their control, `untrained` (also step 0) or `shuffled`."""
    return _since(of, _start if control == "untrained" else lambda e, m: _end(e.control(m, control)), *kinds)


def _since(of: OfMember, origin: Callable[[Evidence, Member], Place | None], *kinds: str) -> Measure:
    """Return a quantity of models at their last step less that at another place."""

    def change(evidence: Evidence, member: Member) -> Measured | None:
        start, end = origin(evidence, member), _end(member)
        return None if start is None or end is None else minus(of(*end), of(*start))

    return lambda evidence: Effects(evidence.effects(evidence.of(*kinds), lambda m: change(evidence, m)))


def _start(evidence: Evidence, member: Member) -> Place | None:
    """Return where a model is untrained: at step 0 of several, or its untrained control."""
    if len(member.steps) > 1 and member.steps[0] == 0:
        return member, 0
    return _end(evidence.control(member, "untrained"))


def _end(member: Member | None) -> Place | None:
    return (member, member.steps[-1]) if member is not None and member.steps else None


def contrast(of: OfMember, first: str, second: str) -> Measure:
    """Return a quantity of one kind less that of another, at the last step that both reached.

    Training runs are paired: the same design and seed. Models of a scan are two groups.
    """

    def measure(evidence: Evidence) -> Effects:
        ones, twos = evidence.of(first), evidence.of(second)
        if evidence.population == "models":
            return Effects(*(evidence.effects(group, at_end(of)) for group in (ones, twos)))
        pairs = [(a, b) for a, b in product(ones, twos) if (a.design, a.unit) == (b.design, b.unit)]
        return Effects(_paired(evidence, pairs, of))

    return measure


def arms(of: OfMember, factor: str, first: Sequence[str], second: Sequence[str], *aside: str) -> Measure:
    """Return a quantity under some values of a setting less that under others, of runs that share all else.

    Args:
        of: the quantity.
        factor: the setting.
        first: its values that the claim is about.
        second: those that they are compared with.
        aside: further settings that may differ with it (the learning rate of another optimiser).
    """

    def measure(evidence: Evidence) -> Effects:
        members = [m for m in evidence.trained if not m.regularizer[1]]
        ones, twos = ([m for m in members if setting(m, factor) in values] for values in (first, second))
        keys = {id(m): (m.kind, m.unit, design_key(m.settings, factor, *aside)) for m in (*ones, *twos)}
        pairs = [(a, b) for a, b in product(ones, twos) if keys[id(a)] == keys[id(b)]]
        return Effects(_paired(evidence, pairs, of))

    return measure


def _paired(evidence: Evidence, pairs: Sequence[tuple[Member, Member]], of: OfMember) -> dict[str, Measured]:
    found: list[tuple[str, Measured | None]] = []
    for one, two in pairs:
        step = last_step((one, two))
        found.append((one.unit, None if step is None else minus(of(one, step), of(two, step))))
    return evidence.by_unit(found)


DEFAULTS = {"optimizer": "adamw", "norm": "pre", "attention": "softmax", "positions": "learned"}


def setting(member: Member, factor: str) -> str:
    """Return a setting of a model's run by the last part of its name; older runs do not say what had one value then."""
    named = (str(v) for key, v in member.settings.items() if key.rpartition(".")[2] == factor and v is not None)
    return next(named, DEFAULTS.get(factor, "")).lower()


def phase(site: str, metric: str, pattern: Pattern, number: int, *kinds: str) -> Measure:
    """Return the relative change (of the logarithm) in one phase of a pattern along training; see `phases.turns`."""

    def measure(evidence: Evidence) -> Effects:
        of = quantity(site, metric, logs())
        curves: dict[str, dict[int, list[float]]] = {}
        for member in evidence.of(*kinds):
            values = {step: found.value for step in member.steps if (found := of(member, step)) is not None}
            for step, value in values.items() if len(values) >= fewest(1) else ():
                curves.setdefault(member.unit, {}).setdefault(step, []).append(value)
        evidence.enough(curves)
        shared = sorted(set.intersection(*(set(curve) for curve in curves.values())))
        table = tuple(tuple(float(np.mean(curves[unit][step])) for step in shared) for unit in sorted(curves))
        along = turns(tuple(shared), table, pattern)
        if along is None:
            raise NotMeasurable(f"{fewest(len(pattern) - 1)} steps at least that all share, found {len(shared)}")
        changes = dict(zip(sorted(curves), along.changes[:, number].tolist(), strict=True))
        return Effects({unit: Measured(change) for unit, change in changes.items()}, p=along.p, points=along.points)

    return measure
