"""What a model is, told by a pass of one input."""

from typing import Any

import torch

from dynamics.capture import AttentionCall, capture
from dynamics.errors import InputError
from dynamics.loading.inputs import Batches
from dynamics.loading.models import Loaded


def describe(loaded: Loaded, batches: Any) -> dict[str, Any]:
    """Layers, heads, width, and whether a token sees what follows it: told by a pass of one input."""
    first = batches.first if isinstance(batches, Batches) else {k: v[:1] for k, v in batches[0].items()}
    ids, size = first.get("input_ids"), getattr(loaded.config, "vocab_size", None)
    hashed = getattr(loaded.config, "model_type", "") == "canine"  # it takes every code point
    if ids is not None and size and not hashed and int(ids.max()) >= size:
        raise InputError(
            f"the tokenizer gives the id {int(ids.max())} and the model knows {size}: they do not belong together; "
            "name another with --tokenizer."
        )
    widths: list[int] = []
    causal: list[bool] = []

    def on_attention(call: AttentionCall) -> None:
        if call.key.shape[2] > 1:
            causal.append(bool(call.logits(0, 1)[..., 1:].isneginf().all()))

    device = next((p.device for p in loaded.model.parameters()), torch.device("cpu"))
    sites = {"residual", "attention"}
    with capture(loaded.model, sites, lambda _, __, x, ___: widths.append(x.shape[-1]), on_attention) as tap:
        loaded.model(**{name: value.to(device) for name, value in first.items()})
    return {
        "layers": tap.layers,
        "heads": list(tap.heads),
        "width": widths[-1],
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "is_causal": all(causal) if causal else None,
        "config_class": type(loaded.config).__name__ if loaded.config is not None else None,
        "model_class": type(loaded.model).__name__,
    }
