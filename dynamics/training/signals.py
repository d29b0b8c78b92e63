"""Ctrl-C and the signals of schedulers in training: the current step is finished and the training state saved."""

import signal
import sys
import threading
from types import FrameType
from typing import Any, ClassVar

import lightning as L

from dynamics.errors import ENDING, Interrupted
from dynamics.lightning_compat import validation_follows
from dynamics.training.checkpoint import Checkpoints
from dynamics.training.ranks import Agreement


class Interrupt(L.Callback):
    """Stops a run at the first Ctrl-C, or signal, between two steps, so that nothing is lost; a second Ctrl-C at once.

    Of several ranks any may get it: all stop at the same step, the one after that.
    """

    # After all that works on the step: it ends the step by an exception, which skips the callbacks after it.
    priority: ClassVar[int] = 10

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints, self._agreement = checkpoints, Agreement()
        self._asked = 0  # number of the signal
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the signals that are not ignored, as under nohup (Python allows that in the main thread only)."""
        self._step, self._asked = trainer.global_step, 0
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in (signal.SIGINT, *ENDING) if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._ask) for number in heard}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._asked:
            self._asked = number
            print("\nstopping after this step; Ctrl-C once more stops at once", file=sys.stderr, flush=True)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Save and stop if asked to, once an optimiser step and its validation are complete."""
        moved, self._step = trainer.global_step > self._step, trainer.global_step
        if moved and not validation_follows(trainer):
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        if number := self._agreement.on(self._asked):
            self._checkpoints.save(trainer)
            raise KeyboardInterrupt if number == signal.SIGINT else Interrupted(number)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back."""
        self._agreement.finish()
        self._give_back()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
