"""A run that lasts as long as a test wants it to."""

import time
from pathlib import Path

import lightning as L


class Slow(L.Callback):
    """Waits in every step while there is a file NAME.slow in the working directory; NAME.trains shows that it does."""

    def on_train_batch_start(self, trainer, *_):
        name = Path(trainer.default_root_dir).name
        if Path(f"{name}.slow").exists():
            Path(f"{name}.trains").touch()
            time.sleep(1)
