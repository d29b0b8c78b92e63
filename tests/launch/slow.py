"""Runs that last as long as a test wants them to, and one that fails."""

import time
from pathlib import Path

import lightning as L

from dynamics.errors import Failure


class Slow(L.Callback):
    """Waits in every step while there is a file NAME.slow in the working directory; NAME.trains shows that it does."""

    def on_train_batch_start(self, trainer, *_):
        name = Path(trainer.default_root_dir).name
        if Path(f"{name}.slow").exists():
            Path(f"{name}.trains").touch()
            time.sleep(1)


class Stumbles(L.Callback):
    """Fails in the first attempt of a run of seed 1 and 5 steps."""

    def on_train_batch_start(self, trainer, *_):
        name = Path(trainer.default_root_dir).name
        if name.endswith("steps_5-seed_1") and not (marker := Path(f"{name}.stumbled")).exists():
            marker.touch()
            raise Failure("it has stumbled.")
