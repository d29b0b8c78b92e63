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

TIMING_SECONDS = 120.0  # after which no further design is timed


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
        more = f" (and {len(others)} more runs; --dry-run lists them)" if others else ""
        raise InputError(f"the run {name} cannot be made: {why}{more}; mend it, or leave it out with exclude.")

    def estimate(self) -> str:
        """Return how long the cells take one after the other, and how that is known; empty where it is not."""
        from dynamics.training.rehearsal import TIMED_STEPS, earlier_costs, time_steps

        works = {work.key: design for design, work in self._work.items()}
        known = {key: costs for key, costs in earlier_costs().items() if key in works}
        earlier, deadline = len(known), time.monotonic() + TIMING_SECONDS
        for key, design in works.items():
            if key not in known and time.monotonic() < deadline:
                with suppress(Exception):  # of a foreign class or model: anything
                    known[key] = time_steps(design)
        if not known:
            return ""
        slowest = max(known.values())  # of those of which nothing is known
        seconds = (
            self._counts[design] * (self._start + work.seconds(known.get(work.key, slowest)))
            for design, work in self._work.items()
        )
        timed, unknown = len(known) - earlier, len(works) - len(known)
        parts = {
            "earlier runs": earlier,
            f"runs of {TIMED_STEPS} steps just now": timed,
            "the slowest of these": unknown,
        }
        basis = ", ".join(f"{what} ({count} of {len(works)} designs)" for what, count in parts.items() if count)
        return f"about {timedelta(seconds=round(sum(seconds)))} one after the other, by {basis}"
