"""What a sweep would do: which of its cells `dynamics fit` refuses, and how long the others take."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from dynamics.errors import InputError, in_words
from dynamics.experiments.sweep.cells import Cell

if TYPE_CHECKING:
    from dynamics.training.rehearsal import Work

TIMING_SECONDS = 10.0  # after which no further design is timed


class Plan:
    """What cells have to do; those that differ in their seed alone have the same to do."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        started = time.monotonic()
        from dynamics.training.rehearsal import rehearse  # slow to import, as it is in every cell

        self.refused: dict[str, str] = {}  # why, by the names of cells
        self._counts, self._start = Counter(cell.design for cell in cells), 0.0
        self._work: dict[tuple[str, ...], Work] = {}
        firsts = {cell.design: cell for cell in reversed(cells)}
        for design in self._counts:
            try:
                self._work[design] = rehearse(firsts[design].options)
            except Exception as error:  # of a foreign class or model: anything
                names = [one.name for one in cells if one.design == design]
                self.refused |= dict.fromkeys(names, in_words(error))
            if not self._start:  # what every cell needs before its first step: it imports, and sets up as much
                self._start = time.monotonic() - started

    def refuse(self) -> None:
        """Refuse the sweep if `dynamics fit` refuses cells."""
        if not self.refused:
            return
        (name, why), *others = self.refused.items()
        more = f" (and {len(others)} more; --dry-run lists them)" if others else ""
        raise InputError(f"the run {name} cannot be made: {why}{more}; mend it, or leave it out with exclude.")

    def estimate(self, jobs: int = 1) -> str:
        """Return how long the cells take one after the other, and how that is known; empty where it is not.

        Of `jobs` cells side by side, also how long they take at best: each as fast as if it had the machine to itself.
        """
        from dynamics.training.rehearsal import earlier_costs, time_steps

        # The largest first: those that are not timed count as the slowest that is.
        by_size = sorted(self._work.items(), key=lambda item: item[1].parameters, reverse=True)
        works = {work.key: design for design, work in by_size}
        known = {key: costs for key, costs in earlier_costs().items() if key in works}
        earlier, deadline = len(known), time.monotonic() + TIMING_SECONDS
        for key, design in works.items():
            if key not in known and time.monotonic() < deadline:
                with suppress(Exception):  # of a foreign class or model: anything
                    known[key] = time_steps(design)
        if not known:
            return ""
        slowest = max(known.values())  # of those of which nothing is known
        each = {design: self._start + work.seconds(known.get(work.key, slowest)) for design, work in self._work.items()}
        total = sum(self._counts[design] * seconds for design, seconds in each.items())
        least = max(total / jobs, *each.values())
        beside = f", at best {_rounded(least)} with {jobs} side by side" if jobs > 1 else ""
        timed, unknown = len(known) - earlier, len(works) - len(known)
        parts = {
            "earlier runs": earlier,
            "short runs just now": timed,
            "the slowest of these": unknown,
        }
        basis = ", ".join(f"{what} ({count} of {len(works)} designs)" for what, count in parts.items() if count)
        return f"about {_rounded(total)} one after the other{beside}, by {basis}"


def _rounded(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
