"""The query and key projections of every layer: which rows of which weight matrices make up which head.

No names or layouts (separate, fused, by head, by group, transposed) are assumed. Every product with a weight matrix is
replaced by a code of plus and minus ones, one for each row of the matrix, and the queries and keys that enter the
attention are decoded. Reshaping moves codes about, a norm of queries or keys multiplies them, a bias shifts them, the
rotation of the first position leaves them alone. A projection is accepted only if every entry of a head is the code of
one row, up to a factor and a shift, in every pass.
"""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dynamics.capture.attention import AttentionCall
from dynamics.capture.state import input_device
from dynamics.capture.tap import capture
from dynamics.errors import InputError
from dynamics.sharded import whole

aten = torch.ops.aten

_BLOCK = 4  # codes sum to zero over as many rows: a layer norm over them then does no more than an RMS norm
NOT_LINEAR = "its queries or keys are no linear projection that is stored as a matrix"
OFFLOADED = "the model's weights are offloaded"
_CHECKS = 3  # passes before those that spell the code: as it is, all signs changed, every second token's signs changed


@dataclass(frozen=True)
class _Matrix:
    """A view of a parameter as a matrix whose rows are outputs."""

    parameter: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def read(self, model: nn.Module) -> Float[Tensor, "rows d"]:
        parameter = whole(model.get_parameter(self.parameter).detach())
        return parameter.as_strided(self.size, self.stride, int(parameter.storage_offset()) + self.offset)


class _Projection(NamedTuple):
    """Where a projection is stored: `rows` counts the rows of the `matrices`, one after the other. What they are
    multiplied with was made by the rows `latent` of `inner`, if there is one, and by nothing else.
    """

    matrices: tuple[_Matrix, ...]
    rows: Int[Tensor, "H d_h"]
    inner: _Matrix | None = None
    latent: slice = slice(None)

    def read(self, model: nn.Module) -> Float[Tensor, "H d_h d"]:
        matrices = torch.cat([matrix.read(model) for matrix in self.matrices])
        outer = matrices[self.rows.to(matrices.device, non_blocking=True)]
        return outer if self.inner is None else outer @ self.inner.read(model)[self.latent]


_Place = tuple[str, int]  # the stack and number of a layer
_Pair = tuple[Float[Tensor, "_ d_h d"], Float[Tensor, "_ d_h d"]]
_Layout = dict[_Place, tuple[_Projection, _Projection]]
_LAYOUTS: WeakKeyDictionary[nn.Module, tuple[int, _Layout, dict[_Place, str]]] = WeakKeyDictionary()


