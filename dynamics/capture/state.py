"""Holds a model still while it is measured, and restores everything."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def input_device(model: nn.Module) -> torch.device:
    """Return where a model takes its inputs: with its first weight that is not offloaded, the CPU without one."""
    return next((x.device for x in model.parameters() if not x.is_meta), torch.device("cpu"))


@contextmanager
def held_still(model: nn.Module, show_scores: bool = True) -> Iterator[None]:
    """Run a model in eval mode, without gradients, compilation or cache, with its scores visible if `show_scores`.

    Restored at the end, whatever happens: the mode of every submodule, the random states of CPU and GPUs, `use_cache`
    and the attention implementation of every config.
    """
    modes = {module: module.training for module in model.modules()}
    configs = _configs(model)
    implementations = [(config, config._attn_implementation) for config in configs]
    caches = [(config, config.use_cache) for config in configs if hasattr(config, "use_cache")]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    gpus = sorted({x.device.index for x in model.parameters() if x.device.type == "cuda"})
    try:
        with torch.no_grad(), torch.random.fork_rng(gpus), torch.compiler.set_stance("force_eager"):
            for module in modes:
                module.training = False
            for config, _ in caches:
                config.use_cache = False
            torch.backends.mha.set_fastpath_enabled(False)
            if show_scores:
                _show_scores(model)
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for config, cache in caches:
            config.use_cache = cache
        for config, implementation in implementations:
            if config._attn_implementation != implementation:
                config._attn_implementation = implementation
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _show_scores(model: nn.Module) -> None:
    """Replace the kernels that hide their scores by what computes the same function; leave all else as it runs.

    The same function is sdpa where the model has it, and eager attention where sdpa lacks something (sinks, caps).
    """
    for module in model.modules():
        if not isinstance(module, PreTrainedModel):
            continue
        config: Any = module.config
        if config.model_type == "falcon" and config._attn_implementation == "eager":
            # adds its alibi twice there; it has no official switch, but reads its config as it runs
            config._attn_implementation = "sdpa"
        elif _hides_scores(config._attn_implementation):
            module.set_attn_implementation("sdpa" if module._supports_sdpa else "eager")


def _hides_scores(implementation: str | None) -> bool:
    """Whether attention of this name is a fused kernel of transformers: a function registered by a user is not."""
    function: Any = ALL_ATTENTION_FUNCTIONS.get(implementation or "")
    while isinstance(function, partial):
        function = function.func
    return function in (flash_attention_forward, flex_attention_forward)


def _configs(model: nn.Module) -> list[Any]:
    """Return every config of the model and of its parts, each once, outer before inner."""
    configs: dict[int, Any] = {}
    waiting: list[Any] = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    while waiting:
        config = waiting.pop(0)
        if id(config) not in configs:
            configs[id(config)] = config
            waiting += filter(None, (getattr(config, name, None) for name in config.sub_configs))
    return list(configs.values())
