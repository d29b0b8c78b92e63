"""Activation checkpointing: a layer keeps its input alone, and is computed again when its gradient is due."""

from transformers import PreTrainedModel

from dynamics.errors import InputError


def checkpoint_activations(network: PreTrainedModel) -> None:
    """Have every layer of a network forget its activations in training; `InputError` where transformers cannot.

    Random states are put back for the second pass, so that it drops out what the first did. Hooks of layers run once.
    """
    # Named anew in transformers 5.23.
    is_new = hasattr(network, "activation_checkpointing_enable")
    enable = network.activation_checkpointing_enable if is_new else network.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise InputError(
            f"model.activation_checkpointing: transformers has none for {type(network).__name__}; remove it."
        ) from error
    # Wanted where the embeddings are frozen; measured states must not ask for gradients.
    network.disable_input_require_grads()
