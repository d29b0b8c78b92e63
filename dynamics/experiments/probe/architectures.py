"""The untrained blocks of any architecture of transformers, in the place of the random blocks.

The model runs whole, on placeholder inputs; a hook replaces the states that enter its first block by the probe's. So
masks, positions and everything between the blocks are the architecture's.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from dynamics.capture import capture
from dynamics.errors import InputError
from dynamics.experiments.probe.blocks import OnAttention, OnStates, ignore
from dynamics.experiments.probe.design import BlockDesign
from dynamics.measure.checked import checked
from dynamics.measure.measurement import exact
from dynamics.models import architectures

VOCABULARY = 256  # rows of the embedding table, which is not used
LARGEST_IMAGE = 224  # pixels on a side at most, where the architecture says more
IMAGE = 64  # pixels on a side where the architecture does not say
Arguments = tuple[Any, ...]


class Architecture:
    """An architecture with its own initialiser, at the width, depth and heads of a design; used as `RandomBlocks`."""

    def __init__(self, design: BlockDesign, depth: int, device: torch.device) -> None:
        self.design, self.device, self._name = design, device, design.architecture
        try:
            self._config = _configuration(self._name, design, depth)
            self._model: PreTrainedModel = self._build(0).to(device)
            self._locate_blocks()
            self.run(0, torch.zeros(1, 2, *self.shape, device=device), ignore, ignore)
            self.capture = str(checked(self._model, self._inputs(2), f"architecture {self._name}"))
        except InputError:
            raise
        except Exception as error:  # every architecture raises its own
            reason = str(error).split("\n")[0].rstrip(".") or type(error).__name__
            raise InputError(
                f"architecture {self._name} does not run with width {design.width} and {design.heads} heads "
                f"({reason}): choose another width, number of heads or architecture."
            ) from error

    def run(self, seed: int, x: Tensor, on_states: OnStates, on_attention: OnAttention, depth: int = 0) -> None:
        """Pass `x` (C, B, T, D) through all blocks, whatever `depth`.

        Parts: (`attention`, l) the output of the attention module, where it has the block's width (in BERT and its
        kin the output projection is in another module), (`mlp`, l) the block's output.
        """
        self._model.load_state_dict(self._build(seed).state_dict())
        rows, current = x.flatten(0, 1), 0  # the layer that is running

        def states(site: str, layer: int, values: Tensor, valid: Tensor) -> None:
            nonlocal current
            current = layer + 1
            if layer:
                on_states("mlp", layer, values.view(*x.shape[:2], *values.shape[1:]))

        def attention_output(_: nn.Module, __: Arguments, output: Any) -> None:
            values = output[0] if isinstance(output, tuple) else output
            if isinstance(values, Tensor) and values.shape == rows.shape:
                on_states("attention", current, values.view(x.shape))

        module = self._model.get_submodule
        with exact(self._model, torch.float32) as model, _entering(module(self._first), rows), ExitStack() as hooks:
            for name in self._attentions:
                hooks.enter_context(module(name).register_forward_hook(attention_output))
            with capture(model, ["residual", "attention"], states, on_attention):
                model(**self._inputs(len(rows)))

    def _build(self, seed: int) -> Any:
        """Build a model with the weights of its own initialiser; the global generator is put back."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = AutoModel.from_config(self._config)
        return model.get_encoder() if self._config.is_encoder_decoder else model

    def _locate_blocks(self) -> None:
        """Find the blocks, and the shape of what enters the first one."""
        self.shape = 0, 0

        def states(site: str, layer: int, x: Tensor, valid: Tensor) -> None:
            if layer == 0:
                self.shape = x.shape[1], x.shape[2]

        with exact(self._model, torch.float32) as model, capture(model, ["residual"], states) as tap:
            model(**self._inputs(1))
        self.layers, self._first, self._attentions = tap.layers, tap.layout.blocks[0], tap.layout.attentions

    def _inputs(self, rows: int) -> dict[str, Tensor]:
        """Return placeholder inputs, of about as many tokens as the design has."""
        name, length, config = self._model.main_input_name, self.design.length, self._config
        if name == "input_ids":
            special = {value for key, value in config.to_dict().items() if key.endswith("_token_id")}
            token = next(i for i in range(VOCABULARY) if i not in special)
            return {name: torch.full((rows, length), token, device=self.device)}
        if name == "pixel_values":
            side = getattr(config, "image_size", IMAGE)
            shape = config.num_channels, *(side if isinstance(side, Sequence) else (side, side))
        elif name == "input_values":
            samples = length
            for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
                samples = (samples - 1) * stride + kernel
            shape = (samples,)
        elif name == "input_features" and hasattr(config, "num_mel_bins"):
            shape = config.num_mel_bins, 2 * length
        else:
            raise InputError(f"architecture {self._name} takes {name}, which the probe cannot make up.")
        return {name: torch.zeros(rows, *shape, device=self.device)}


def _entering(block: nn.Module, x: Tensor) -> RemovableHandle:
    """Replace the hidden states of `block` by `x` (rows, T, D) at its first call, while the hook is open."""
    waiting = [x]

    def replace(_: nn.Module, args: Arguments, kwargs: dict[str, Any]) -> tuple[Arguments, dict[str, Any]] | None:
        if not waiting:  # ALBERT calls one block again and again
            return None
        arguments: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        tensors = ((key, value) for key, value in arguments.items() if isinstance(value, Tensor))
        states = (key for key, value in tensors if value.is_floating_point() and value.ndim in (3, 4))
        place = "hidden_states" if "hidden_states" in arguments else next(states)
        shape, values = arguments[place].shape, waiting.pop().to(arguments[place])
        arguments[place] = values if len(shape) == 3 else values.mT.reshape(shape)
        return tuple(arguments[i] for i in range(len(args))), {key: arguments[key] for key in kwargs}

    return block.register_forward_pre_hook(replace, with_kwargs=True)


def _configuration(name: str, design: BlockDesign, depth: int) -> PreTrainedConfig:
    """Return the architecture's configuration at the design's size; pyramids of stages keep their own size."""
    kind = architectures.find(name)
    standard = kind()
    values = {"vocab_size": VOCABULARY}
    if isinstance(pixels := getattr(standard, "image_size", None), int):
        values["image_size"] = min(pixels, LARGEST_IMAGE)
    has_one_size = all(isinstance(getattr(standard, key, None), int) for key in ("hidden_size", "num_hidden_layers"))
    if has_one_size and not hasattr(standard, "depths"):
        values |= architectures.sizes(standard, design.width, depth, design.heads) | {
            "decoder_attention_heads": design.heads,
            **dict.fromkeys(("decoder_layers", "num_decoder_layers"), 1),
            "max_position_embeddings": max(design.length + 8, 512),
            "max_source_positions": design.length,
        }
        if isinstance(patch := getattr(standard, "patch_size", None), int):
            values["image_size"] = patch * max(1, round(design.length**0.5))
    values |= {
        key: VOCABULARY - 1
        for key, value in standard.to_dict().items()
        if key.endswith("_token_id") and isinstance(value, int) and value >= VOCABULARY
    }
    settable: dict[str, Any] = architectures.settable(standard, values)
    return kind(**settable)
