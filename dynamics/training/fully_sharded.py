"""FSDP2: weights, gradients and the optimiser's states lie in shards on the ranks; what is kept of a run is whole.

Lightning's `ModelParallelStrategy` starts the ranks and their mesh. Its checkpoints are folders of shards, or name the
states of the optimiser otherwise; those of this strategy are the ones of a single process, so that a run goes on with
another number of ranks, with DDP or alone.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy, StrategyRegistry
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from dynamics.errors import InputError
from dynamics.sharded import on_first, part_of, shard, whole_weights

NAME = "fsdp2"


class FullySharded(ModelParallelStrategy):
    """Shards the module's `network` by its blocks over all ranks (`trainer.strategy: fsdp2`), on GPUs or CPUs.

    Every rank builds the whole network on its host first; the first rank gathers a state on its host to save it.
    """

    lightning_restore_optimizer = True  # by `load_optimizer_state_dict`

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        """Shard the network, which is built by now, before the optimiser takes its weights."""
        module: Any = self.lightning_module
        if module.hparams.get("compile"):
            raise InputError(f"model.compile has no effect with trainer.strategy {NAME}: remove one of them.")
        if module.hparams.get("optimizer") == "muon":
            raise InputError(f"model.optimizer muon needs whole matrices: choose another with {NAME}.")
        shard(module.network, self.device_mesh["data_parallel"])
        super().setup(trainer)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the module's whole state to the first rank."""
        assert self.lightning_module is not None
        return dict(whole_weights(self.lightning_module, self.is_global_zero))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state of an optimiser to the first rank, by the places of its parameters."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = inner.state_dict()  # whose tensors, and the dicts of them, are those in use
        gather = partial(on_first, is_first=self.is_global_zero)
        return {**state, "state": tree_map_only(Tensor, gather, state["state"])}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a state on every rank, its tensors left on the disk until a rank takes its shard."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        for name, x in self.lightning_module.state_dict().items():
            x.copy_(part_of(checkpoint["state_dict"][name], x))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            parts = {
                place: tree_map_only(Tensor, partial(part_of, like=weights[place]), values)
                for place, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": parts})


if NAME not in StrategyRegistry:
    StrategyRegistry.register(NAME, FullySharded, description="FSDP2: the network in shards on all ranks")
