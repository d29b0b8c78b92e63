"""When to measure: a schedule is a value, known before the run starts. No torch here."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import count, takewhile

from dynamics.errors import InputError

MOST = 10_000  # steps in a factor of ten


class Schedule(ABC):
    """Base: a set of optimiser steps; step 0 (before any update) and the last step always belong to it."""

    @staticmethod
    def parse(spec: object, key: str) -> "Schedule":
        """Return the schedule of a short form, `{every: 50}` or `{per_decade: 5}`, of the setting `key`.

        >>> Schedule.parse({"every": 50}, "monitor.schedule")
        Every(interval=50)
        """
        kinds = {"every": Every, "per_decade": LogSpaced}
        if isinstance(spec, Schedule):
            return spec
        if not (isinstance(spec, dict) and len(spec) == 1 and spec.keys() <= kinds.keys()):
            raise InputError(f"{key} must be {{every: STEPS}} or {{per_decade: NUMBER}} (got {spec}).")
        ((kind, number),) = spec.items()
        if not isinstance(number, int):
            raise InputError(f"{key}.{kind} must be a whole number (got {number}).")
        return kinds[kind](number)

    @abstractmethod
    def inner(self, last: int) -> set[int]:
        """Return the steps in 1..last-1 of the concrete schedule."""

    def steps(self, last: int) -> tuple[int, ...]:
        """Return all steps to measure at, ascending, for a run of `last` optimiser updates.

        >>> LogSpaced().steps(10)
        (0, 1, 2, 4, 8, 10)
        """
        if last < 0:
            raise InputError(f"a schedule needs a known number of steps: set trainer.max_steps (got {last}).")
        return tuple(sorted({0, last} | {s for s in self.inner(last) if 0 < s < last}))


@dataclass(frozen=True)
class Every(Schedule):
    """Every `interval` steps.

    >>> Every(4).steps(10)
    (0, 4, 8, 10)
    """

    interval: int = 100

    def __post_init__(self) -> None:
        if not isinstance(self.interval, int) or self.interval < 1:
            raise InputError(f"schedule interval must be at least 1 step (got {self.interval}).")

    def inner(self, last: int) -> set[int]:
        return set(range(self.interval, last, self.interval))


@dataclass(frozen=True)
class LogSpaced(Schedule):
    """Powers of two, or `per_decade` steps in every factor of ten.

    >>> LogSpaced(per_decade=2).steps(100)
    (0, 1, 3, 10, 32, 100)
    """

    per_decade: int | None = None

    def __post_init__(self) -> None:
        if self.per_decade is not None and (not isinstance(self.per_decade, int) or not 1 <= self.per_decade <= MOST):
            raise InputError(f"schedule per_decade must be at least 1 and at most {MOST} (got {self.per_decade}).")

    def inner(self, last: int) -> set[int]:
        ratio = 2.0 if self.per_decade is None else 10 ** (1 / self.per_decade)
        steps = (round(ratio**exponent) for exponent in count())
        return set(takewhile(lambda step: step < last, steps))
