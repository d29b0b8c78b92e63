"""Bad numbers along training: how many updates may be skipped, and which losses are spikes. No torch here."""

import logging
from collections import deque
from collections.abc import Iterable
from math import isfinite

import numpy as np

from dynamics.errors import InputError

log = logging.getLogger(__name__)


class Health:
    """What a run does about bad numbers.

    Args:
        skip: updates that a run may skip because the loss or the gradient is not finite; the next one ends it.
        sigmas: standard deviations above the mean of the losses before it from which on a loss is noted as a spike.
        window: losses that this mean is taken of.
    """

    def __init__(self, skip: int = 0, sigmas: float = 6.0, window: int = 128) -> None:
        for name, value, lowest in (("skip", skip, 0), ("window", window, 2)):
            if value < lowest:
                raise InputError(f"health.{name} must be at least {lowest} (got {value}).")
        if not sigmas > 0:
            raise InputError(f"health.sigmas must be positive (got {sigmas}).")
        self.skip, self.sigmas, self.window = skip, sigmas, window
        self.begin(())

    def begin(self, losses: Iterable[float]) -> None:
        """Take the losses before the step that a run starts from, oldest first."""
        self._losses = deque(losses, self.window)

    def spike(self, step: int, loss: float) -> float | None:
        """Return how many standard deviations a loss lies above those before it, and log it; None: it is no spike."""
        if not isfinite(loss):
            return None
        before = np.fromiter(self._losses, float)
        self._losses.append(loss)
        if len(before) < self.window or loss <= before.mean() or not (spread := before.std()):
            return None
        if (distance := float((loss - before.mean()) / spread)) <= self.sigmas:
            return None
        text = "spike: the loss %.4g at step %d lies %.1f standard deviations above the %d before it"
        log.warning(text, loss, step, distance, self.window)
        return distance
