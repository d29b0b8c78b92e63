"""A token budget: a group of metrics that takes whole windows until it has seen enough tokens."""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Int
from torch import Tensor

from dynamics.capture import AttentionCall
from dynamics.metrics.streaming import Attention, Group, Metric, Pair, States, Weights

_BARE = vars(Metric()).keys() - {"_modules"}  # what a metric holds that accumulates nothing


@dataclass
class Budgeted:
    """A group that takes tokens up to its budget, in whole windows; None is no limit."""

    group: Group
    budget: int | None
    seen: int = 0

    def update(self, batch: States | Pair | Attention | Weights) -> None:
        """Feed the group the part of the batch that it still has room for."""
        if self.budget is None or isinstance(batch, Weights):
            self.group.update(batch)
        elif (room := self.budget - self.seen) > 0:
            if isinstance(batch, Attention):
                batch, tokens = _cut_call(batch, room)
            else:
                tokens = _end_of_window(batch.windows, room - 1)
                batch = type(batch)(*(part[:tokens] for part in batch))
            self.seen += tokens
            self.group.update(batch)

    def states(self) -> tuple[int, dict[str, Any]]:
        """Return the tokens seen, and all that the group keeps."""
        return self.seen, {name: value for name, value in vars(self.group.states).items() if name not in _BARE}

    def load(self, states: tuple[int, dict[str, Any]]) -> None:
        """Take what `states` returned."""
        self.seen = states[0]
        vars(self.group.states).update(states[1])


def _cut_call(batch: Attention, room: int) -> tuple[Attention, int]:
    """Return the rows of the batch that hold at least `room` tokens, in whole windows, and how many they hold."""
    call = batch.call
    assert isinstance(call, AttentionCall)
    tokens = call.valid.sum(1).cumsum(0)
    rows = _end_of_window(batch.windows, int((tokens < room).sum()))
    parts = {name: getattr(call, name)[:rows] for name in ("query", "key", "valid")}
    for name in ("mask", "scores", "sinks"):
        x = getattr(call, name)
        parts[name] = x if x is None or x.ndim < 4 or x.shape[0] == 1 else x[:rows]
    return Attention(replace(call, **parts), batch.windows[:rows]), int(tokens[rows - 1])


def _end_of_window(windows: Int[Tensor, " n"], place: int) -> int:
    """Return where the window at `place` ends, or all of them: what is of one window stands together.

    >>> import torch
    >>> _end_of_window(torch.tensor([7, 7, 3, 3, 5]), 2)
    4
    """
    return int((windows == windows[min(place, len(windows) - 1)]).nonzero()[-1]) + 1
