"""Ctrl-C in training: the current step is finished and the training state saved."""

import signal
import sys
import threading
from types import FrameType
from typing import ClassVar

import lightning as L

from dynamics.lightning_compat import validation_follows
from dynamics.training.checkpoint import Checkpoints


class Interrupt(L.Callback):
    """Stops a run at the first Ctrl-C between two steps, so that nothing is lost; the second one stops it at once.

    With several ranks Ctrl-C stops at once: agreeing on a step would cost time at every step.
    """

    # After all that works on the step: it ends the step by an exception, which skips the callbacks after it.
    priority: ClassVar[int] = 10

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._asked = self._listening = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over Ctrl-C (Python allows that in the main thread only)."""
        self._step, self._asked = trainer.global_step, False
        self._listening = trainer.world_size == 1 and threading.current_thread() is threading.main_thread()
        if self._listening:
            self._before = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        print("\nstopping after this step; Ctrl-C once more stops at once", file=sys.stderr, flush=True)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Save and stop if asked to, once an optimiser step and its validation are complete."""
        moved, self._step = trainer.global_step > self._step, trainer.global_step
        if moved and not validation_follows(trainer):
            self.on_validation_end(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._asked:
            self._checkpoints.save(trainer)
            raise KeyboardInterrupt

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give Ctrl-C back."""
        if self._listening:
            signal.signal(signal.SIGINT, self._before)
            self._listening = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)
