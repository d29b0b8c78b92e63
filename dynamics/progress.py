"""The progress bar of training: ETA, bits per character, and the time spent measuring."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

from dynamics.curves import Curves
from dynamics.monitor import Monitor


class ProgressBar(TQDMProgressBar):
    """Lightning's tqdm bar with the numbers that matter here.

    Args:
        curves: source of the newest bits per character.
        monitor: source of the time spent measuring.
    """

    def __init__(self, curves: Curves, monitor: Monitor) -> None:
        super().__init__(refresh_rate=10)
        self._curves, self._monitor = curves, monitor

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        latest = self._curves.latest
        shown = {
            name: f"{latest[key]:.3f}"
            for name, key in (
                ("bpc", "train/bits_per_character"),
                ("val_bpc", "validation/bits_per_character"),
            )
            if key in latest
        }
        return {**shown, "measuring": f"{self._monitor.seconds:.1f}s"}
