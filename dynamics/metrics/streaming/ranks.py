"""Sums over ranks inside a loss: what all of them compute of all states, as one rank would."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def are_several() -> bool:
    """Return whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return the number of this rank, 0 of a single one."""
    return dist.get_rank() if are_several() else 0


def over_ranks(x: Tensor) -> Tensor:
    """Return the sum of `x` over the ranks; gradients flow, provided that every rank computes the same of the sum.

    Ranks average their gradients (DDP, FSDP), so that each passes the one of the sum on as often as there are ranks:
    the average is then the gradient of the loss that one rank would have with the states of all.
    """
    summed: Tensor = _Sum.apply(x) if are_several() else x
    return summed


def counts_of_ranks(counts: list[int], device: torch.device) -> list[list[int]]:
    """Return the counts of every rank, in the order of the ranks; waits for the device."""
    if not are_several():
        return [counts]
    mine = torch.tensor(counts, device=device)
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    every: list[list[int]] = torch.stack(parts).tolist()
    return every


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * dist.get_world_size()
