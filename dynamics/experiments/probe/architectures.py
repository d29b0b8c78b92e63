"""The untrained blocks of any architecture of transformers, fed as the random blocks are.

The model runs as it is, on inputs that say nothing; a hook puts the probe's states in the place of what enters
its first block. So masks, positions and everything between the blocks are the architecture's own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel

from dynamics.capture import AttentionCall, capture
from dynamics.errors import InputError
from dynamics.experiments.probe.blocks import OnAttention, OnStates, ignore
from dynamics.experiments.probe.design import Design
from dynamics.measure.measurement import exact
from dynamics.models import transformer as _registers_ours  # noqa: F401

INNER = ("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "hidden_dim", "n_inner")
"""Widths inside the MLP, scaled with the model's."""
VOCABULARY = 256
"""Rows of an embedding table that nobody reads."""
IMAGE, LARGEST_IMAGE = 64, 224
"""Pixels on a side where the architecture names none, and where it names many."""


class Architecture:
    """An architecture with its own initialiser, at the width, depth and heads of a design.

    Raises:
        InputError: there is no such architecture, or it cannot be built or run so.
    """

    together = False

    def __init__(self, design: Design, depth: int, device: torch.device) -> None:
        self.design, self._device, self._name = design, device, design.architecture
        with self._refusing():
            self._config = _config(self._name, design, depth)
            self._model = self._build(0).to(device)
            self._learn()
            self.run([0], torch.zeros(1, 1, 2, *self.shape, device=device), ignore, ignore)

    def run(
        self, seeds: Sequence[int], x: Tensor, on_states: OnStates, on_attention: OnAttention, depth: int = 0
    ) -> None:
        """Pass `x` (1, C, B, T, D) through the blocks of one seed, whatever `depth`: the model runs whole.

        Parts: (`attention`, l) what the module that attends gives, where it has the block's width (its output
        projection is another module's in BERT and its kin), (`mlp`, l) the block's output.
        """
        (seed,) = seeds
        self._model.load_state_dict(self._build(seed).state_dict())
        lead = x.shape[:3]
        layer = 0

        def attended(call: AttentionCall) -> None:
            nonlocal layer
            layer = call.layer
            on_attention(call)

        def states(site: str, place: int, values: Tensor, valid: Tensor) -> None:
            if place:
                on_states("mlp", place, values.view(*lead, *values.shape[1:]))

        def alone(module: nn.Module, args: tuple, output: Any) -> None:
            values = output[0] if isinstance(output, tuple) else output
            if isinstance(values, Tensor) and values.shape == x.flatten(0, 2).shape:
                on_states("attention", layer, values.view(x.shape))

        rows = lead.numel()
        modules = dict(self._model.named_modules())
        with exact(self._model, torch.float32) as model, _entering(modules[self._first], x.flatten(0, 2)):
            handles = [modules[name].register_forward_hook(alone) for name in self._attentions]
            try:
                with capture(model, ["residual", "attention"], states, attended):
                    model(**self._inputs(rows))
            finally:
                for handle in handles:
                    handle.remove()

    def _build(self, seed: int) -> PreTrainedModel:
        """A model with weights of its own: drawn by its initialiser, the global generator put back."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = AutoModel.from_config(self._config)
        return model.get_encoder() if self._config.is_encoder_decoder else model

    def _learn(self) -> None:
        """Find the blocks, and the shape of what enters the first one."""

        self.shape = 0, 0

        def states(site: str, layer: int, x: Tensor, valid: Tensor) -> None:
            if layer == 0:
                self.shape = x.shape[1], x.shape[2]

        with exact(self._model, torch.float32) as model, capture(model, ["residual"], states) as tap:
            model(**self._inputs(1))
        self.layers, self._first = tap.layers, tap.layout.blocks[0]
        self._attentions = tap.layout.attentions

    def _inputs(self, rows: int) -> dict[str, Tensor]:
        """Inputs that say nothing, of a length that gives about as many tokens as the design asks for."""
        name, length, config = self._model.main_input_name, self.design.length, self._config
        if name == "input_ids":
            special = {value for key, value in config.to_dict().items() if key.endswith("_token_id")}
            token = next(i for i in range(VOCABULARY) if i not in special)
            return {name: torch.full((rows, length), token, device=self._device)}
        if name == "pixel_values":
            side = getattr(config, "image_size", IMAGE)
            sides = side if isinstance(side, Sequence) else (side, side)
            return {name: torch.zeros(rows, config.num_channels, *sides, device=self._device)}
        if name == "input_values":
            samples = length
            for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
                samples = (samples - 1) * stride + kernel
            return {name: torch.zeros(rows, samples, device=self._device)}
        if name == "input_features" and hasattr(config, "num_mel_bins"):
            return {name: torch.zeros(rows, config.num_mel_bins, 2 * length, device=self._device)}
        raise InputError(f"architecture {self._name} takes {name}, which the probe cannot make up.")

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """What fails to build or run at this size is refused in one sentence."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            what = str(error).split("\n")[0].rstrip(".")
            raise InputError(
                f"architecture {self._name} does not run {self.design.width} wide with {self.design.heads} heads "
                f"({what or type(error).__name__}): choose another width, another number of heads, or another "
                "architecture."
            ) from error


