"""What drift is measured against: the step 0 of a series."""

from typing import Any

from torch import Tensor

from dynamics import metrics as registry
from dynamics.experiments.scan.options import ScanOptions
from dynamics.loading.models import load
from dynamics.loading.subjects import Subject
from dynamics.measure.measurement import measure
from dynamics.measure.suite import Suite


def comparing(suite: Suite) -> set[str]:
    """Metrics that compare with the same model at step 0."""
    return {
        entry.name
        for entries in suite.sites.values()
        for entry in entries
        if hasattr(registry.resolve(entry.name, **entry.options), "reference")
    }


class References:
    """The tensors of each series at its step 0, measured again where the record has that step already."""

    def __init__(self, suite: Suite, options: ScanOptions, subjects: list[Subject], waiting: list[Subject]) -> None:
        self._suite, self._options = suite.only(comparing(suite)), options
        self._first = {s.series: s for s in subjects if s.series and s.step == 0 and s not in waiting}
        self._known: dict[str, dict[str, Tensor]] = {}

    def of(self, subject: Subject, batches: Any) -> dict[str, Tensor] | None:
        """What `measure` takes as its references: an empty mapping makes the subject the reference."""
        if not subject.series or not self._suite.sites:
            return None
        if subject.step == 0:
            return {}
        if subject.series not in self._known and subject.series in self._first:
            model = load(self._first[subject.series], self._options).model
            self._known[subject.series] = measure(model, batches, self._suite, references={}, dtype=None).references
        return self._known.get(subject.series)

    def keep(self, subject: Subject, found: dict[str, Tensor]) -> None:
        """Remember what the measurement of a step 0 gave."""
        if subject.series and subject.step == 0:
            self._known[subject.series] = found
