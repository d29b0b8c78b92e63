"""The progress bar of training: ETA, bits per character or the metric of a task, and the time spent measuring."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from dynamics.training.curves import Curves
from dynamics.training.monitor import Monitor

SHOWN = {
    "bpc": "train/bits_per_character",
    "val_bpc": "validation/bits_per_character",
    **{name: f"validation/{name}" for name in ("accuracy", "f1", "exact_match")},
    **{name: f"validation/{name}_correlation" for name in ("matthews", "pearson", "spearman")},
}
"""Curves that stand behind the bar, by the name that they have there."""


class ProgressBar(TQDMProgressBar):
    """Lightning's tqdm bar with the numbers that matter here.

    Args:
        curves: source of the newest values.
        monitor: source of the time spent measuring.
    """

    def __init__(self, curves: Curves, monitor: Monitor) -> None:
        super().__init__(refresh_rate=10)
        self._curves, self._monitor = curves, monitor

    def init_sanity_tqdm(self) -> Tqdm:
        """Nor one for the pass before the first step."""
        bar = super().init_sanity_tqdm()
        bar.disable = True
        return bar

    def init_validation_tqdm(self) -> Tqdm:
        """No second bar: validation takes moments and has its number behind the first."""
        bar = super().init_validation_tqdm()
        bar.disable = True
        return bar

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Name the bar after the run: there is one epoch, and it is the run."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(Path(trainer.default_root_dir).name)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        latest = self._curves.latest
        shown = {name: f"{latest[key]:.3f}" for name, key in SHOWN.items() if key in latest}
        return {**shown, "measuring": f"{self._monitor.seconds:.1f}s"}
