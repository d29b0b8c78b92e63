"""Batches in any common form, as the keyword arguments of a model's forward."""

from collections.abc import Iterable, Iterator, Mapping
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynamics.errors import InputError
from dynamics.metrics.streaming.transfer import sent

Batches = Iterable[Any] | Mapping[str, Any] | Tensor  # what `arguments` takes
# Arguments that carry an input, beside the one that a model calls its main input.
INPUTS = ("input_ids", "inputs_embeds", "pixel_values", "input_values", "input_features")
EXPECTED = 'give mappings of arguments to tensors, such as {"input_ids": (B, T), "attention_mask": (B, T)}'


def arguments(model: nn.Module, batches: Batches) -> Iterator[dict[str, Any]]:
    """Yield each batch as the keyword arguments of `model.forward`, the tensor that carries the input first.

    A batch is a mapping (also a `BatchEncoding`), a tensor, an array, rows of numbers, or a tuple of one of these
    (`TensorDataset`); without a name it is the main input. One mapping, tensor or array alone is one batch. Arrays and
    rows of numbers become tensors, gradients are dropped, a sequence without a batch axis is one row, and a floating
    input takes the precision of the weights; anything else, such as a flag, is passed on as it is.

    Raises:
        InputError: something else, values that form no tensor, an argument that the model does not take, no input.
    """
    if isinstance(batches, Mapping | Tensor | np.ndarray):
        batches = [batches]
    is_iterable = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")  # a map-style dataset has the second
    if isinstance(batches, str | bytes) or not is_iterable:
        raise InputError(f"batches of type {type(batches).__name__} cannot be measured: {EXPECTED}.")
    takes, main = _signature(model)
    for number, batch in enumerate(iter(batches), start=1):
        yield _arguments(batch, f"batch {number}", takes, main, _precision(model))


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a batch with its tensors on a device."""
    return {name: sent(value, device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _arguments(
    batch: Any, where: str, takes: set[str] | None, main: str | None, dtype: torch.dtype | None
) -> dict[str, Any]:
    named = {name: _value(value, f"{name} of {where}") for name, value in _named(batch, where, main).items()}
    if unknown := [str(name) for name in named if takes is not None and name not in takes]:
        raise InputError(f"{where}: the model takes no argument {', '.join(unknown)}; leave it out of the batch.")
    tensors = {name: x for name, x in named.items() if isinstance(x, Tensor) and x.ndim}
    order = [main, *INPUTS, *(name for name in tensors if "mask" not in name)]
    first = next((name for name in order if name in tensors), None)
    if first is None:
        raise InputError(f"{where} has no input of the model among its tensors: {EXPECTED}.")
    if tensors[first].ndim == 1:
        named |= {name: x[None] for name, x in tensors.items()}
    if not named[first].numel():
        raise InputError(f"{where} is empty: {first} has the shape {tuple(named[first].shape)}; leave it out.")
    if dtype is not None and named[first].is_floating_point():
        named[first] = named[first].to(dtype)
    return {first: named.pop(first), **named}


def _named(batch: Any, where: str, main: str | None) -> Mapping[str, Any]:
    """Return the values of a batch by name."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, list | tuple) and batch and all(isinstance(x, Tensor | np.ndarray | Mapping) for x in batch):
        if len(batch) > 1:
            raise InputError(f"{where} holds {len(batch)} values without names: {EXPECTED}.")
        return _named(batch[0], where, main)
    if isinstance(batch, Tensor | np.ndarray) or _is_numbers(batch):
        if main is None:
            raise InputError(f"{where} has no names, and the model's forward names no input: {EXPECTED}.")
        return {main: batch}
    raise InputError(f"{where} is of type {type(batch).__name__}: {EXPECTED}.")


def _value(value: Any, where: str) -> Any:
    """Return a tensor of what holds numbers, anything else as it is."""
    if isinstance(value, list | tuple) and value and all(isinstance(x, Tensor) for x in value) and value[0].ndim < 2:
        # `default_collate` of lists of numbers makes such: rows and columns are exchanged.
        raise InputError(f"{where} is a list of {len(value)} tensors: stack them into one of shape (B, T).")
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, np.ndarray) and not _is_numbers(value):
        return value
    try:
        array = np.array(value)
    except ValueError as error:
        raise InputError(f"{where} has rows of different lengths: pad them, and add an attention_mask.") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"{where} must hold numbers (its elements are of type {array.dtype}).")
    if array.dtype.kind in "iu":
        array = array.astype(np.int64)
    elif array.dtype.kind == "f" and not isinstance(value, np.ndarray):
        array = array.astype(np.float32)
    return torch.from_numpy(array)


def _is_numbers(value: Any) -> bool:
    """Whether a value is a list of numbers, or of such lists, arrays."""
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(x, int | float | np.number | np.ndarray) or _is_numbers(x) for x in value)


def _signature(model: nn.Module) -> tuple[set[str] | None, str | None]:
    """Return the names that a model's forward takes (None: any name), and that of its main input."""
    network: Any = getattr(model, "_orig_mod", model)
    parameters = dict(signature(network.forward).parameters)
    kinds = {name: item.kind for name, item in parameters.items()}
    takes_any = Parameter.VAR_KEYWORD in kinds.values()
    names = [name for name, kind in kinds.items() if kind is Parameter.POSITIONAL_OR_KEYWORD]
    main = getattr(network, "main_input_name", None)
    main = main if main in names or (main and takes_any) else next(iter(names), None)
    return None if takes_any else {name for name, kind in kinds.items() if kind is not Parameter.VAR_POSITIONAL}, main


def _precision(model: nn.Module) -> torch.dtype | None:
    """Return the floating type that all weights share; None where they share none."""
    kinds = {x.dtype for x in model.parameters() if x.is_floating_point()}
    return kinds.pop() if len(kinds) == 1 else None
