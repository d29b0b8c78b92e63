"""Notices a model that changes its attention weights between the softmax and the product with the values.

A mask that multiplies the weights, weights normalised again, heads mixed with one another: what the values are weighted
with is then not the softmax that was heard. Operations that leave the numbers as they are (dropout in eval mode, casts,
views, a mask that the softmax has seen already) do not count, nor do rows set to zero as a whole: hidden queries.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from dynamics.capture.calls import Call

CHANGED = "its weights are changed after the softmax"
MATMUL = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}
SOFTMAX = {torch.softmax, torch.special.softmax, F.softmax, Tensor.softmax}
SIGMOID = {torch.sigmoid, torch.special.expit, F.sigmoid, Tensor.sigmoid}
_PRODUCTS = {*MATMUL, torch.einsum}
_LINEAR = {F.linear, F.conv1d, F.conv2d, torch.conv1d, torch.conv2d}
# By name: a tensor's method, its operator and torch's function are one.
_ELEMENTWISE = {"mul", "div", "add", "sub", "pow", "masked_fill", "where", "clamp", "relu", "softmax", "nan_to_num"}
_SAME_NUMBERS = {"to", "type_as", "float", "half", "bfloat16", "double", "dropout", "contiguous", "clone", "get"}
_VIEWS = {"getitem", "view", "reshape", "flatten", "unflatten", "permute", "transpose", "movedim", "squeeze"}
_LAYOUT = {*_SAME_NUMBERS, *_VIEWS, "unsqueeze", "expand"}
_TOLERANCE = 1e-2  # of a weight: rows that were rounded to 16 bits, and divided by their sum


class ProbabilityWatch:
    """The softmaxes that were heard, as long as the model holds them, and what was made of them."""

    def __init__(self) -> None:
        self._calls: Any = WeakIdKeyDictionary()  # the attention that weights belong to
        self._altered: Any = WeakIdKeyDictionary()  # those of them that are no longer the softmax
        self._before: Tensor | None = None
        self.changed: dict[Call, None] = {}

    def add(self, weights: Any, call: Call) -> None:
        """Follow the result of a softmax."""
        if isinstance(weights, Tensor):
            self._calls[weights] = call

    def before(self, func: Any, args: tuple[Any, ...]) -> None:
        """Keep what an operation in place is about to overwrite."""
        is_overwritten = bool(args) and self._is_followed(args[0]) and _name(func).endswith("_")
        self._before = args[0].clone() if is_overwritten else None

    def after(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note whether an operation changed weights, handed them on, or used them."""
        weights = next(filter(self._is_followed, (*args, *kwargs.values())), None)
        if weights is None:
            return
        call, is_altered, name = self._calls[weights], weights in self._altered, _name(func).rstrip("_")
        if func in _PRODUCTS and all(x.ndim > 2 for x in args if isinstance(x, Tensor)):
            if is_altered:
                self.changed[call] = None
            return
        if self._before is not None:
            result, is_altered = weights, is_altered or not _agree(self._before, weights)
        elif func in _PRODUCTS | _LINEAR:  # with parameters: heads mixed with one another
            is_altered = True
        elif name in _ELEMENTWISE:
            is_altered = is_altered or not _agree(weights, result)
        elif name not in _LAYOUT:
            return
        if isinstance(result, Tensor) and result.is_floating_point():
            self._calls[result] = call
            if is_altered:
                self._altered[result] = True

    def _is_followed(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x in self._calls


def _name(func: Any) -> str:
    """Return the name of an operation, with a `_` at its end where it works in place.

    >>> _name(torch.mul), _name(Tensor.__rmul__), _name(Tensor.__imul__), _name(Tensor.__setitem__)
    ('mul', 'mul', 'mul_', 'setitem_')
    """
    name = getattr(func, "__name__", "")
    if not name.startswith("__"):
        return name
    name = name.strip("_").removeprefix("true")
    if name == "setitem" or name in {"imul", "iadd", "isub", "idiv"}:
        return f"{name.removeprefix('i')}_"
    return name[1:] if name in {"rmul", "radd", "rsub", "rdiv"} else name


def _agree(weights: Tensor, other: Any) -> bool:
    """Return whether the rows of `other` are those of `weights`, or zero as a whole."""
    if not isinstance(other, Tensor) or other.shape != weights.shape:
        return False
    same = ((weights - other).abs() <= _TOLERANCE * weights.abs()) | ~weights.isfinite()
    return bool((same.all(-1) | (other == 0).all(-1)).all())
