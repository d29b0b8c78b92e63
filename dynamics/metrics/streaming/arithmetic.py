"""Precision: what sums of squares are taken in, and what is only rounding."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}
MODERN = hasattr(torch.backends, "fp32_precision")  # torch 2.9: once these are set, the getters before them may raise


class _Switch(NamedTuple):
    """A switch of the precision of float32 products, and the value that leaves them in float32."""

    read: Callable[[], Any]
    write: Callable[[Any], None]
    exact: Any


def _switches() -> list[_Switch]:
    """Return all switches, those that others inherit from first."""
    of: Any = torch.backends
    if not MODERN:
        matmul = _Switch(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")
        return [matmul, _Switch(lambda: of.cudnn.allow_tf32, partial(setattr, of.cudnn, "allow_tf32"), False)]
    places = [of, of.cudnn, of.mkldnn, of.cuda.matmul]
    places += [part for backend in (of.cudnn, of.mkldnn) for part in (backend.conv, backend.rnn)] + [of.mkldnn.matmul]
    name = "fp32_precision"
    return [_Switch(partial(getattr, place, name), partial(setattr, place, name), "ieee") for place in places]


@contextmanager
def full_precision() -> Iterator[None]:
    """Take products of float32 in float32 on every device, not in TF32 or bfloat16; put all switches back."""
    with ExitStack() as before:
        for switch in _switches():
            value = switch.read()
            if value != switch.exact:  # what inherits follows by itself, and keeps inheriting
                before.callback(switch.write, value)
                switch.write(switch.exact)
        yield


def multiplies_in_full(device: torch.device) -> bool:
    """Return whether products of float32 are taken in float32 on a device."""
    if not MODERN:
        return torch.get_float32_matmul_precision() == "highest"
    of: Any = torch.backends
    return (of.cuda if device.type == "cuda" else of.mkldnn).matmul.fp32_precision in ("none", "ieee")


def floating(x: Tensor) -> Float[Tensor, "..."]:
    """Return `x` in float32 or float64: half precision is no place to sum squares."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def in_float64(x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """Return `x` in float64, on the CPU where its device has none."""
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).double()


def precise(x: Tensor) -> torch.autocast:
    """Return a context in which products are taken in the precision of their factors."""
    return torch.autocast(x.device.type, enabled=False)


def self_product(x: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch d d"]:
    """Return x^T x over the last two axes."""
    width = x.shape[-1]
    with precise(x):
        if width < 128 or x.requires_grad or x.device.type != "cpu":
            return x.mT @ x
        product = x.new_empty(*x.shape[:-2], width, width)
        for start in range(0, width, step := -(-width // 8)):  # what is left of the diagonal mirrors what is right
            stop = start + step
            product[..., start:stop, start:] = x[..., start:stop].mT @ x[..., start:]
            product[..., stop:, start:stop] = product[..., start:stop, stop:].mT
        return product


def above_rounding(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Return eigenvalues, descending, with those set to 0 that only the rounding of the decomposition makes differ."""
    return values.where(values > values.shape[-1] * torch.finfo(values.dtype).eps * values[..., :1], 0)


def unresolved(power: Float[Tensor, "*batch"], precision: torch.dtype) -> Float[Tensor, "*batch"]:
    """Return the variance below which rows of mean square `power` are equal up to the rounding of `precision`."""
    return power * (4 * torch.finfo(precision).eps) ** 2


def all_equal(x: Float[Tensor, "n d"]) -> bool:
    """Return whether states are equal up to their rounding."""
    return bool(about_mean(x).isnan().any()) if len(x) and x.isfinite().all() else False


def about_mean(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch n d"]:
    """Return states less their mean; NaN where they are equal up to their rounding."""
    mean = x.double().mean(-2, keepdim=True)
    centred = x.double() - mean
    floor = x.shape[-2] * unresolved(mean.square().sum((-2, -1)), floating(x).dtype)
    return centred.where((centred.square().sum((-2, -1)) > floor)[..., None, None], torch.nan)
