"""The base of the metrics that compare a layer's states with its own at step 0, on the same tokens."""

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from dynamics.metrics.streaming.accumulators import Sample
from dynamics.metrics.streaming.base import Estimate, Pair, undefined
from dynamics.metrics.streaming.cross import Cross

MARKS = 2**24
"""Whole numbers below it are exact in float32."""


class ToStart(Sample):
    """A metric of pairs between a sample of the tokens at step 0 and the same tokens now.

    `reference` is None until someone sets it (to the `reference_state` of step 0): until then NaN. It is the sample,
    (m, d), with a mark of each token in one more column.
    """

    of: ClassVar[type[Cross]]

    def __init__(self, size: int = 4096, seed: int = 0) -> None:
        super().__init__(size, seed)
        self.reference: Tensor | None = None

    def reference_state(self, states: Sample | None = None) -> Tensor | None:
        """What to keep as the reference, (m, d + 1) on the host; None where there is no sound one."""
        states = states or self
        states._results.clear()
        with states.sync_context():
            return None if self._trouble(states) else self._marked(states).cpu()

    @staticmethod
    def _trouble(states: Sample) -> str:
        return states.trouble or ("fewer than two tokens" if len(states.sample) < 2 else "")

    @staticmethod
    def _marked(states: Sample) -> Tensor:
        marks = dim_zero_cat(states.order)[states.places].remainder(MARKS)
        return torch.cat([states.sample, marks[:, None].to(states.sample)], dim=1)

    def estimate(self, states: Sample) -> Estimate:
        trouble = self._trouble(states)
        if trouble or self.reference is None:
            reason = trouble or "no reference states were kept at step 0"
            return undefined(1, len(states.sample), reason)
        now = self._marked(states)
        before = self.reference.to(now)
        if before.shape != now.shape or not torch.equal(before[:, -1], now[:, -1]):
            return undefined(1, len(now), "the reference is of other tokens")
        both = self.of(tokens=len(now))
        windows = dim_zero_cat(states.kept_ids)[states.places]
        both.update(Pair(before[:, None, :-1], now[:, None, :-1], windows))
        return both.estimate(both)
