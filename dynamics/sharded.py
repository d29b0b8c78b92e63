"""Networks whose weights lie in shards on several ranks (FSDP2): sharded by blocks, and read whole."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(module: nn.Module) -> bool:
    """Return whether `shard` has been applied to a module."""
    return hasattr(module, "set_reshard_after_forward")


def shard(network: Any, mesh: Any) -> None:
    """Shard the weights of a network of transformers over a mesh of ranks: every block is gathered when it runs.

    What lies outside of the blocks is gathered at the beginning of a pass and stays, since the loss reads the head.
    """
    from torch.distributed.fsdp import fully_shard

    names = set(network._no_split_modules or ())
    for module in reversed([*network.modules()]):  # inner ones first
        if type(module).__name__ in names:
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh, reshard_after_forward=False)


def whole(x: Tensor) -> Tensor:
    """Return a tensor that lies in shards (a DTensor) gathered, any other as it is; every rank takes part."""
    gathered: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return gathered


def on_first(x: Tensor, is_first: bool) -> Tensor:
    """Return a tensor whole and on the host, to the first rank; every rank takes part."""
    gathered = whole(x.detach())
    return (gathered.cpu() if gathered is not x else gathered) if is_first else torch.empty(0)


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """Return this rank's shard of a whole tensor, sharded as `like` is; the tensor itself where that is whole."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_weights(module: nn.Module, is_first: bool = True) -> Mapping[str, Tensor]:
    """Return the state of a module with its shards gathered, tied weights once; empty tensors on other ranks."""
    state = module.state_dict()  # puts what is gathered back into shards
    names: dict[int, str] = {}
    same = {name: names.setdefault(id(x), name) for name, x in module.named_parameters(remove_duplicate=False)}
    gathered: dict[str, Tensor] = {}
    for name, x in state.items():
        first = same.get(name, name)
        gathered[name] = gathered[first] if first in gathered else on_first(x, is_first)
    return gathered
