"""The matrices of a training step: q, k and v joined, and under autocast the casts of many in one launch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynamics.sharded import is_sharded

# Blocks whose matrices are cast together. Not all: ranks exchange the gradients of some while others are computed.
TOGETHER = 4


class Matrices(NamedTuple):
    """What a block multiplies by, in place of the weights of its modules where it is not None."""

    projections: Tensor | None = None  # (3 D, D) of queries, keys and values
    output: Tensor | None = None
    up: Tensor | None = None
    down: Tensor | None = None


AS_THEY_ARE = Matrices()


def linear(module: nn.Linear, x: Tensor, weight: Tensor | None) -> Tensor:
    """Apply a linear map, with another weight than its own unless that is None."""
    return module(x) if weight is None else nn.functional.linear(x, weight, module.bias)


def training_matrices(blocks: Any, device: str) -> Iterator[tuple[Any, Matrices]]:
    """Yield each block of a trunk with its matrices: its own unless it is in training mode.

    A compiled graph has no launches to save: there q, k and v are joined and the rest is left to the compiler.
    """
    for first in range(0, len(blocks), TOGETHER):
        some = blocks[first : first + TOGETHER]
        groups = [group for block in some for group in _groups(block)]
        if not some[0].training or is_sharded(some[0]):  # whose weights are gathered when it runs
            matrices = [AS_THEY_ARE] * len(some)
        elif torch.is_autocast_enabled(device) and not torch.compiler.is_compiling():
            sizes, dtype = [len(group) for group in groups], torch.get_autocast_dtype(device)
            cast = iter(_Cast.apply(dtype, sizes, *(weight for group in groups for weight in group)))
            matrices = [Matrices(*parts) for parts in zip(*[cast] * 4, strict=True)]
        else:
            matrices = [Matrices(torch.cat(group)) for group in groups[::4]]
        yield from zip(some, matrices, strict=True)


def _groups(block: Any) -> Iterable[list[Tensor]]:
    """Return the weights that make up each of a block's `Matrices`."""
    attention = block.attention
    projections = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    return projections, [attention.o_proj.weight], [block.up.weight], [block.down.weight]


class _Cast(torch.autograd.Function):
    """Casts weights, those of a group joined by rows, and casts their gradients back: one launch each way."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, sizes: Sequence[int], *weights: Tensor) -> tuple[Tensor, ...]:
        rest = iter(weights)
        groups = [[next(rest) for _ in range(size)] for size in sizes]
        ctx.rows, ctx.dtype = [[len(weight) for weight in group] for group in groups], weights[0].dtype
        joined = tuple(
            group[0].new_empty(sum(rows), group[0].shape[1], dtype=dtype)
            for group, rows in zip(groups, ctx.rows, strict=True)
        )
        torch._foreach_copy_(_split(joined, ctx.rows), weights)
        return joined

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        parts = _split(gradients, ctx.rows)
        cast = [torch.empty_like(part, dtype=ctx.dtype) for part in parts]
        torch._foreach_copy_(cast, parts)
        return None, None, *cast


def _split(joined: Sequence[Tensor], rows: Sequence[list[int]]) -> list[Tensor]:
    return [part for whole, lengths in zip(joined, rows, strict=True) for part in whole.split(lengths)]
