"""Which tokens are real: the model's 2-D attention mask, carried to the token axis of any layer."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamics.capture.calls import arguments

_HIDDEN = ("src_key_padding_mask", "key_padding_mask")


class Padding:
    """Reads the mask of each forward pass and answers for any length.

    Speech models map samples to frames themselves. Otherwise a shorter axis pools the mask (a token is real if
    anything it came from is), and a longer one has extra tokens in front (classes, registers, prompts), which
    are real. Without a mask everything is.
    """

    def __init__(self) -> None:
        self._whole: Tensor | None = None
        self._mask: Tensor | None = None
        self._known: dict[tuple[int, int, torch.device], Tensor] = {}

    def start(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Begin a pass with the mask that the whole model was given."""
        self._whole = None
        self.read(model, args, kwargs)
        self._whole = self._mask

    def read(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Take the mask of a part: encoder and decoder have their own. One made ready for scores is skipped."""
        given = arguments(module, args, kwargs)
        mask = given.get("attention_mask")
        if mask is None:
            hidden = (given[name] for name in _HIDDEN if isinstance(given.get(name), Tensor))
            mask = next((~x.bool() for x in hidden), None)
        if mask is not None:
            mask = mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else self._whole
        self._mask = mask
        self._known.clear()

    def valid(self, model: nn.Module, batch: int, length: int, device: torch.device) -> Tensor:
        """Which of `length` tokens are real: (batch, length), boolean."""
        key = batch, length, device
        if key not in self._known:
            self._known[key] = self._map(model, *key)
        return self._known[key]

    def _map(self, model: nn.Module, batch: int, length: int, device: torch.device) -> Tensor:
        mask = self._mask
        if mask is None or mask.shape[0] != batch:
            return torch.ones(batch, length, dtype=torch.bool, device=device)
        if mask.shape[1] > length:
            names = (module for module in model.modules() if hasattr(module, "_get_feature_vector_attention_mask"))
            speech = next(names, None)
            if speech is not None:
                mask = speech._get_feature_vector_attention_mask(length, mask.long()).bool()
            else:
                mask = F.adaptive_max_pool1d(mask[:, None].float(), length)[:, 0] > 0
        elif mask.shape[1] < length:
            mask = F.pad(mask, (length - mask.shape[1], 0), value=True)
        return mask.to(device)
