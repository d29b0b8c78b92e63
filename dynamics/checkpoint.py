"""What a run needs to go on, and the weights it keeps: written beside, flushed, then renamed."""

import os
import shutil
from pathlib import Path

import lightning as L
from safetensors.torch import save_file
from transformers import PreTrainedModel

from dynamics.errors import Refusal

KEPT = 2
"""Newest states kept, so that a damaged one has a predecessor."""


def state_path(folder: Path, step: int) -> Path:
    """Where the run in `folder` keeps the training state after `step` updates."""
    return folder / "state" / f"step-{step:010d}.ckpt"


def weights_path(folder: Path, step: int) -> Path:
    """Where the run in `folder` keeps the weights measured at `step`, as transformers saves them."""
    return folder / "weights" / f"step-{step:010d}"


def states(folder: Path) -> list[Path]:
    """Training states of a run, newest first."""
    return sorted((folder / "state").glob("step-*.ckpt"), reverse=True)


def resolve_resume(resume: str, folder: Path) -> Path | None:
    """The training state that `--resume` means: `auto` is the newest one, or None where there is none yet.

    Raises:
        Refusal: a path that does not exist.
    """
    if resume == "auto":
        return next(iter(states(folder)), None)
    path = Path(resume)
    if not path.is_file():
        raise Refusal(f"--resume {resume}: there is no such file; say auto for the newest state of the run.")
    return path


def save_weights(network: PreTrainedModel, path: Path) -> None:
    """Save config and weights (safetensors) into the folder `path`, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        network.config.save_pretrained(temporary)
        # Tied weights once, under the name that the trunk alone has too.
        tied = network.all_tied_weights_keys
        weights = {
            name: tensor.contiguous() for name, tensor in network.state_dict().items() if name not in tied
        }
        save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class Checkpoints(L.Callback):
    """Saves the whole training state every `every` steps and at the last one.

    Args:
        every: steps between states.
    """

    def __init__(self, every: int = 500) -> None:
        if every < 1:
            raise Refusal(f"checkpoints.every must be at least 1 step (got {every}).")
        self.every = every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember where the run starts, so that this very state is not written again."""
        self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Save where the schedule says so."""
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Save the state now, if it is not that of the last time."""
        step = trainer.global_step
        if step == self._saved:
            return
        self._saved = step
        folder = Path(trainer.default_root_dir)
        path = state_path(folder, step)
        temporary = path.with_name(f".{path.name}.tmp")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            for old in states(folder)[KEPT:]:
                old.unlink()
        trainer.strategy.barrier()
