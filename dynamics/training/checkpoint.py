"""Training states, from which a run resumes, and the weights that it keeps: whole on the disk or not at all."""

import io
import logging
import os
import shutil
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from safetensors.torch import save as serialized
from transformers import PreTrainedModel

from dynamics.errors import InputError
from dynamics.files import Writer, is_damaged, remember, write_atomically
from dynamics.lightning_compat import training_state, validation_follows
from dynamics.training.ranks import on_first_rank

log = logging.getLogger(__name__)

KEPT = 2  # newest states kept, so that a damaged one has a predecessor
CONTENTS = {  # of a training state
    **dict.fromkeys(("epoch", "global_step"), int),
    **dict.fromkeys(("state_dict", "loops", "callbacks"), dict),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), list),
    "pytorch-lightning_version": str,
}


def state_path(folder: Path, step: int) -> Path:
    """Return where the run in `folder` keeps the training state after `step` updates."""
    return folder / "state" / f"step-{step:010d}.ckpt"


def weights_path(folder: Path, step: int) -> Path:
    """Return where the run in `folder` keeps the weights measured at `step`, as transformers saves them."""
    return folder / "weights" / f"step-{step:010d}"


def states(folder: Path) -> list[Path]:
    """Return the training states of a run, newest first."""
    return sorted((folder / "state").glob("step-*.ckpt"), reverse=True)


def resolve_resume(resume: str, folder: Path) -> Path | None:
    """Return the training state that `--resume` names: with `auto` the newest intact one, None where there is none."""
    if resume != "auto":
        path = Path(resume)
        if not path.is_file():
            raise InputError(f"--resume {resume}: there is no such file; auto takes the newest state of the run.")
        if not _is_intact(path):
            raise InputError(f"--resume {resume}: the file is damaged, or not a training state; name another one.")
        return path
    paths = states(folder)
    for path in paths:
        if _is_intact(path):
            return path
        log.warning("%s is damaged, or not a state of ours, and left out", path)
    if paths:
        raise InputError(f"all states in {folder / 'state'}/ are damaged: delete them to start again.")
    return None


def _is_intact(path: Path) -> bool:
    """Whether a file is what was written, each of its parts has its checksum, and it holds what a state holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            if is_damaged(path) or archive.testzip() is not None:
                return False
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return isinstance(state, dict) and all(isinstance(state.get(key), kind) for key, kind in CONTENTS.items())
    except Exception:  # torch and zipfile raise whatever the content makes them trip over
        return False


def read_state(path: Path, network: PreTrainedModel) -> dict[str, Any]:
    """Read a training state, its tensors left on the disk; refuse that of another network than `network`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        shapes = {name: tuple(tensor.shape) for name, tensor in state["state_dict"].items()}
    except Exception as error:  # torch raises whatever the content makes it trip over
        raise InputError(f"{path} is not a training state of dynamics ({type(error).__name__}).") from error
    for name, tensor in network.state_dict(prefix="network.").items():
        if shapes.get(name) != tuple(tensor.shape):
            stored = "missing" if name not in shapes else f"of shape {shapes[name]}"
            raise InputError(
                f"{path} is the state of another network: {name} is {stored}, but {tuple(tensor.shape)} in this "
                "model; give the model and data options of its run."
            )
    return state


def save_weights(network: PreTrainedModel, path: Path, writer: Writer) -> None:
    """Save config and weights as they are now (safetensors) into the folder `path`, all of it or nothing."""
    temporary, config = path.with_name(f".{path.name}.{os.getpid()}.tmp"), deepcopy(network.config)
    # Tied weights are written once, under the name that they also have in the trunk without its head.
    tied = network.all_tied_weights_keys
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items() if name not in tied}
    content = serialized(weights, metadata={"format": "pt"})

    def write() -> None:
        try:
            config.save_pretrained(temporary)
            for file in list(temporary.iterdir()):
                remember(file)
            # Not `save_file`: its error on a full disk is not an OSError.
            write_atomically(temporary / "model.safetensors", lambda file: file.write(content))
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    writer.submit(write)


class Checkpoints(L.Callback):
    """Saves the whole training state every `every` steps and at the last one.

    A step that is validated is saved after its validation: a run that resumes does not repeat that of its step.

    Args:
        every: steps between states.
    """

    priority: ClassVar[int] = 20  # after `Curves` and `Monitor`, whose work on the step belongs to its state

    def __init__(self, every: int = 500) -> None:
        if every < 1:
            raise InputError(f"checkpoints.every must be at least 1 step (got {every}).")
        self.every, self._waits, self.writer = every, False, Writer()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember where the run starts, and delete what lies beyond or is half written."""
        self._saved = trainer.global_step
        if trainer.is_global_zero:
            self.writer.finish()  # what the first measurement leaves is not half written
            folder = Path(trainer.default_root_dir)
            for path in (*(folder / "state").glob("*step-*.ckpt*"), *(folder / "weights").glob("*step-*")):
                if path.suffix == ".tmp" or int(path.stem.removeprefix("step-")) > self._saved:
                    path.unlink() if path.is_file() else shutil.rmtree(path)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps:
            self._waits = validation_follows(trainer)
            if not self._waits:
                self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the state that waited for the validation, or the one at which a limit of time ends the run."""
        if self._waits or (trainer.should_stop and not trainer.sanity_checking):
            self._waits = False
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        if step == self._saved:
            return
        self._saved = step
        state, path = training_state(trainer), state_path(Path(trainer.default_root_dir), step)
        on_first_rank(lambda: self._write(state, path))

    def _write(self, state: dict[str, Any], path: Path) -> None:
        """Serialise the state at once, since training goes on, and have it written."""
        content = io.BytesIO()
        torch.save(state, content)

        def write() -> None:
            write_atomically(path, lambda file: file.write(content.getbuffer()))
            for old in states(path.parent.parent)[KEPT:]:
                old.unlink()

        self.writer.submit(write)
