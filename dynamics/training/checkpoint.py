"""What a run needs to go on, and the weights it keeps: written beside, flushed, then renamed."""

import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from safetensors.torch import save as serialized
from transformers import PreTrainedModel

from dynamics.errors import InputError

log = logging.getLogger(__name__)

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
    """The training state that `--resume` means: `auto` is the newest whole one, or None where there is none yet.

    Raises:
        InputError: a path that does not exist, or nothing but damaged states.
    """
    if resume != "auto":
        path = Path(resume)
        if not path.is_file():
            raise InputError(f"--resume {resume}: there is no such file; say auto for the newest state of the run.")
        if not _is_whole(path):
            raise InputError(f"--resume {resume}: the file is damaged, or no training state; give another one.")
        return path
    found = states(folder)
    for path in found:
        if _is_whole(path):
            return path
        log.warning("%s is damaged and left out", path)
    if found:
        raise InputError(f"all states in {folder / 'state'}/ are damaged: delete them to begin anew.")
    return None


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def read_state(path: Path, network: PreTrainedModel) -> dict[str, Any]:
    """A training state, its tensors left on the disk.

    Raises:
        InputError: it is none of ours, or that of another network than `network`.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        theirs = {name: tuple(tensor.shape) for name, tensor in state["state_dict"].items()}
    except Exception as error:  # torch raises whatever the content makes it trip over
        raise InputError(f"{path} is no training state of dynamics ({type(error).__name__}).") from error
    for name, tensor in network.state_dict(prefix="network.").items():
        if theirs.get(name) != tuple(tensor.shape):
            there = "missing" if name not in theirs else f"of shape {theirs[name]}"
            raise InputError(
                f"{path} is the state of another network: {name} is {there}, and here of shape "
                f"{tuple(tensor.shape)}; say the model and the data of its run."
            )
    return state


def save_weights(network: PreTrainedModel, path: Path) -> None:
    """Save config and weights (safetensors) into the folder `path`, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        network.config.save_pretrained(temporary)
        # Tied weights once, under the name that the trunk alone has too.
        tied = network.all_tied_weights_keys
        weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items() if name not in tied}
        # Not `save_file`, whose error on a full disk is no OSError.
        with (temporary / "model.safetensors").open("wb") as file:
            file.write(serialized(weights, metadata={"format": "pt"}))
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def validation_follows(trainer: L.Trainer) -> bool:
    """Whether this batch ends with a validation; a run that goes on from a state does not repeat that of its step."""
    loop = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


class Checkpoints(L.Callback):
    """Saves the whole training state every `every` steps and at the last one.

    Args:
        every: steps between states.
    """

    def __init__(self, every: int = 500) -> None:
        if every < 1:
            raise InputError(f"checkpoints.every must be at least 1 step (got {every}).")
        self.every = every
        self._waits = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember where the run starts, and forget what lies beyond or is half written."""
        self._saved = trainer.global_step
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            beyond = (
                path
                for path in (*states(folder), *(folder / "weights").glob("step-*"))
                if int(path.stem.split("-")[1]) > self._saved
            )
            killed = (path for room in ("state", "weights") for path in (folder / room).glob(".step-*.tmp"))
            for path in (*beyond, *killed):
                path.unlink() if path.is_file() else shutil.rmtree(path)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Save where the schedule says so."""
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps:
            self._waits = validation_follows(trainer)
            if not self._waits:
                self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the state that waited for the validation, or that a limit of time stops the run at."""
        if self._waits or trainer.should_stop:
            self._waits = False
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