@contextmanager
def _entering(block: nn.Module, x: Tensor) -> Iterator[None]:
    """Have `x` (rows, T, D) enter `block` in the place of its hidden states, at its first call."""
    waiting = [x]

    def replace(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if not waiting:  # ALBERT calls one block again and again
            return None
        given = {**dict(enumerate(args)), **kwargs}
        place = "hidden_states" if "hidden_states" in given else next(k for k, v in given.items() if _states(v))
        states = waiting.pop().to(given[place])
        given[place] = states if given[place].ndim == 3 else states.mT.reshape(given[place].shape)
        return tuple(given[i] for i in range(len(args))), {key: given[key] for key in kwargs}

    handle = block.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _states(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (3, 4)


def _config(name: str, design: Design, depth: int) -> PreTrainedConfig:
    """The architecture's configuration at the design's size; what hangs on the width follows it.

    Pyramids, whose stages differ in width, depth and heads, keep their own.
    """
    if name not in CONFIG_MAPPING:
        near = get_close_matches(name, list(CONFIG_MAPPING), n=3) or ["gpt2", "bert", "llama"]
        raise InputError(f"transformers has no architecture {name}: did you mean {', '.join(near)}?")
    told = CONFIG_MAPPING[name]
    if parts := [part.model_type for part in told.sub_configs.values() if hasattr(part, "model_type")]:
        raise InputError(f"architecture {name} is made of several models: name one of {', '.join(parts)}.")
    standard = told()
    plain = all(isinstance(getattr(standard, key, None), int) for key in ("hidden_size", "num_hidden_layers"))
    wanted = {"vocab_size": VOCABULARY}
    if isinstance(pixels := getattr(standard, "image_size", None), int):
        wanted["image_size"] = min(pixels, LARGEST_IMAGE)
    if plain and not hasattr(standard, "depths"):
        wanted |= _size(standard, design, depth)
    wanted |= {
        key: VOCABULARY - 1
        for key, value in standard.to_dict().items()
        if key.endswith("_token_id") and isinstance(value, int) and value >= VOCABULARY
    }
    names = {key: told.attribute_map.get(key, key) for key in wanted}
    return told(
        **{
            names[key]: value
            for key, value in wanted.items()
            if isinstance(getattr(standard, key, None), int)
            and not isinstance(getattr(told, names[key], None), property)
        }
    )


def _size(standard: PreTrainedConfig, design: Design, depth: int) -> dict[str, int]:
    """What sets the size of a configuration, whatever of it the architecture knows."""
    head, width = design.width // design.heads, standard.hidden_size
    patch = getattr(standard, "patch_size", None)
    side = max(1, round(design.length**0.5))
    return {
        "hidden_size": design.width,
        "num_hidden_layers": depth,
        "num_attention_heads": design.heads,
        "num_key_value_heads": _groups(standard, design.heads),
        "decoder_attention_heads": design.heads,
        **dict.fromkeys(("decoder_layers", "num_decoder_layers"), 1),
        **dict.fromkeys(("head_dim", "d_kv", "d_head"), head),
        "rotary_dim": min(head, getattr(standard, "rotary_dim", None) or head),
        **{key: max(1, (getattr(standard, key, None) or 0) * design.width // width) for key in INNER},
        "max_position_embeddings": max(design.length + 8, 512),
        "max_source_positions": design.length,
        **({"image_size": patch * side} if isinstance(patch, int) else {}),
    }


def _groups(standard: PreTrainedConfig, heads: int) -> int:
    """Key heads in the architecture's own proportion to its query heads, where that divides them."""
    own, all_heads = (getattr(standard, key, 1) for key in ("num_key_value_heads", "num_attention_heads"))
    if not (isinstance(own, int) and isinstance(all_heads, int)):
        return heads
    share = max(1, heads * own // all_heads)
    return share if heads % share == 0 else heads
