"""Everything that relies on the inside of Lightning, with the version that it was tried with.

The rest of the package uses Lightning's documented interface. `tests/test_lightning_compat.py` names what is gone
where another version lacks a private name that is used here.
"""

import logging
import warnings
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.enums import GradClipAlgorithmType

from dynamics.errors import InputError

TRIED_WITH = "2.6.6"


def quiet() -> None:
    """Keep Lightning's tips out of the way: they bury what the run itself reports."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


def is_first_rank() -> bool:
    """Return whether this process is rank 0, also before there is a trainer."""
    return getattr(rank_zero_only, "rank", 0) == 0


def get_datamodule(trainer: L.Trainer) -> Any:
    """Return the trainer's data module, an attribute that Lightning sets without declaring it."""
    return getattr(trainer, "datamodule", None)


def count_steps(trainer: L.Trainer, steps_per_epoch: int | None) -> None:
    """Turn `max_epochs` into steps, which schedules are made of, and fit the validation interval into the run.

    `max_steps` is -1 where epochs decide; `steps_per_epoch` is None where the data has no epochs.
    """
    if trainer.max_steps == -1:
        if steps_per_epoch is None:
            raise InputError("windows drawn from a corpus have no epochs: set trainer.max_steps.")
        trainer.fit_loop.epoch_loop.max_steps = (trainer.max_epochs or 0) * steps_per_epoch
    interval, shares = trainer.val_check_interval, trainer.accumulate_grad_batches
    if trainer.check_val_every_n_epoch is not None:
        # The run is a single epoch to Lightning: the interval, a share of it or batches, must fit into it.
        batches = int(interval * trainer.max_steps) * shares if isinstance(interval, float) else interval
        trainer.val_check_interval = min(max(batches, shares), trainer.max_steps * shares)


def validation_follows(trainer: L.Trainer) -> bool:
    """Return whether Lightning validates after the batch that just ended."""
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None, "asked outside of training"
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def detach_experiment(logger: WandbLogger) -> Any:
    """Return the W&B run that a logger has begun (None: none yet) and have the logger forget it."""
    experiment, logger._experiment = logger._experiment, None
    return experiment


def leave_group() -> None:
    """End the process group of the ranks; at the interpreter's end, Lightning's way, it may abort the process.

    Its threads may be torn down there while they work (pytorch/pytorch issue 190489).
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def has_trainer(module: L.LightningModule) -> bool:
    """Return whether a trainer is attached to a module; `module.trainer` raises where there is none."""
    return module._trainer is not None


def scales_gradients(trainer: L.Trainer) -> bool:
    """Return whether the precision scales gradients (fp16); they overflow now and then, and that update is skipped."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def clip_by_value(module: L.LightningModule, optimizer: torch.optim.Optimizer, value: float | None) -> None:
    """Clip every entry of the gradient as Lightning does, also under bf16, where it refuses fused optimisers."""
    plugin = module.trainer.precision_plugin
    Precision.clip_gradients(plugin, optimizer, value or 0.0, GradClipAlgorithmType.VALUE)
