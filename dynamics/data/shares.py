"""The batches of a stage for one rank, whatever the ranks and accumulated shares are."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import lightning as L
import torch
from torch import Tensor

from dynamics.errors import InputError

TRAIN_STREAM = 0  # separates the draws of training batches from other draws under the same (seed, step)
# A device makes the windows, or the masks, of some steps at once: as many as have so many tokens, 64 at most.
TOGETHER, MOST = 2**20, 64
B = TypeVar("B")


def require_positive(settings: Any, *names: str) -> None:
    """Refuse settings of the data below 1; None is left to the data."""
    for name in names:
        if settings[name] is not None and settings[name] < 1:
            raise InputError(f"data.{name} must be at least 1 (got {settings[name]}).")


def pinned(x: Tensor) -> Tensor:
    """Return a tensor of the host as it travels to a GPU while the host goes on."""
    return x.pin_memory() if torch.cuda.is_available() and x.device.type == "cpu" else x


def steps_together(tokens: int, device: torch.device) -> int:
    """Return for how many steps of `tokens` each a device prepares at once; a CPU has no launches to save: 1."""
    return 1 if device.type == "cpu" else max(1, min(MOST, TOGETHER // tokens))


class Shares(Generic[B]):
    """Batches with a length that can be iterated again, as Lightning wants its loaders."""

    def __init__(self, length: int, batches: Callable[[], Iterator[B]]) -> None:
        self._length, self._batches = length, batches

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[B]:
        return self._batches()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the step decides all. Lightning asks loaders that resume in mid-epoch for their state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


def training_shares(trainer: L.Trainer, total: int, share: Callable[[int, slice], B]) -> Shares[B]:
    """Return one rank's shares of the steps that are left.

    An optimiser step has `total` rows over all ranks and accumulated shares, which must divide it; `share` returns a
    batch from a step and a slice of its rows.
    """
    accumulate = trainer.accumulate_grad_batches
    size, rest = divmod(total, trainer.world_size * accumulate)
    if rest:
        parts = trainer.world_size * accumulate
        below, above = total // parts * parts, (total // parts + 1) * parts
        sizes = f"{below} or {above}" if below else str(above)
        raise InputError(
            f"data.batch_size {total} cannot be shared by {trainer.world_size} ranks x {accumulate} accumulated "
            f"batches: {sizes} would do."
        )

    def batches() -> Iterator[B]:
        for step in range(trainer.global_step, trainer.max_steps):
            for part in range(trainer.global_rank * accumulate, (trainer.global_rank + 1) * accumulate):
                yield share(step, slice(part * size, (part + 1) * size))

    return Shares(trainer.max_steps * accumulate, batches)
