"""What entered one attention, and its exact logits for any range of queries."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dynamics.capture.fused import Change, Scores


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What entered one attention, in the model's precision and on its device; nothing is copied.

    Attributes:
        layer: 1..L, as the layers run. Local attention (CANINE) makes several calls a layer, one for each chunk.
        query: as it enters the dot product, without the scaling.
        key: H is a multiple of H_kv, and query head h reads key head h // (H / H_kv).
        scaling: logits = scaling * query @ key^T + bias
        mask: None, boolean (true = visible) or additive, broadcastable to (B, H, T, S). None for a model that
            computes its own softmax; `scores` then holds its input.
        sinks: further logits of each query's softmax that belong to no key: they take probability from the keys.
        change: what a model's functions make of the logits (`flex_attention`).
        is_softmax: whether the weights are the softmax of the logits over the keys, or the sigmoid of each logit.
        is_causal: query i sees the keys 0..i only, on top of `mask`.
        valid: the queries that are not padding. Rows of padding may see no key at all.
        cross: the keys come from another sequence.
        value: what the weights sum, one head for each of the keys; None where the model does so in its own product.
    """

    layer: int
    query: Float[Tensor, "B H T d"]
    key: Float[Tensor, "B H_kv S d"]
    scaling: float
    mask: Shaped[Tensor, "..."] | None
    is_causal: bool
    valid: Bool[Tensor, "B T"]
    cross: bool = False
    scores: Float[Tensor, "B H T S"] | None = None
    sinks: Float[Tensor, "B H T columns"] | None = None
    change: Change | None = None
    is_softmax: bool = True
    value: Float[Tensor, "B H_kv S v"] | None = None

    @property
    def groups(self) -> int:
        """Query heads for each key head."""
        return self.query.shape[1] // self.key.shape[1]

    @property
    def key_valid(self) -> Bool[Tensor, "B S"]:
        """The keys that are not padding, as far as the queries say; else all."""
        same = self.key.shape[2] == self.query.shape[2] and not self.cross
        return self.valid if same else self.valid.new_ones(len(self.key), self.key.shape[2])

    def expanded_key(self) -> Float[Tensor, "B H S d"]:
        """Return the keys with one head for every query head, a copy if heads are shared."""
        return self.key.repeat_interleave(self.groups, 1)

    def reach(self, stop: int) -> int:
        """Return how many of the first keys are enough for the queries before `stop`."""
        return min(stop, self.key.shape[2]) if self.is_causal else self.key.shape[2]

    def logits(self, start: int, stop: int, keys: int | None = None) -> Float[Tensor, "B H queries keys"]:
        """Return the masked logits of the queries `start` to `stop` over the first `keys` keys (all by default).

        In float32, or float64 if the queries are, as they enter the softmax. Hidden keys hold -inf, for the least
        number of a type too; any other number that hides them is left as it is. `keys=call.reach(stop)` saves a causal
        model half the work.
        """
        keys = self.key.shape[2] if keys is None else keys
        dtype = torch.promote_types(self.query.dtype, torch.float32)
        if self.scores is not None:
            logits = self.scores[:, :, start:stop, :keys].to(dtype, copy=True)
            return logits.masked_fill_(logits <= torch.finfo(self.scores.dtype).min / 2, -torch.inf)
        query = self.query[:, :, start:stop].to(dtype) * self.scaling
        batch, heads, rows, width = query.shape
        query = query.reshape(batch, self.key.shape[1], -1, width)
        with torch.autocast(query.device.type, enabled=False):
            logits = query @ self.key[:, :, :keys].to(dtype).transpose(-1, -2)
        logits = logits.view(batch, heads, rows, keys)
        if self.mask is not None:
            mask = self.mask if self.mask.shape[-2] == 1 else self.mask[..., start:stop, :]
            mask = mask if mask.shape[-1] == 1 else mask[..., :keys]
            boolean = mask.dtype == torch.bool
            hidden = ~mask if boolean else mask <= torch.finfo(mask.dtype).min / 2
            logits = (logits if boolean else logits.add_(mask)).masked_fill_(hidden, -torch.inf)
        if self.change is not None:
            logits = self.change(logits, start)
        if self.is_causal:
            at = torch.arange(max(keys, start + rows), device=logits.device)
            logits = logits.masked_fill_(at[None, :keys] > at[start : start + rows, None], -torch.inf)
        return logits


def attention_call(
    layer: int, module: Any, scores: Scores, shape: tuple[int, int], cross: bool, valid: Callable[..., Tensor | None]
) -> AttentionCall | None:
    """Return the call that `module` made, in the one form above, however the model laid its tensors out.

    `shape` is the batch and length of the layer's input; `valid(batch, rows, device)` marks queries not padding. None
    if it returns None.
    """
    batch, tokens = shape
    query, key = _four(scores.query, batch), _four(scores.key, batch)
    rest = scores.logits, scores.sinks, scores.value
    logits, sinks, value = (None if x is None else _four(x, batch) for x in rest)
    mask, scaling = scores.mask, scores.scaling
    if mask is not None and scores.query.ndim == 3 and mask.ndim == 3:
        mask = _four(mask, min(batch, mask.shape[0]))
    groups = getattr(module, "num_key_value_groups", 1)
    if groups > 1 and query.shape[1] == key.shape[1]:
        if tokens == 1 and query.shape[2] == groups:
            # transformers lays the heads of a group along the token axis when there is one query
            query = query.flatten(1, 2).unsqueeze(2)
            if mask is not None and mask.ndim == 4 and mask.shape[2] == groups:
                mask = mask.flatten(1, 2).unsqueeze(2)
        else:
            key, value = key[:, ::groups], None if value is None else value[:, ::groups]
    of_module = getattr(module, "scaling", None)
    if scaling == 1.0 and isinstance(of_module, float) and of_module != 1.0:
        # OPT and Whisper scale their queries before the attention
        query, scaling = query / of_module, of_module
    real = valid(query.shape[0], query.shape[2], query.device)
    if real is None:
        return None
    form = scores.change, scores.is_softmax, value
    return AttentionCall(layer, query, key, scaling, mask, scores.is_causal, real, cross, logits, sinks, *form)


def _four(x: Shaped[Tensor, "..."], batch: int) -> Shaped[Tensor, "B H T d"]:
    """Return (batch * heads, T, d) or (batch, windows, ..., heads, T, d) as (batch, heads, T, d)."""
    if x.ndim == 4:
        return x
    return x.unflatten(0, (batch, -1)) if x.ndim == 3 else x.flatten(0, -4)
