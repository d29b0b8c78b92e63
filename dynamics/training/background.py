"""What a run does beside its steps: files are written by a thread, and the garbage collector has little to do."""

import gc
from typing import ClassVar

import lightning as L

from dynamics.files import BackgroundWriter


class Background(L.Callback):
    """Holds the thread that writes what the other callbacks leave, in order, and waits for it at the end."""

    priority: ClassVar[int] = -10  # last: the others have handed over what they have by then

    def __init__(self) -> None:
        self.writer = BackgroundWriter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # What exists by now stays: the collector need not go through it again while steps are made.
        gc.collect()
        gc.freeze()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        gc.unfreeze()
        self.writer.finish()
