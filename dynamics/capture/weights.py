"""The query and key projections of every layer: which rows of which weight matrices make up which head.

Names and layouts differ from model to model (apart, fused, by head, by group, transposed), so none is assumed: a
model is asked. Every product with a weight matrix is replaced by a code of plus and minus ones, one for each
row of the matrix, and what arrives at the attention says where it came from. Reshaping moves codes about, a norm
of queries or keys multiplies them, a bias shifts them, the rotation of the first position leaves them alone. What
arrives is believed only if it is the code of one row, up to a factor and a shift, in every pass.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dynamics.capture.attention import AttentionCall
from dynamics.capture.tap import capture
from dynamics.errors import InputError

_OPERANDS = {
    F.linear: ("input", "weight", "bias"),
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm), ("input", "weight")),
    **dict.fromkeys((torch.addmm, Tensor.addmm), ("bias", "input", "weight")),
    torch.einsum: ("equation", "input", "weight"),
    **dict.fromkeys((F.conv1d, F.conv2d), ("input", "weight", "bias", "stride", "padding", "dilation", "groups")),
}
_ALIASES = {"other": "weight", "mat1": "input", "mat2": "weight"}

_BLOCK = 4
"""Codes sum to zero over as many rows: a layer norm over them then does no more than an RMS norm."""

_CHECKS = 3
"""Passes that come before those that spell the code: as it is, all signs changed, every second token's changed."""


@dataclass(frozen=True)
class _Matrix:
    """A view of a parameter as a matrix whose rows are outputs."""

    parameter: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def of(self, model: nn.Module) -> Tensor:
        """Its present values."""
        parameter = model.get_parameter(self.parameter).detach()
        return parameter.as_strided(self.size, self.stride, parameter.storage_offset() + self.offset)


class _Heads(NamedTuple):
    """Where a projection is: `index` (heads, d_h) counts the rows of the `matrices`, one after the other."""

    matrices: tuple[_Matrix, ...]
    index: Tensor

    def of(self, model: nn.Module) -> Tensor:
        """The projection (heads, d_h, d) as it is now."""
        return torch.cat([matrix.of(model) for matrix in self.matrices])[self.index]


_Layout = dict[int, tuple[_Heads, _Heads]]
_LAYOUTS: WeakKeyDictionary[nn.Module, tuple[int, _Layout]] = WeakKeyDictionary()


