"""References of metrics that compare with the same model at step 0 (drift)."""

from torch import Tensor

from dynamics.experiments.scan.options import ScanOptions
from dynamics.loading.inputs import Batches
from dynamics.loading.models import load
from dynamics.loading.subjects import Subject
from dynamics.measure import measure
from dynamics.measure.suite import Suite
from dynamics.metrics.streaming import Referenced


def comparing(suite: Suite) -> set[str]:
    """Return the metrics of a suite that compare with the same model at step 0."""
    return {entry.name for entry in suite.entries if isinstance(entry.metric(), Referenced)}


class References:
    """The reference tensors of each series, from its step 0; one that is not `waiting` is measured again."""

    def __init__(self, suite: Suite, options: ScanOptions, subjects: list[Subject], waiting: list[Subject]) -> None:
        self._suite, self._options = suite.only(comparing(suite)), options
        self._recorded = {s.series: s for s in subjects if s.series and s.step == 0 and s not in waiting}
        self._tensors: dict[str, dict[str, Tensor]] = {}

    def of(self, subject: Subject, batches: Batches) -> dict[str, Tensor] | None:
        """Return the `references` of `measure`: an empty mapping makes the subject the reference."""
        if not subject.series or not self._suite.sites:
            return None
        if subject.step == 0:
            return {}
        if subject.series not in self._tensors and subject.series in self._recorded:
            model = load(self._recorded[subject.series], self._options).model
            self._tensors[subject.series] = measure(model, batches, self._suite, references={}, dtype=None).references
        return self._tensors.get(subject.series)

    def keep(self, subject: Subject, tensors: dict[str, Tensor]) -> None:
        """Keep what the measurement of a step 0 returned for the later steps."""
        if subject.series and subject.step == 0:
            self._tensors[subject.series] = tensors
