"""What breaks a run, of several ranks on the first one alone."""

from pathlib import Path

import lightning as L
import torch

from dynamics.errors import InputError
from dynamics.metrics.mean_norm import MeanNorm


class Broken(MeanNorm):
    """A metric that cannot be computed."""

    def estimate(self, states):
        raise InputError("broken cannot be measured: leave it out.")


class Occupied(L.Callback):
    """Puts a file where the states of a run go, once training has begun."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "state").touch()


class Spare(L.Callback):
    """Adds a parameter that no loss reaches."""

    def setup(self, trainer, pl_module, stage):
        pl_module.network.spare = torch.nn.Parameter(torch.ones(2))
