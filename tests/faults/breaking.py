"""What breaks a run from inside its processes."""

import signal

import lightning as L


class Signalled(L.Callback):
    """Sends SIGTERM to the second rank in its third step."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2 and trainer.global_rank == 1:
            signal.raise_signal(signal.SIGTERM)