def layer_weights(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[int, _Pair]:
    """Return the query and key projections of every layer that has them, as they are now.

    Where they are stored is learnt from `batch`, keyword arguments of the model's `forward` (about 40 passes of its
    first row without any matrix product), the first time a model is seen; of a compiled one the original is read.

    Returns:
        (W_q, W_k) of shapes (H, d_h, d) and (H_kv, d_h, d) by layer, 1..L, new tensors in the model's precision:
        q = W_q x + b and k = W_k x + b' for the same x, before rotary positions, norms and scaling; the product of two
        matrices where a latent lies between. A layer is left out if it has no such form: no attention; keys of other
        states than the queries (pooled, convolved); a norm of the latent; weights that are put together as the model
        runs (adapters, parametrisations).

    Raises:
        InputError: the model has several stacks of layers; `find_weights` names them.

    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    >>> weights = layer_weights(model, {"src": torch.randn(3, 5, 8)})
    >>> query, key = weights[2]
    >>> list(weights), bool((query.flatten(0, 1) == model.layers[1].self_attn.in_proj_weight[:8]).all())
    ([1, 2], True)
    """
    pairs = find_weights(model, batch)[0]
    if len({stack for stack, _ in pairs}) > 1:
        raise InputError(f"{type(model).__name__} has several stacks of layers: read the weights of one of them.")
    return {layer: pair for (_, layer), pair in pairs.items()}


def find_weights(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[dict[_Place, _Pair], dict[_Place, str]]:
    """Return what `layer_weights` does, by stack and layer, and why each layer that is left out has no such form."""
    model = getattr(model, "_orig_mod", model)
    shape = hash(tuple((name, parameter.shape) for name, parameter in model.named_parameters()))
    cached = _LAYOUTS.get(model)
    if cached is None or cached[0] != shape:
        cached = _LAYOUTS[model] = (shape, *_learn(model, batch))
    return {place: (query.read(model), key.read(model)) for place, (query, key) in cached[1].items()}, cached[2]


class _LastAttention(Exception):
    """The last layer's attention was captured."""


def _learn(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[_Layout, dict[_Place, str]]:
    """Find the rows that arrive at the attention of every layer of which it is certain; say why where it is not."""
    like = next((x for x in model.parameters() if x.is_floating_point()), torch.empty(0))
    tensors = {name: x for name, x in batch.items() if isinstance(x, Tensor) and x.ndim}  # beside flags
    rows = slice(1 if len({x.shape[:1] for x in tensors.values()}) == 1 else None)
    device, unclear = input_device(model), OFFLOADED if any(x.is_meta for x in model.parameters()) else NOT_LINEAR
    of_inputs = {k: x[rows].to(device, like.dtype if x.is_floating_point() else None) for k, x in tensors.items()}
    batch, products = {**batch, **of_inputs}, _WeightProducts(model)
    passes: dict[_Place, list[list[Tensor]]] = defaultdict(list)  # by layer: of each pass the queries and keys
    inputs: dict[_Place, tuple[dict[_Matrix, _Input], dict[_Matrix, _Source]]] = {}
    widths: dict[_Place, set[int]] = defaultdict(set)  # of the states before and after each layer
    stacks, turn = [""], -1  # the stack at work stands last

    def on_states(site: str, layer: int, x: Tensor, valid: Tensor) -> None:
        products.made.clear()
        widths[stacks[-1], layer].add(x.shape[-1])
        widths[stacks[-1], layer + 1].add(x.shape[-1])

    def on_attention(call: AttentionCall) -> None:
        place = stacks[-1], call.layer
        if turn < 0:
            inputs.setdefault(place, (dict(products.inputs), dict(products.sources)))
        elif len(passes[place]) == turn:  # of the chunks of local attention the first is enough
            first = int(call.valid[0].int().argmax())
            passes[place].append([x[0][:, [0, min(first, x.shape[2] - 1), -1]].mT for x in (call.query, call.key)])
            if place == list(inputs)[-1]:
                raise _LastAttention

    with products, capture(model, ["residual", "query"], on_states, on_attention, stacks.append) as tap:
        model(**batch)
        if not tap.has_attention:
            return {}, tap.unheard
        codes = _codes(products.count)
        try:
            for turn, code in enumerate(codes):
                products.code, products.alternate = code, turn == _CHECKS - 1
                with suppress(_LastAttention):
                    model(**batch)
        except InputError:
            return {}, dict.fromkeys(tap.layout.places, "the layers do not run in the same order every time")
    layout, absent = {}, tap.unheard
    for place, arrived in passes.items():
        query, key = (_decode(torch.stack(x), codes) for x in zip(*arrived, strict=True))
        if len(arrived) < len(codes) or query is None or key is None:
            absent[place] = unclear
            continue
        read, sources = inputs[place]
        pair = products.locate(query, sources), products.locate(key, sources)
        first = [matrix for x in pair for matrix in (x.matrices if x.inner is None else (x.inner,))]
        if {matrix.size[1] for matrix in first} - widths[place]:
            absent[place] = "its queries or keys are projections of a latent that is no linear function of the states"
        elif len({read.get(matrix) for matrix in first}) > 1:
            absent[place] = "its queries and keys are projections of different states"
        else:
            layout[place] = pair
    return layout, absent


# Sums over what a matrix was multiplied with: they tell inputs apart, in whatever order their tokens are.
_Input = tuple[int, float, float]
_Source = tuple[_Matrix, int, int]  # the matrix, and the range of its rows, that made what another is multiplied with


class _WeightProducts(TorchDispatchMode):
    """Watches the products with weight matrices; with a `code`, its rows take their place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.code: Int8[Tensor, " rows"] | None = None
        self.alternate = False
        self.first: dict[_Matrix, int] = {}  # the first row of each matrix in the count of all
        self.inputs: dict[_Matrix, _Input] = {}  # what each was last multiplied with
        self.sources: dict[_Matrix, _Source] = {}
        self.made: dict[int, tuple[_Matrix, Tensor, int]] = {}  # products of this layer so far, by their storage
        self.count = 0
        self._parameters: dict[int, list[tuple[str, Tensor]]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            self._parameters[parameter.untyped_storage().data_ptr()].append((name, parameter))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        x, weight = _operands(func, args)
        matrix = None if weight is None else self._matrix(weight)
        if x is None or matrix is None or (self.code is not None and matrix not in self.first):
            return func(*args, **(kwargs or {}))
        rows = matrix.size[0]
        if self.code is None:
            if matrix not in self.first:
                self.first[matrix] = self.count
                self.count += -(-rows // _BLOCK) * _BLOCK
            self.inputs[matrix] = x.numel(), float(x.float().sum()), float(x.float().norm())
            self._note_source(matrix, x)
            result = func(*args, **(kwargs or {}))
            if not result.is_inference():
                self.made[result.untyped_storage().data_ptr()] = matrix, result, result._version
            return result
        code = self.code[self.first[matrix] :][:rows].to(x)
        result = code.repeat(x[..., 0].numel(), 1)
        if self.alternate:
            result[1::2].neg_()
        result = result.view(*x.shape[:-1], rows)
        return result.movedim(-1, 1).contiguous() if func is aten.convolution.default else result

    def _note_source(self, matrix: _Matrix, x: Tensor) -> None:
        """Note the product of this layer that x, a view of its columns, shows: nothing changed it since."""
        self.sources.pop(matrix, None)
        inner, product, version = self.made.get(x.untyped_storage().data_ptr(), (None, x, 0))
        if inner is not None and x.stride(-1) == 1 and product._version == version:
            start = int(x.storage_offset() - product.storage_offset()) % inner.size[0]
            self.sources[matrix] = inner, start, start + x.shape[-1]

    def _matrix(self, weight: Tensor) -> _Matrix | None:
        """Return the parameter that `weight`, a view, shows."""
        for name, parameter in self._parameters.get(weight.untyped_storage().data_ptr(), ()):
            offset = int(weight.storage_offset() - parameter.storage_offset())
            if weight.dtype == parameter.dtype and 0 <= offset < parameter.numel():
                return _Matrix(name, tuple(weight.shape), weight.stride(), offset)
        return None

    def locate(self, rows: Int[Tensor, "H d_h"], sources: Mapping[_Matrix, _Source]) -> _Projection:
        """Return where rows are stored that are counted over all matrices; `sources` of their layer."""
        matrices, first = list(self.first), torch.tensor(list(self.first.values()))
        owner = torch.searchsorted(first, rows, right=True) - 1
        numbers, place = owner.unique(return_inverse=True)
        used = tuple(matrices[i] for i in numbers.tolist())
        starts = torch.tensor([0, *(matrix.size[0] for matrix in used)]).cumsum(0)
        inner, *others = {sources.get(matrix, (None, 0, 0)) for matrix in used}
        source, start, stop = (None, 0, 0) if others else inner
        return _Projection(used, rows - first[owner] + starts[place], source, slice(start, stop))


def _operands(func: Any, args: tuple[Any, ...]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return x (..., inputs) and weight (outputs, inputs) if the call is a product that may be one with a matrix."""
    if func is aten.mm.default:
        return args[0], args[1].mT
    if func is aten.addmm.default:
        return args[1], args[2].mT
    if func is aten.bmm.default and (len(args[1]) == 1 or args[1].stride(0) == 0):  # einsum; inputs that are views
        return args[0], args[1][0].mT
    if func is aten.linear.default:  # not taken apart in inference mode
        return args[0], args[1]
    if func is aten.convolution.default:
        x, weight, _, stride, padding, _, transposed, _, groups = args
        if weight[0, 0].numel() == groups == 1 and set(stride) == {1} and set(padding) == {0} and not transposed:
            return x.movedim(1, -1), weight.flatten(1)
    return None, None


def _codes(count: int) -> Int8[Tensor, "passes rows"]:
    """Return one code of plus and minus ones for each of `count` rows, always the same."""
    generator = torch.Generator().manual_seed(0)
    passes = _CHECKS + min(2 * count.bit_length() + 12, 62)
    while True:
        order = torch.rand(passes, count // _BLOCK, _BLOCK, generator=generator).argsort(-1)
        codes = (2 * (order < _BLOCK // 2).to(torch.int8) - 1).flatten(1)
        codes[1], codes[2] = -codes[0], codes[0]
        if len(_numbers(codes[_CHECKS:] != codes[0]).unique()) == count:
            return codes


def _numbers(bits: Tensor) -> Int[Tensor, "..."]:
    """Return the bits along the first axis as one number."""
    return (bits.cpu() * 2 ** torch.arange(len(bits)).view(-1, *[1] * (bits.ndim - 1))).sum(0)


def _decode(
    arrived: Float[Tensor, "turns H d_h tokens"], codes: Int8[Tensor, "passes rows"]
) -> Int[Tensor, "H d_h"] | None:
    """Return the rows whose codes arrived; None unless all are certain.

    A rotated token mixes two rows and shows more than two values; one token, the first or the first that is no
    padding, is at position 0. A token that mixes in others is neither as it was nor has all its signs changed.
    """
    moved = (arrived - arrived[0]).float()
    share = moved / moved[1]  # 0: the sign of the first pass, 1: the other sign; the factor and the shift are gone
    exact = ((share - share.round()).abs() < 1e-3) & (share.round().abs() < 2) & (share.round() >= 0)
    if len(arrived) < len(codes) or not exact[_CHECKS - 1].all():
        return None
    numbers, order = _numbers(codes[_CHECKS:] != codes[0]).sort()
    for token in (0, 1):
        bits = _numbers(share[_CHECKS:, ..., token].round() == 1)
        place = torch.searchsorted(numbers, bits).clamp(max=len(numbers) - 1)
        if exact[..., token].all() and torch.equal(numbers[place], bits):
            return order[place]
    return None
