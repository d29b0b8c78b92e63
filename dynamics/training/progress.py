"""The progress bar of training: ETA, bits per character or the metric of a task, and the time spent measuring."""

import math
import time
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from dynamics.training.curves import Curves
from dynamics.training.monitor import Monitor

REFRESH_SECONDS = 0.2  # a bar that is drawn more often costs fast steps more than anybody sees
POSTFIX = {  # curves whose newest value stands after the bar, and the name that they have there
    **dict.fromkeys(("train/bits_per_character", "train/bits_per_masked_character"), "bpc"),
    **dict.fromkeys(("validation/bits_per_character", "validation/bits_per_masked_character"), "val_bpc"),
    **{f"validation/{name}": name for name in ("accuracy", "f1", "exact_match")},
    **{f"validation/{name}_correlation": name for name in ("matthews", "pearson", "spearman")},
}


class ProgressBar(TQDMProgressBar):
    """Lightning's tqdm bar, one for the whole run, with the newest losses and the time spent measuring."""

    priority: ClassVar[int] = 0  # after those whose results it shows
    clock = staticmethod(time.monotonic)

    def __init__(self, curves: Curves, monitor: Monitor) -> None:
        super().__init__()
        self._curves, self._monitor, self._shown = curves, monitor, -math.inf

    def init_sanity_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def init_validation_tqdm(self) -> Tqdm:
        """Hide the validation bar: validation is short, and its result stands after the training bar."""
        return Tqdm(disable=True)

    def on_train_start(self, *args: Any) -> None:
        super().on_train_start(*args)
        self._begin(args[0])

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self._begin(trainer)

    def _begin(self, trainer: L.Trainer) -> None:
        """Name the bar after the run, which is a single epoch, and begin where the run does.

        Lightning counts what is left of a run that resumes, and may count the batches from 0 again; of a run that
        resumes within its epoch it does not start the epoch.
        """
        bar, shares = self.train_progress_bar, trainer.accumulate_grad_batches
        self._done, bar.total = trainer.global_step * shares, trainer.max_steps * shares
        bar.initial = bar.n = bar.last_print_n = self._done
        bar.set_description(Path(trainer.default_root_dir).name)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._done, bar, now = self._done + 1, self.train_progress_bar, self.clock()
        if now - self._shown > REFRESH_SECONDS or self._done == bar.total:
            self._shown, bar.n = now, self._done
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        latest = self._curves.latest
        values = {name: f"{latest[key]:.3f}" for key, name in POSTFIX.items() if key in latest}
        return {**values, "measuring": f"{self._monitor.seconds:.1f}s"}
