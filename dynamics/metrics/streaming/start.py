"""The base of the metrics that compare a layer's states with its own at step 0, on the same tokens."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from dynamics.metrics.streaming.base import Estimate, Pair, Referenced, undefined
from dynamics.metrics.streaming.cross import Cross
from dynamics.metrics.streaming.sampling import Sample

MARKS = 2**24  # whole numbers below it are exact in float32


class ToStart(Referenced, Sample):
    """A metric of pairs between a sample of the tokens at step 0 and the same tokens now.

    Its reference is the sample with a mark of each token in one more column.
    """

    of: ClassVar[type[Cross]]

    def to_keep(self, states: Sample) -> Float[Tensor, "m e"] | None:
        return None if self._trouble(states) else self._marked(states)

    @staticmethod
    def _trouble(states: Sample) -> str:
        return states.trouble or ("fewer than two tokens" if len(states.sample) < 2 else "")

    @staticmethod
    def _marked(states: Sample) -> Float[Tensor, "m e"]:
        marks = dim_zero_cat(states.order)[states.places].remainder(MARKS)
        return torch.cat([states.sample, marks[:, None].to(states.sample)], dim=1)

    def estimate(self, states: Sample) -> Estimate:
        trouble = self._trouble(states)
        if trouble or self.reference is None:
            return undefined(1, len(states.sample), trouble or "no reference states were kept at step 0")
        now = self._marked(states)
        before = self.reference.to(now)
        if before.shape != now.shape or not torch.equal(before[:, -1], now[:, -1]):
            return undefined(1, len(now), "the reference is of other tokens")
        pairs = self.of(tokens=len(now))
        windows = dim_zero_cat(states.kept_ids)[states.places]
        pairs.update(Pair(before[:, None, :-1], now[:, None, :-1], windows))
        return pairs.estimate(pairs)
