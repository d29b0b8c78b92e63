"""Which tokens are real: the model's 2-D attention mask, carried to the token axis of any layer."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HIDDEN = ("src_key_padding_mask", "key_padding_mask")


class Padding:
    """Reads the mask of each forward pass and answers for any length.

    Speech models map their samples to frames themselves. Otherwise a shorter axis pools the mask (a token is real
    if anything it came from is), and a longer one has extra tokens in front (classes, registers, prompts), which
    are real. Without a mask everything is.
    """

    def __init__(self) -> None:
        self.mask: Tensor | None = None
        self._known: dict[tuple[int, int, torch.device], Tensor] = {}

    def read(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Take the mask from the arguments of a call of `module`."""
        names = inspect.signature(module.forward).parameters
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        mask = given.get("attention_mask")
        if mask is None:
            mask = next((~given[name].bool() for name in _HIDDEN if isinstance(given.get(name), Tensor)), None)
        if mask is None or mask.ndim == 2:
            self.mask = None if mask is None else mask.bool()
            self._known.clear()

    def valid(self, model: nn.Module, batch: int, length: int, device: torch.device) -> Tensor:
        """Which of `length` tokens are real: (batch, length), boolean."""
        key = batch, length, device
        if key not in self._known:
            self._known[key] = self._map(model, *key)
        return self._known[key]

    def _map(self, model: nn.Module, batch: int, length: int, device: torch.device) -> Tensor:
        mask = self.mask
        if mask is None or mask.shape[0] != batch:
            return torch.ones(batch, length, dtype=torch.bool, device=device)
        if mask.shape[1] > length:
            for module in model.modules():
                if hasattr(module, "_get_feature_vector_attention_mask"):
                    mask = module._get_feature_vector_attention_mask(length, mask.long()).bool()
                    break
            else:
                mask = F.adaptive_max_pool1d(mask[:, None].float(), length)[:, 0] > 0
        elif mask.shape[1] < length:
            mask = F.pad(mask, (length - mask.shape[1], 0), value=True)
        return mask.to(device)
