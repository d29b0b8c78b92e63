"""Lightning's options that cannot act in a run of ours: each is refused by name, with what to use instead."""

import math
import os
import re
from itertools import pairwise
from typing import Any

import lightning as L
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from dynamics.errors import InputError
from dynamics.lightning_compat import starts_processes_by_command
from dynamics.training.fully_sharded import NAME, FullySharded

# Of `Trainer`: the values that ask for nothing, and why no other one can act.
IDLE: dict[str, tuple[tuple[Any, ...], str]] = {
    "fast_dev_run": ((False, 0), "a run is recorded whole; set trainer.max_steps for a short one"),
    "limit_train_batches": ((None, 1.0), "seed and step decide every batch; set trainer.max_steps, or give less data"),
    "limit_predict_batches": ((None, 1.0), "nothing is predicted; trainer.limit_val_batches limits the validation"),
    "overfit_batches": ((0, 0.0), "seed and step decide every batch; give data as short as that"),
    "check_val_every_n_epoch": ((None, 1), "set trainer.val_check_interval to batches, or to a share of the run"),
    "use_distributed_sampler": ((True,), "the ranks share the data without a sampler; remove it"),
    "barebones": ((False,), "the learning curves would be missing; switch off what you do not want"),
    "sync_batchnorm": ((False,), "a rank normalises without the states of the others; remove it"),
    "reload_dataloaders_every_n_epochs": ((0,), "seed and step decide every batch, whenever it is loaded; remove it"),
    "default_root_dir": ((None,), "a run leaves everything in checkpoints/NAME; name it with --run"),
    "model_registry": ((None,), "nothing is uploaded; the weights are in checkpoints/NAME/weights"),
}
LOWEST = {
    **{"num_nodes": 1, "accumulate_grad_batches": 1, "min_steps": 1, "min_epochs": 1},
    **{"gradient_clip_val": 0, "log_every_n_steps": 0, "num_sanity_val_steps": -1},
}
PROFILERS = ("simple", "advanced", "pytorch")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

# Of LightningCLI with its subcommands: what does the same here.
INSTEAD = {
    "ckpt_path": "--resume auto|PATH names the training state",
    "weights_only": "training states are always read without unpickling code",
    "optimizer": "set model.optimizer, model.learning_rate, model.weight_decay and model.betas",
    "lr_scheduler": "warm-up, then a cosine: set model.warmup_steps and model.final_learning_rate",
    "verbose": "results are always printed",
    "subcommand": "dynamics fit, validate and test are the verbs",
}


def refuse_words(words: list[str]) -> None:
    """Refuse options of LightningCLI that a run does not have."""
    for word in words:
        name = word.lstrip("-").partition("=")[0].partition(".")[0]
        if word.startswith("--") and name in INSTEAD:
            raise InputError(f"there is no option --{name}: {INSTEAD[name]}.")


def refuse_training_options(verb: str, words: list[str]) -> None:
    """Refuse options on the command line of `validate` and `test` that concern training alone."""
    for word, value in pairwise([*words, ""]):
        option, _, attached = word.partition("=")
        if re.match(r"--(trainer\.logger|metrics|monitor|checkpoints)\b", option) and "false" not in (value, attached):
            raise InputError(
                f"{option} has no effect with dynamics {verb}, which writes to the record alone; remove it "
                "(dynamics scan measures a finished run)."
            )


def refuse_settings(settings: Any) -> None:
    """Refuse settings of the trainer (a namespace) that would have no effect, or not the one that they ask for."""
    for name, (idle, why) in IDLE.items():
        value = settings[name]
        if not any(type(value) is type(other) and value == other for other in idle):
            raise InputError(f"trainer.{name} {value} cannot act in a run: {why}.")
    for name, lowest in LOWEST.items():
        if settings[name] is not None and not settings[name] >= lowest:  # which NaN is not either
            raise InputError(f"trainer.{name} must be at least {lowest} (got {settings[name]}).")
    steps, epochs, interval = settings.max_steps, settings.max_epochs, settings.val_check_interval
    if steps < 1 and not (steps == -1 and (epochs or 0) > 0):
        raise InputError(f"trainer.max_steps must be at least 1 (got {steps}).")
    if epochs is not None and epochs != -1 and epochs < 1:
        raise InputError(f"trainer.max_epochs must be at least 1 (got {epochs}).")
    if interval is not None and (not isinstance(interval, int | float) or isinstance(interval, bool)):
        raise InputError(
            f"trainer.val_check_interval must be a number of batches or a share of the run (got {interval}): "
            "what is measured never depends on the clock."
        )
    if interval is not None and not 0 < interval < math.inf:
        raise InputError(f"trainer.val_check_interval must be positive (got {interval}).")
    if settings.gradient_clip_algorithm is not None and not settings.gradient_clip_val:
        raise InputError("trainer.gradient_clip_algorithm has no effect without trainer.gradient_clip_val; set both.")
    if isinstance(settings.profiler, str) and settings.profiler not in PROFILERS:
        raise InputError(f"trainer.profiler must be one of {', '.join(PROFILERS)} (got {settings.profiler}).")


def refuse_trainer(trainer: L.Trainer, precision: Any) -> None:
    """Refuse a trainer that keeps weights, ranks or states as a run of ours cannot; `precision` was asked for."""
    strategy = trainer.strategy
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > (most := 4 * (os.cpu_count() or 1)):
        raise InputError(
            f"trainer.devices {trainer.num_devices}: each is a process here, and {os.cpu_count()} cores can run {most} "
            "at most; give fewer."
        )
    if trainer.precision not in PRECISIONS:
        raise InputError(
            f"trainer.precision must be one of {', '.join(PRECISIONS)} (got {trainer.precision}): the weights are "
            "measured and kept in float32."
        )
    if str(precision).startswith("16") and trainer.precision != "16-mixed":
        raise InputError(
            f"trainer.precision {precision} is not possible on this accelerator (Lightning would take "
            f"{trainer.precision}): choose 32-true or bf16-mixed."
        )
    known = DDPStrategy | FullySharded | SingleDeviceStrategy
    if not isinstance(strategy, known) or not starts_processes_by_command(strategy):
        raise InputError(
            f"trainer.strategy {type(strategy).__name__} is not supported: every rank must run the same command "
            f"and hold the whole network, or a shard of it; choose auto, ddp or {NAME}."
        )
    if type(strategy.checkpoint_io) is not TorchCheckpointIO:
        raise InputError(
            f"trainer.plugins {type(strategy.checkpoint_io).__name__} is not supported: a training state must be a "
            "file as soon as it is saved; remove it."
        )