def layer_weights(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[int, tuple[Tensor, Tensor]]:
    """The query and key projections of every layer that has them, as they are now.

    Where they lie is learnt from `batch` (about 40 passes of its first row without any matrix product) the first
    time a model is seen; after that they are only read. Model and random state are left as they are.

    Args:
        model: any module; of a compiled one the original.
        batch: what the model's `forward` is called with, by name.

    Returns:
        (W_q, W_k) of shapes (H, d_h, d) and (H_kv, d_h, d) by layer, 1..L, new tensors in the model's precision:
        q = W_q x + b and k = W_k x + b' for the same x, before rotary positions, norms and scaling. A layer is
        left out if it has no such form: no attention; keys of other states than the queries (pooled,
        convolved, latent); weights that are put together as the model runs (adapters, parametrisations).

    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    >>> weights = layer_weights(model, {"src": torch.randn(3, 5, 8)})
    >>> query, key = weights[2]
    >>> list(weights), bool((query.flatten(0, 1) == model.layers[1].self_attn.in_proj_weight[:8]).all())
    ([1, 2], True)
    """
    model = getattr(model, "_orig_mod", model)
    shape = hash(tuple((name, parameter.shape) for name, parameter in model.named_parameters()))
    known = _LAYOUTS.get(model)
    if known is None or known[0] != shape:
        known = _LAYOUTS[model] = (shape, _learn(model, batch))
    return {layer: (query.of(model), key.of(model)) for layer, (query, key) in known[1].items()}


class _Enough(Exception):
    """The last attention was heard: the rest of the pass says nothing."""


def _learn(model: nn.Module, batch: Mapping[str, Tensor]) -> _Layout:
    """Which rows arrive where, for every layer of which it is certain."""
    like = next((x for x in model.parameters() if x.is_floating_point()), torch.empty(0))
    rows = slice(1 if len({x.shape[:1] for x in batch.values()}) == 1 else None)
    batch = {name: x[rows].to(like if x.is_floating_point() else like.device) for name, x in batch.items()}
    products = _Products(model)
    heard: dict[int, list[list[Tensor]]] = defaultdict(list)
    inputs: dict[int, dict[_Matrix, Any]] = {}
    turn = -1

    def hear(call: AttentionCall) -> None:
        if turn < 0:
            inputs.setdefault(call.layer, dict(products.inputs))
        elif len(heard[call.layer]) == turn:  # of the chunks of local attention the first will do
            first = int(call.valid[0].int().argmax())
            tokens = [(x, min(first, x.shape[2] - 1)) for x in (call.query, call.key)]
            heard[call.layer].append([x[0][:, [0, token, -1]].mT for x, token in tokens])
            if call.layer == max(inputs):
                raise _Enough

    with products, capture(model, ["residual", "query"], lambda *_: None, hear) as tap:
        model(**batch)
        if not tap.has_attention:
            return {}
        codes = _codes(products.count)
        try:
            for turn, code in enumerate(codes):
                products.code, products.alternate = code, turn == _CHECKS - 1
                with suppress(_Enough):
                    model(**batch)
        except InputError:  # a model that took another way through its layers
            return {}
    layout = {}
    for layer, turns in heard.items():
        found = [_rows(torch.stack(x), codes) for x in zip(*turns, strict=True)]
        if len(turns) == len(codes) and all(rows is not None for rows in found):
            query, key = (_heads(rows, products.rows) for rows in found)
            if len({inputs[layer].get(matrix) for matrix in query.matrices + key.matrices}) == 1:
                layout[layer] = query, key
    return layout


class _Products(TorchFunctionMode):
    """Watches the products with weight matrices; with a `code`, gives its rows instead of them.

    `rows` holds the first row of each matrix in the count of all, `inputs` what each was last multiplied with.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.code: Tensor | None = None
        self.alternate = False
        self.rows: dict[_Matrix, int] = {}
        self.inputs: dict[_Matrix, Any] = {}
        self.count = 0
        self._parameters: dict[int, list[tuple[str, Tensor]]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            self._parameters[parameter.untyped_storage().data_ptr()].append((name, parameter))

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        product = _product(func, args, kwargs)
        matrix = None if product is None else self._matrix(product.weight)
        if product is None or matrix is None or (self.code is not None and matrix not in self.rows):
            return func(*args, **kwargs)
        x, rows = product.x, matrix.size[0]
        if self.code is None:
            if matrix not in self.rows:
                self.rows[matrix] = self.count
                self.count += math.ceil(rows / _BLOCK) * _BLOCK
            # sums over the tokens tell inputs apart, in whatever order the tokens are
            self.inputs[matrix] = x.numel(), float(x.float().sum()), float(x.float().norm())
            return func(*args, **kwargs)
        code = self.code[self.rows[matrix] :][:rows].to(x)
        result = code.repeat(x[..., 0].numel(), 1)
        if self.alternate:
            result[1::2].neg_()
        return product.shape(result.view(*x.shape[:-1], rows))

    def _matrix(self, weight: Tensor) -> _Matrix | None:
        """The parameter that `weight`, a view, shows."""
        for name, parameter in self._parameters.get(weight.untyped_storage().data_ptr(), ()):
            offset = weight.storage_offset() - parameter.storage_offset()
            if weight.dtype == parameter.dtype and 0 <= offset < parameter.numel():
                return _Matrix(name, tuple(weight.shape), weight.stride(), offset)
        return None


class _Product(NamedTuple):
    """`x` (..., inputs) times `weight` (outputs, inputs), which `shape` brings from (..., outputs) into place."""

    x: Tensor
    weight: Tensor
    shape: Callable[[Tensor], Tensor] = lambda result: result


def _product(func: Callable, args: tuple, kwargs: dict[str, Any]) -> _Product | None:
    """The product with a matrix that this call may be."""
    names = _OPERANDS.get(func)
    if names is None:
        return None
    given = dict(zip(names, args, strict=False)) | {_ALIASES.get(key, key): x for key, x in kwargs.items()}
    x, weight = given.get("input"), given.get("weight")
    if not given.keys() <= set(names) or not isinstance(x, Tensor) or not isinstance(weight, Tensor):
        return None
    if func is torch.einsum:
        return _of_einsum(given["equation"], x, weight)
    if "stride" in names:
        pointwise = x.ndim == weight.ndim and weight.shape[1:] == (x.shape[1], *[1] * (x.ndim - 2))
        whole = _all(given.get("stride", 1), 1) and _all(given.get("padding", 0), 0)
        last = _Product(x.movedim(1, -1), weight.flatten(1), lambda y: y.movedim(-1, 1).contiguous())
        return last if pointwise and whole else None
    if weight.ndim != 2:
        return None
    return _Product(x, weight if func is F.linear else weight.mT)


def _all(setting: Any, value: int) -> bool:
    return set(setting if isinstance(setting, tuple) else [setting]) == {value}


def _of_einsum(equation: Any, x: Tensor, weight: Tensor) -> _Product | None:
    """`...i,io->...o`, the outputs on any number of axes."""
    left, _, rest = str(equation).replace(" ", "").partition(",")
    right, _, output = rest.partition("->")
    inner, free = left[-1:], right.replace(left[-1:], "", 1)
    if len(right) != weight.ndim or inner not in right or output != left[:-1] + free or set(left) & set(free):
        return None
    sizes = [size for letter, size in zip(right, weight.shape, strict=True) if letter != inner]
    matrix = weight.movedim(right.index(inner), -1).flatten(0, -2)
    return _Product(x, matrix, lambda y: y.unflatten(-1, sizes))


def _codes(count: int) -> Tensor:
    """One code of plus and minus ones for each of `count` rows: (passes, count), always the same."""
    generator = torch.Generator().manual_seed(0)
    passes = _CHECKS + min(2 * count.bit_length() + 12, 62)
    while True:
        order = torch.rand(passes, count // _BLOCK, _BLOCK, generator=generator).argsort(-1)
        codes = (2 * (order < _BLOCK // 2).to(torch.int8) - 1).flatten(1)
        codes[1], codes[2] = -codes[0], codes[0]
        if len(_spelt(codes[_CHECKS:] != codes[0]).unique()) == count:
            return codes


def _spelt(bits: Tensor) -> Tensor:
    """Bits along the first axis as one number."""
    places = 2 ** torch.arange(len(bits)).view(-1, *[1] * (bits.ndim - 1))
    return (bits.cpu() * places).sum(0)


def _rows(heard: Tensor, codes: Tensor) -> Tensor | None:
    """The rows (H, d_h) whose codes were heard, (passes, H, d_h, tokens); None unless all are certain.

    A rotated token mixes two rows and shows more than two values; one token, the first or the first that is no
    padding, is at position 0. A token that heard others is neither as it was nor with all signs changed.
    """
    moved = (heard - heard[0]).float()
    share = moved / moved[1]  # 0: the sign of the first pass, 1: the other sign; the factor and the shift are gone
    exact = ((share - share.round()).abs() < 1e-3) & (share.round().abs() < 2) & (share.round() >= 0)
    if not exact[_CHECKS - 1].all():
        return None
    numbers, order = _spelt(codes[_CHECKS:] != codes[0]).sort()
    for token in (0, 1):
        bits = _spelt(share[_CHECKS:, ..., token].round() == 1)
        place = torch.searchsorted(numbers, bits).clamp(max=len(numbers) - 1)
        if exact[..., token].all() and torch.equal(numbers[place], bits):
            return order[place]
    return None


def _heads(rows: Tensor, starts: dict[_Matrix, int]) -> _Heads:
    """Rows counted over all matrices, counted over their own."""
    matrices, first = list(starts), torch.tensor(list(starts.values()))
    owner = torch.searchsorted(first, rows, right=True) - 1
    own, which = owner.unique(return_inverse=True)
    used = tuple(matrices[i] for i in own.tolist())
    sizes = torch.tensor([0, *(matrix.size[0] for matrix in used)]).cumsum(0)
    return _Heads(used, rows - first[owner] + sizes[which])
