"""Everything that relies on the inside of Lightning, with the version that it was tried with.

The rest of the package uses Lightning's documented interface. `tests/test_lightning_compat.py` names what is gone
where another version lacks a private name that is used here.
"""

import logging
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from subprocess import Popen
from threading import Thread
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.enums import GradClipAlgorithmType

from dynamics.errors import InputError

TRIED_WITH = "2.6.6"
FIRST_RANK = "DYNAMICS_FIRST_RANK"  # the environment variable that tells the ranks that Lightning starts whose they are
GRACE = 20.0  # seconds in which a run may end of itself after one of its ranks has


class Unprofiled(PassThroughProfiler):
    """Times nothing, without the context that Lightning's own makes for each of the 50 hooks of a step."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.nothing


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
    """Turn epochs into steps, which schedules are made of, and fit the validation interval into the run.

    `max_steps` is -1 where `max_epochs` decides; `steps_per_epoch` is None where the data has no epochs.
    """
    loop = trainer.fit_loop
    for name, epochs in (("max", trainer.max_epochs), ("min", loop.min_epochs)):
        if steps_per_epoch is None and epochs not in (None, -1):
            raise InputError(f"windows of a corpus have no epochs: set trainer.{name}_steps, not {name}_epochs.")
    per_epoch = steps_per_epoch or 0
    if trainer.max_steps == -1:
        loop.epoch_loop.max_steps = (trainer.max_epochs or 0) * per_epoch
    if loop.min_epochs is not None:
        loop.epoch_loop.min_steps = max(loop.min_steps or 0, loop.min_epochs * per_epoch)
    loop.min_epochs = 0  # the run is a single epoch to Lightning, which would wait for its end
    if (loop.min_steps or 0) > trainer.max_steps:
        raise InputError(f"trainer.min_steps {loop.min_steps} is more than the {trainer.max_steps} steps of the run.")
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


def training_state(trainer: L.Trainer) -> dict[str, Any]:
    """Return what `trainer.save_checkpoint` would write; every rank takes part."""
    return trainer._checkpoint_connector.dump_checkpoint()


def leave_signals(trainer: L.Trainer) -> None:
    """Keep Lightning from SIGTERM: it saves nothing, and has the ranks ask one another, and a GPU wait, every step.

    And, under SLURM, from the signal before the time limit: it saves in the midst of a step, where ranks may wait for
    one another for ever, a file that any later run in the folder goes on from.
    """
    if isinstance(environment := trainer._accelerator_connector.cluster_environment, SLURMEnvironment):
        environment.auto_requeue = False
    trainer._signal_connector._sigterm_notifier_fn = lambda signum, _: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def starts_processes_by_command(strategy: Strategy) -> bool:
    """Return whether a strategy starts its other ranks by the command of the first (not by a fork of the process)."""
    return getattr(strategy, "_start_method", "popen") == "popen"


def come_from_callbacks(error: BaseException) -> bool:
    """Return whether one of Lightning's own callbacks has raised an error: its options are wrong."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "lightning/pytorch/callbacks/" in frames[-1].filename.replace("\\", "/")


def find_unused_parameters(trainer: L.Trainer) -> None:
    """Have DDP find at every step which parameters have no gradient, for which it else waits, unless it is told."""
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)


def end_other_ranks(trainer: L.Trainer) -> None:
    """End the ranks that this one has started: they may wait in NCCL, for half an hour, for what will never come."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.kill(signal.SIGKILL)


def watch_other_ranks() -> None:
    """Have ranks that Lightning starts end with one another: Lightning kills the first one without a word.

    Where the connection between ranks says that one has gone, the run ends of itself within `GRACE` seconds; a rank
    that waits in NCCL, or in a kernel, does not notice, and is ended.
    """

    def observe(child_processes: list[Popen[Any]]) -> None:
        _watch(lambda: any(rank.poll() for rank in child_processes), child_processes)

    subprocess_script._launch_process_observer = observe  # type: ignore[attr-defined]
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[FIRST_RANK] = str(os.getpid())
    elif parent := os.environ.get(FIRST_RANK):
        _watch(lambda: str(os.getppid()) != parent, [])


def _watch(has_ended: Callable[[], bool], ranks: list[Popen[Any]]) -> None:
    """End this process and `ranks` some time after another rank has ended; in a thread of its own."""

    def run() -> None:
        while not has_ended():
            time.sleep(1.0)
        time.sleep(GRACE)
        with suppress(OSError):  # nobody may read it
            print("dynamics: another rank has ended; see what it reports.", file=sys.stderr)
        for rank in ranks:
            rank.kill()
        os._exit(1)

    Thread(target=run, daemon=True, name="other-ranks").start()


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


def count_batches_before_shares(parser: Any) -> None:
    """Have `limit_*_batches` take 1 as one batch, and 1.0 as all of them.

    They are `int | float` to Lightning, but `typing` hands out `float | int` where a library was first to ask for it.
    """
    for action in parser._actions:
        if re.fullmatch(r"trainer\.limit_\w+_batches", action.dest or ""):
            action._typehint = int | float | None
