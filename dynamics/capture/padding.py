"""Which tokens are real: the model's 2-D attention mask, carried to the token axis of any layer."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn

from dynamics.capture.calls import arguments

_HIDDEN = ("src_key_padding_mask", "key_padding_mask")


class Padding:
    """Reads the mask of each forward pass and answers for any length.

    Speech models map samples to frames themselves. Otherwise a shorter axis pools the mask (a token is real if anything
    it came from is); a longer one has extra real tokens in front (classes, registers, prompts). No mask: all are real.
    """

    def __init__(self) -> None:
        self._whole: Tensor | None = None
        self._mask: Tensor | None = None
        self._masks: dict[tuple[int, int, torch.device], Tensor] = {}

    def start(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin a pass with the mask of the whole model."""
        self._whole = None
        self.read(model, args, kwargs)
        self._whole = self._mask

    def read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the mask of a part: encoder and decoder have one each. A mask made ready for scores is skipped."""
        values = arguments(module, args, kwargs)
        mask = values.get("attention_mask")
        if mask is None:
            mask = next((~values[name].bool() for name in _HIDDEN if isinstance(values.get(name), Tensor)), None)
        if mask is not None:
            mask = mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else self._whole
        self._mask = mask
        self._masks.clear()

    def valid(self, model: nn.Module, batch: int, length: int, device: torch.device) -> Bool[Tensor, "B T"]:
        """Return which of `length` tokens are real."""
        key = batch, length, device
        if key not in self._masks:
            self._masks[key] = self._map(model, *key)
        return self._masks[key]

    def _map(self, model: nn.Module, batch: int, length: int, device: torch.device) -> Tensor:
        mask = self._mask
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
