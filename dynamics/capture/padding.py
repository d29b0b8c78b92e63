"""Which tokens are real: the mask that a model is given, carried to the token axis of any layer."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Shaped
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel

from dynamics.capture.calls import arguments
from dynamics.capture.states import InputShape, input_shape
from dynamics.errors import InputError

log = logging.getLogger(__name__)

REAL = ("attention_mask", "input_mask", "valid_mask", "token_mask")  # true, or not 0, at real tokens
PADDED = (  # true at padding, or what is added to its scores
    *("src_key_padding_mask", "tgt_key_padding_mask", "key_padding_mask", "padding_mask", "encoder_padding_mask"),
    *("pad_mask", "src_padding_mask", "tgt_padding_mask"),
)
TORCH = (nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
HIDDEN = -87.0  # what adds less to a score than to that of another key leaves it no probability


def real_tokens(values: Mapping[str, Any], name: str | None = None, is_padded: bool = True) -> Tensor | None:
    """Return the mask among a model's arguments, true at real tokens; None without one, or if it is for scores (4-D).

    The names are those of `REAL` and `PADDED`; or `name` is the mask, with ~ before it if it is true at padding.
    `is_padded`: whether `padding_mask` is true at padding; in models of transformers it is at real tokens.

    Raises:
        InputError: there is no argument `name`.
    """
    if name is not None:
        mask = values.get(name.lstrip("~"))
        if not isinstance(mask, Tensor):
            raise InputError(f"mask={name!r}: the model is given no argument {name.lstrip('~')} that is a tensor.")
        return ~mask.bool() if name.startswith("~") else mask.bool() if mask.ndim == 2 else _of_scores(mask)
    for key in (*REAL, *PADDED):
        mask = values.get(key)
        if isinstance(mask, Tensor) and mask.ndim > 1:
            if key in REAL or (key == "padding_mask" and not is_padded):
                return mask.bool() if mask.ndim == 2 else _of_scores(mask)
            return ~mask.bool()
    return None


def _of_scores(mask: Shaped[Tensor, "..."]) -> Bool[Tensor, "B T"]:
    """Return the keys that any query sees; (B, heads, T, S) or (B, T, S), additive if it is floating-point.

    Rows that see everything are those of padding (a model then need not divide by 0), or a causal model's last one.
    """
    sees = mask - mask.amax(-1, keepdim=True) > HIDDEN if mask.is_floating_point() else mask.bool()
    sees = sees.flatten(1, -3).any(1) if sees.ndim > 3 else sees
    whole = sees.all(-1, keepdim=True)
    real = (sees & ~whole).any(1)
    real[:, -1] |= whole[:, -1, 0] & real[:, :-1].all(-1)
    return real | whole.all(1)


class _MaskWatch(TorchFunctionMode):
    """Watches what a model makes of its mask before its layers: padded, joined to another, cut."""

    def __init__(self, mask: Tensor | None, shape: InputShape) -> None:
        super().__init__()
        self.shape, self.has_mask = shape, mask is not None
        self._derived: Any = WeakIdKeyDictionary({} if mask is None else {mask: None})
        self.of_length: dict[int, list[Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.ndim == 2 and result.shape[0] == self.shape[0]:
            lists = (x if isinstance(x, (list, tuple)) else (x,) for x in (*args, *(kwargs or {}).values()))
            is_derived = any(isinstance(x, Tensor) and x in self._derived for part in lists for x in part)
            is_mask = not self.has_mask and func in (torch.ones, torch.ones_like) and tuple(result.shape) == self.shape
            if is_derived or is_mask:
                self._derived[result] = None
                if result.shape[1] != self.shape[1]:
                    self.of_length.setdefault(result.shape[1], []).append(result)
        return result


class Padding:
    """Reads the mask of each forward pass and answers for any length.

    Where a model pads, prolongs or cuts its input before its layers, it does the same to its mask: that one is taken.
    Speech models map samples to frames themselves. Otherwise a shorter axis pools the mask (a token is real if anything
    it came from is); a longer one has extra real tokens in front (classes, registers, prompts). No mask: all are real.
    `name` is that of the mask among the model's arguments, where it is not a usual one. One that `watches` what a model
    makes of its mask does so from `start` and `read` to `enter_layer`, `end` or `close`.
    """

    def __init__(self, name: str | None = None, watches: bool = False) -> None:
        self._name, self._watches = name, watches
        self._whole: Tensor | None = None
        self._mask: Tensor | None = None
        self._watch: _MaskWatch | None = None
        self._is_watching = False
        self._masks: dict[tuple[int, int, torch.device], Tensor] = {}
        self._queries: dict[str, int] = {}  # rows that each attention of a layer has had
        self._suspects: list[str] | None = None  # arguments that may be masks of another name

    def start(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin a pass with the mask of the whole model."""
        values = arguments(model, args, kwargs)
        self._whole = real_tokens(values, self._name, not isinstance(model, PreTrainedModel))
        shape = self._take(self._whole, model, values)
        if self._suspects is None:
            masks = [
                key for key, x in values.items() if "mask" in key and isinstance(x, Tensor) and tuple(x.shape) == shape
            ]
            self._suspects = [] if isinstance(model, PreTrainedModel) or self._whole is not None else masks

    def read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the mask of a part: encoder and decoder have one each. A mask made ready for scores is skipped."""
        values = arguments(module, args, kwargs)
        if getattr(values.get("attention_mask"), "ndim", 2) != 2:
            self._mask = self._whole
            self._masks.clear()
            return
        mask = real_tokens(values, is_padded=not isinstance(module, PreTrainedModel))
        if mask is None and isinstance(module, TORCH):
            is_decoder = isinstance(module, nn.TransformerDecoder | nn.TransformerDecoderLayer)
            if not is_decoder:
                return
            mask = None if values.get("memory_key_padding_mask") is not None else self._whole
        elif mask is None and self._name is not None:
            mask = self._whole
        if mask is not None:
            self._suspects = []
        self._take(mask, module, values)

    def _take(self, mask: Tensor | None, module: nn.Module, values: dict[str, Any]) -> InputShape:
        """Take a mask, and watch what a model of transformers, or a whole one, makes of it before its layers."""
        self._mask = mask
        self._masks.clear()
        shape = input_shape(module, (), values)
        if self._watches and not isinstance(module, TORCH):
            self.close()
            names = (*REAL, *PADDED, *([] if self._name is None else [self._name.lstrip("~")]))
            given = (x for name in names if isinstance(x := values.get(name), Tensor) and x.ndim == 2)
            self._watch = _MaskWatch(next(given, None), shape)
            self._watch.__enter__()
            self._is_watching = True
        return shape

    def close(self) -> None:
        """Stop watching what is made of the mask."""
        if self._is_watching and self._watch is not None:
            self._watch.__exit__(None, None, None)
        self._is_watching = False

    def enter_layer(self) -> None:
        """Note that a layer begins."""
        self.close()
        self._queries.clear()

    def end(self, name: str) -> None:
        """End a pass of the model `name`; say once which argument may be a mask that is not read."""
        self.close()
        for argument in self._suspects or ():
            why = "may mark padding, and every token was counted: name it, as in"
            log.warning(
                "%s of %s %s measure(..., mask='%s'), or '~%s' if it is true at padding",
                argument,
                name,
                why,
                argument,
                argument,
            )
        self._suspects = []

    def valid(self, model: nn.Module, batch: int, length: int, device: torch.device) -> Bool[Tensor, "B T"]:
        """Return which of `length` tokens are real."""
        key = batch, length, device
        if key not in self._masks:
            self._masks[key] = self._map(model, *key)
        return self._masks[key]

    def queries(
        self, model: nn.Module, attention: str, layer: tuple[int, int], batch: int, rows: int, device: torch.device
    ) -> Bool[Tensor, "{batch} {rows}"] | None:
        """Mark a call's queries that are not padding: all tokens of the layer (its batch and length), its next chunk,
        or local windows; None where windows hold padding, and which of their tokens it is cannot be known."""
        if batch != layer[0]:
            valid = self.valid(model, *layer, device)
            is_whole = batch * rows <= layer[0] * layer[1] and (self._mask is None or bool(valid.all()))
            return valid.new_ones(batch, rows) if is_whole else None
        length, start = max(rows, layer[1]), self._queries.get(attention, 0)
        start = start if start + rows <= length else 0
        self._queries[attention] = start + rows
        valid = self.valid(model, batch, length, device)
        return valid if rows == length else valid[:, start : start + rows]

    def _map(self, model: nn.Module, batch: int, length: int, device: torch.device) -> Tensor:
        mask, made = self._mask, self._of_model(length)
        if made is not None and len(made) == batch:
            return made.to(device)
        if mask is None or mask.shape[0] != batch:
            return torch.ones(batch, length, dtype=torch.bool, device=device)
        if mask.shape[1] > length:
            to_frames = (getattr(module, "_get_feature_vector_attention_mask", None) for module in model.modules())
            speech: Any = next(filter(None, to_frames), None)
            if speech is not None:
                return speech(length, mask.long()).bool().to(device)
            mask = F.adaptive_max_pool1d(mask[:, None].float(), length)[:, 0] > 0
        elif mask.shape[1] < length:
            mask = F.pad(mask, (length - mask.shape[1], 0), value=True)
        return mask.to(device)

    def _of_model(self, length: int) -> Tensor | None:
        """Return what the model made of its mask for `length` tokens: it holds the mask, or the mask inverted."""
        tokens = None if self._watch is None else self._watch.shape[1] if self._mask is None else self._mask.shape[1]
        if self._watch is None or tokens in (None, length):
            return None
        for candidate in self._watch.of_length.get(length, ()):
            made = candidate.bool()
            mask = made.new_ones(len(made), tokens) if self._mask is None else self._mask.to(made.device)
            short, long = sorted((made, mask), key=lambda x: x.shape[1])
            for start in (0, long.shape[1] - short.shape[1]):
                part = long[:, start : start + short.shape[1]]
                if torch.equal(part, short):
                    return made
                if torch.equal(part, ~short):
                    return ~made
        return None
