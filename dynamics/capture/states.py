"""Hidden states of shape (batch, tokens, width), from whatever layout the modules of a model hand them over in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dynamics.capture.calls import arguments
from dynamics.errors import InputError

_TEXT = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds")
_OTHER = ("pixel_values", "pixel_values_videos", "input_values", "input_features")


class InputShape(NamedTuple):
    """The batch that a model reads: its rows and tokens. None: unknown, as the tokens of images and sound are."""

    rows: int | None = None
    tokens: int | None = None


def input_shape(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> InputShape:
    """Return the shape of what a module reads; nothing is known of floating-point inputs without a usual name."""
    values = arguments(module, args, dict(kwargs))
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor) and value.ndim > 1}
    for name in _TEXT:
        if name in tensors:
            return InputShape(*tensors[name].shape[:2])
    for name in (getattr(module, "main_input_name", ""), *_OTHER):
        if name in tensors:
            packed = name.startswith("pixel") and tensors[name].ndim == 2  # patches of all images in one row
            return InputShape(None if packed else tensors[name].shape[0])
    first = next(iter(tensors.values()), None)
    return InputShape() if first is None or first.is_floating_point() else InputShape(*first.shape[:2])


@dataclass(frozen=True)
class StateLayout:
    """The axes of a model's states: (T, B, D) if `time_first`; several streams stacked on the axis `streams`.

    Of streams stacked in front the stream `active` is measured; streams beside the width are averaged.
    """

    time_first: bool = False
    streams: int | None = None
    active: int = 0

    def read(self, values: Any, module: nn.Module, batch: InputShape, place: str) -> Float[Tensor, "B T D"]:
        """Return the states among what a module took or returned, images flattened.

        Raises:
            InputError: there are none, or none of the shape that `batch` demands; the sentence begins with `place`.
        """
        x = first_states(values)
        if x is None:
            raise InputError(f"{place} has no hidden states of shape (batch, tokens, width) to capture.")
        shape = tuple(x.shape)
        if x.ndim == 4 and self.streams is not None:
            x = x[self.active] if self.streams == 0 else x.mean(self.streams)
        elif x.ndim == 4:
            x = x.flatten(2).transpose(1, 2) if _is_channel_first(shape, module) else x.flatten(1, 2)
        elif is_time_first(shape, batch.rows, self.time_first):
            x = x.transpose(0, 1)
        tokens = None if self.streams is None else batch.tokens
        if batch.rows not in (None, x.shape[0]) or tokens not in (None, x.shape[1]):
            raise InputError(
                f"{place} has states of shape {shape}, which is not (batch, tokens, width) of a batch of "
                f"{' x '.join(str(size) for size in batch if size is not None)}: it cannot be measured."
            )
        return x


def learn_layout(shape: Sequence[int], batch: InputShape, attentions: Sequence[nn.Module], active: int) -> StateLayout:
    """Return the layout of states of this shape that enter the first layer of a model with these attentions."""
    usual = any(isinstance(x, nn.MultiheadAttention) and not x.batch_first for x in attentions)
    streams = None
    if len(shape) == 4 and batch.tokens is not None:
        streams = 0 if tuple(shape[1:3]) == batch else 2 if tuple(shape[:2]) == batch else None
    return StateLayout(len(shape) == 3 and is_time_first(shape, batch.rows, usual), streams, active)


def is_time_first(shape: Sequence[int], rows: int | None, usual: bool) -> bool:
    """Whether the second axis of states is the batch; the `usual` answer where the shape does not say."""
    is_first, is_second = shape[0] == rows, shape[1] == rows
    return is_second if is_first != is_second else usual


def first_states(values: Any) -> Shaped[Tensor, "..."] | None:
    """Return the first tensor that may be hidden states among the arguments or outputs of a module."""
    values = [values] if isinstance(values, Tensor) else values.values() if isinstance(values, dict) else values
    return next((x for x in values if isinstance(x, Tensor) and x.is_floating_point() and x.ndim in (3, 4)), None)


def _is_channel_first(shape: Sequence[int], module: nn.Module) -> bool:
    """Whether images are (B, D, H, W) and not (B, H, W, D): by the norms and biases of the module, else by squares."""
    widths = {parameter.shape[0] for parameter in module.parameters() if parameter.ndim == 1}
    if (shape[1] in widths) != (shape[3] in widths):
        return shape[1] in widths
    return shape[1] != shape[2] or shape[2] == shape[3]
