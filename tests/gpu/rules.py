"""What CUDA does with an operation: where the host waits, what is refused, what is not deterministic."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tests.gpu.tensor import DeviceTensor

COPIES = {"_to_copy", "copy_"}
# Beside views: what only makes or reads a tensor's description.
WITHOUT_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "set_", "resize_"),
    *("_local_scalar_dense", "_linalg_check_errors", "is_same_size", "record_stream", "detach_"),
}
# Whose results, or whose check for errors, the host waits for.
WAITING = {
    *("_local_scalar_dense", "equal", "nonzero", "masked_select", "bincount", "histc", "_linalg_check_errors"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive"),
    *("_linalg_eigh", "_linalg_svd", "_linalg_eigvals", "linalg_eig", "linalg_lstsq"),
}
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm"}
# For which `torch.use_deterministic_algorithms` documents an error on CUDA, as far as transformers may need them.
NONDETERMINISTIC: dict[str, Callable[..., bool]] = {
    "kthvalue": lambda *_: True,
    "median": lambda x, *dim: bool(dim),
    "nanmedian": lambda x, *dim: bool(dim),
    "cumsum": lambda x, *_: x.is_floating_point(),
    "histc": lambda x, *_: x.is_floating_point(),
    "bincount": lambda x, weights=None, *_: weights is not None,
    "put_": lambda x, index, source, accumulate=False: not accumulate,
    "scatter_reduce": lambda *_: True,
    "_adaptive_avg_pool2d_backward": lambda *_: True,
    "upsample_bilinear2d_backward": lambda *_: True,
    "upsample_bicubic2d_backward": lambda *_: True,
}


def waits(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], place: torch.device) -> Iterator[str]:
    """Yield why the host waits for an operation on `place`: for what sync-debug mode would complain of."""
    if name in COPIES:
        source, to = (args[0], place) if name == "_to_copy" else (args[1], args[0].device)
        if source.device.type != to.type and not _is_asynchronous(name, args, kwargs):
            yield f"copy to the {'device' if to.type == 'cuda' else 'host'}"
    elif name in INDEXING:
        indices = [x for x in args[1] if x is not None]
        # One number for all that a mask marks is filled in without counting the marks.
        fills = "put" in name and args[2].numel() == 1 and args[2].device.type == "cpu" and len(indices) == 1
        for index in indices:
            if index.dtype in (torch.bool, torch.uint8) and not fills:
                yield "boolean index"
            if not isinstance(index, DeviceTensor) and index.ndim:
                yield "copy to the device"
    elif name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        yield name


def is_pageable_copy(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], place: torch.device) -> bool:
    """Return whether an asynchronous copy to the device is none, since its source is not page-locked."""
    if name not in COPIES or not _is_asynchronous(name, args, kwargs):
        return False
    source, to = (args[0], place) if name == "_to_copy" else (args[1], args[0].device)
    return source.device.type == "cpu" and to.type == "cuda" and not is_pinned(source)


def _is_asynchronous(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("non_blocking", name == "copy_" and args[2:] == (True,)))


def is_pinned(x: torch.Tensor) -> bool:
    return getattr(x if x._base is None else x._base, "is_page_locked", False)


def pin(x: torch.Tensor) -> torch.Tensor:
    """Return a copy in page-locked memory."""
    copy = x.clone()
    copy.is_page_locked = True  # type: ignore[attr-defined]
    return copy


def refuse_mix(name: str, func: Any, tensors: list[torch.Tensor]) -> None:
    """Raise where CUDA would: numbers of the CPU may stand beside tensors of a device, and so may indices."""
    if name in INDEXING:
        tensors = [tensors[0], *(x for x in tensors[1:] if x.is_cuda or x.is_floating_point())]
    places = {str(x.device) for x in tensors if x.ndim or x.device.type != "cpu"}
    if len(places) > 1:
        found = ", ".join(sorted(places))
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two: {found} ({func})")


def is_nondeterministic(name: str, args: tuple[Any, ...]) -> bool:
    """Return whether an operation has no deterministic kernel; raises where torch was asked for none but these."""
    is_strict = torch.are_deterministic_algorithms_enabled()
    is_strict = is_strict and not torch.is_deterministic_algorithms_warn_only_enabled()
    if is_strict and name in PRODUCTS and "CUBLAS_WORKSPACE_CONFIG" not in os.environ:
        raise RuntimeError(f"{name} is not deterministic on CUDA without CUBLAS_WORKSPACE_CONFIG=:4096:8")
    if name not in NONDETERMINISTIC or not NONDETERMINISTIC[name](*args):
        return False
    if is_strict:
        raise RuntimeError(f"{name} does not have a deterministic implementation on CUDA")
    return True
