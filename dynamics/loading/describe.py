"""A model's layers, heads, width and mask, found by a forward pass of one input."""

from typing import Any

from dynamics.capture import AttentionCall, capture
from dynamics.errors import InputError
from dynamics.loading.inputs import Batch
from dynamics.loading.models import Loaded


def describe(loaded: Loaded, first: Batch) -> dict[str, Any]:
    """Return the facts of a model for the record; `first` is a batch of one input.

    Raises:
        InputError: the input has token ids that the model has no embeddings for.
    """
    config = loaded.config
    ids, size = first.get("input_ids"), getattr(config, "vocab_size", None)
    is_hashed = getattr(config, "model_type", "") == "canine"  # it takes every code point
    if ids is not None and size and not is_hashed and int(ids.max()) >= size:
        raise InputError(
            f"the tokenizer makes the id {int(ids.max())}, and the model has {size} embeddings: they do not belong "
            "together; name another with --tokenizer."
        )
    widths: list[int] = []
    causal: list[bool] = []

    def on_attention(call: AttentionCall) -> None:
        if call.key.shape[2] > 1:
            causal.append(bool((call.logits(0, 1).softmax(-1)[..., 1:] == 0).all()))

    sites = {"residual", "attention"}
    with capture(loaded.model, sites, lambda _, __, x, ___: widths.append(x.shape[-1]), on_attention) as tap:
        loaded.model(**{name: value.to(loaded.device) for name, value in first.items()})
    return {
        "layers": tap.layers,
        "heads": list(tap.heads),
        "width": widths[-1],
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "is_causal": all(causal) if causal else None,
        "config_class": None if config is None else type(config).__name__,
        "model_class": type(loaded.model).__name__,
    }
