"""Training states, from which a run resumes, and the weights that it keeps: whole on the disk or not at all."""

import io
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from safetensors.torch import save as serialized
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from dynamics.errors import InputError
from dynamics.files import Writer, is_intact, remember, write_atomically
from dynamics.lightning_compat import training_state, validation_follows
from dynamics.metrics.streaming.transfer import to_host
from dynamics.runs import STEP, kept_weights, state_path
from dynamics.training.ranks import on_first_rank

log = logging.getLogger(__name__)

KEPT = 2  # newest states kept, so that a damaged one has a predecessor
PACKED = 1 << 26  # bytes that leave a device in one copy, about
CONTENTS = {  # of a training state
    **dict.fromkeys(("epoch", "global_step"), int),
    **dict.fromkeys(("state_dict", "loops", "callbacks"), dict),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), list),
    "pytorch-lightning_version": str,
}


def step_of(path: Path) -> int:
    """Return the step of a training state, or of kept weights, of a run."""
    return int(path.stem.removeprefix("step-"))


def states(folder: Path) -> list[Path]:
    """Return the training states of a run, newest first."""
    return sorted((folder / "state").glob(f"{STEP}.ckpt"), reverse=True)


def resolve_resume(resume: str, folder: Path) -> Path | None:
    """Return the training state that `--resume` names: with `auto` the newest intact one, None where there is none."""
    if resume != "auto":
        path = Path(resume)
        if not path.is_file():
            raise InputError(f"--resume {resume}: there is no such file; auto takes the newest state of the run.")
        if not is_state(path):
            raise InputError(f"--resume {resume}: the file is damaged, or not a training state; name another one.")
        return path
    paths = states(folder)
    for path in paths:
        if is_state(path):
            return path
        log.warning("%s is damaged, or not a state of ours, and left out", path)
    if paths:
        raise InputError(f"all states in {folder / 'state'}/ are damaged: delete them to start again.")
    return None


def is_state(path: Path) -> bool:
    """Return whether a file is what was written, and holds what a state holds."""
    if not is_intact(path):
        return False
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return isinstance(state, dict) and all(isinstance(state.get(key), kind) for key, kind in CONTENTS.items())
    except Exception:  # torch raises whatever the content makes it trip over
        return False


def read_state(path: Path, network: PreTrainedModel) -> dict[str, Any]:
    """Read a training state, its tensors left on the disk; refuse that of another network than `network`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        shapes = {name: tuple(tensor.shape) for name, tensor in state["state_dict"].items()}
    except Exception as error:  # torch raises whatever the content makes it trip over
        raise InputError(f"{path} is not a training state of dynamics ({type(error).__name__}).") from error
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict(prefix="network.").items()}
    stored = {name: shape for name, shape in shapes.items() if name.startswith("network.")}
    for name in (*ours, *stored):
        if stored.get(name) != ours.get(name):
            there, here = (f"of shape {at[name]}" if name in at else "missing" for at in (stored, ours))
            raise InputError(
                f"{path} is the state of another network: {name} is {there}, but {here} in this model; give the model "
                "and data options of its run."
            )
    return state


def on_host(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with its tensors on the host: they leave a device many together, since every copy is a wait."""
    tensors = [x for x in tree_leaves(state) if isinstance(x, Tensor)]
    if all(x.device.type == "cpu" for x in tensors):
        return state
    once = {(x.data_ptr(), x.shape, x.stride()): x for x in tensors}  # tied ones are one
    ends, host = accumulate(x.nbytes for x in once.values()), dict[Any, Tensor]()
    for _, pack in groupby(zip(once, ends, strict=True), lambda item: item[1] // PACKED):
        keys = [key for key, _ in pack]
        host |= zip(keys, (x.clone() for x in to_host([once[key] for key in keys])), strict=True)
    return deepcopy(state, {id(x): host[x.data_ptr(), x.shape, x.stride()] for x in tensors})


def save_weights(
    network: PreTrainedModel, path: Path, writer: Writer, state: Mapping[str, Tensor] | None = None
) -> None:
    """Save config and weights as they are now (safetensors) into the folder `path`, all of it or nothing.

    `state` is the network's state where it lies in shards, gathered.
    """
    temporary, config = path.with_name(f".{path.name}.{os.getpid()}.tmp"), deepcopy(network.config)
    # Tied weights are written once, under the name that they also have in the trunk without its head.
    tied = network.all_tied_weights_keys
    weights = {
        name: tensor.contiguous() for name, tensor in (state or network.state_dict()).items() if name not in tied
    }
    content = serialized(on_host(weights), metadata={"format": "pt"})

    def write() -> None:
        try:
            config.save_pretrained(temporary)
            for file in list(temporary.iterdir()):
                remember(file)
            # Not `save_file`: its error on a full disk is not an OSError.
            write_atomically(temporary / "model.safetensors", lambda file: file.write(content), size=len(content))
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    writer.submit(write, len(content))


class Checkpoints(L.Callback):
    """Saves the whole training state every `every` steps and at the last one.

    A step that is validated is saved after its validation: a run that resumes does not repeat that of its step.

    Args:
        every: steps between states.
        keep: states that stay: the two `newest`; these and those of every `measured` step from the first on, which are
            saved too, with the optimiser's; or `all` of them.
    """

    priority: ClassVar[int] = 20  # after `Curves` and `Monitor`, whose work on the step belongs to its state

    def __init__(self, every: int = 500, keep: Literal["newest", "measured", "all"] = "newest") -> None:
        if every < 1:
            raise InputError(f"checkpoints.every must be at least 1 step (got {every}).")
        self.every, self.keep, self._waits, self.writer = every, keep, False, Writer()
        self.is_measured: Callable[[int], bool] = lambda step: False

    def count(self, measured: set[int], done: int, last: int) -> int:
        """Return how many states a run writes and keeps from the step after `done` (-1: it is new) to its `last`."""
        steps = measured - {0} if self.keep != "newest" else set()
        steps |= {*range(self.every, last, self.every), last} if self.keep == "all" else set()
        newest = KEPT if done < 0 else 1  # the others are there; one is deleted once its successor is written
        return sum(step > done for step in steps) + newest * (self.keep != "all" and last > done)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember where the run starts, and delete what lies beyond."""
        self._saved = trainer.global_step
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            for path in (*states(folder), *kept_weights(folder).values()):
                if step_of(path) > self._saved:
                    path.unlink() if path.is_file() else shutil.rmtree(path)
            self._prune(folder)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        step = trainer.global_step
        is_kept = self.keep != "newest" and self.is_measured(step)
        if step % self.every == 0 or step == trainer.max_steps or is_kept:
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
        torch.save(on_host(state), content)

        def write() -> None:
            write_atomically(path, lambda file: file.write(content.getbuffer()), size=content.getbuffer().nbytes)
            self._prune(path.parent.parent)

        self.writer.submit(write, content.getbuffer().nbytes)

    def _prune(self, folder: Path) -> None:
        """Delete the states that are not to be kept; what is measured has a part in the record."""
        for old in states(folder)[KEPT:] if self.keep != "all" else ():
            if self.keep == "newest" or not (folder / "record" / f"geometry-{step_of(old):010d}.parquet").is_file():
                old.unlink()
