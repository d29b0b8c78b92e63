"""Watches what enters every softmax of an attention, in whatever form the model computes it.

Three forms are recognised: a call of `F.scaled_dot_product_attention`; a product of queries and keys (matmul, bmm,
baddbmm, einsum) that elementwise operations carry into a softmax over the keys; `torch.nn.MultiheadAttention`. The
tensors are handed over after rotary embeddings, splits, norms and relative biases: hooks on projections miss these.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from dynamics.capture.calls import Call
from dynamics.errors import InputError

_MATMUL = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}
_BADDBMM = {torch.baddbmm, Tensor.baddbmm}
_SOFTMAX = {torch.softmax, torch.special.softmax, F.softmax, Tensor.softmax}
_TIMES = {torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__}
_OVER = {torch.div, Tensor.div, Tensor.div_, Tensor.__truediv__, Tensor.__itruediv__}
_MIXING = {*_MATMUL, *_BADDBMM, torch.einsum, F.linear}
_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
_MULTIHEAD = inspect.signature(F.multi_head_attention_forward)


class Scores(NamedTuple):
    """What makes the scores of one attention, as the model handed it over.

    `mask` is boolean (true = visible) or additive and broadcasts to (..., T, S); None where the model computes its
    own masked `logits`, the input of its softmax.
    """

    query: Float[Tensor, "*lead T d"]
    key: Float[Tensor, "*lead_kv S d"]
    scaling: float
    mask: Shaped[Tensor, "..."] | None = None
    is_causal: bool = False
    logits: Float[Tensor, "*lead T S"] | None = None


class _Product(NamedTuple):
    owner: Call
    query: Tensor
    key: Tensor
    scaling: float


class ScoreWatch(TorchFunctionMode):
    """Calls `report(owner, scores)` for every attention computed while `stack` holds modules at work, innermost last.

    A product is only paired with a softmax of its own module or of one inside it.
    """

    def __init__(self, stack: list[Call], report: Callable[[Call, Scores], None]) -> None:
        super().__init__()
        self.stack, self.report = stack, report
        self.products: Any = WeakIdKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.stack:
            return func(*args, **kwargs)
        owner = self.stack[-1]
        if func is F.scaled_dot_product_attention:
            self.report(owner, _of_sdpa(args, kwargs))
        elif func is F.multi_head_attention_forward:
            self.report(owner, _of_multihead(args, kwargs))
        elif func in _SOFTMAX and self.products:
            self._softmax(args, kwargs)
        result = func(*args, **kwargs)
        if func in _MIXING:
            product = _product(owner, func, args, kwargs)
            if product is not None and isinstance(result, Tensor):
                self.products[result] = product
        elif self.products and isinstance(result, Tensor) and result.is_floating_point():
            self._carry(func, args, kwargs, result)
        return result

    def _carry(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        """Note that an elementwise operation or a view of a product is still that product, perhaps scaled."""
        for position, arg in enumerate((*args, *kwargs.values())):
            if isinstance(arg, Tensor) and arg in self.products and arg.numel() == result.numel():
                product = self.products[arg]
                other = args[1 - position] if len(args) == 2 and position < 2 else None
                if isinstance(other, Tensor) and other.numel() == 1:
                    other = other.item()
                if isinstance(other, (int, float)) and func in _TIMES:
                    product = product._replace(scaling=product.scaling * other)
                elif isinstance(other, (int, float)) and func in _OVER and position == 0:
                    product = product._replace(scaling=product.scaling / other)
                self.products[result] = product
                return

    def _softmax(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Report a softmax over the keys of a product."""
        logits = args[0] if args else kwargs["input"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        product = self.products.get(logits)
        if product is None or dim not in (-1, logits.ndim - 1) or product.owner not in self.stack:
            return
        rows, columns = product.query.shape[-2], product.key.shape[-2]
        if logits.shape[-2:] != (rows, columns):
            return
        self.products.clear()
        lead = logits.shape[:-2]
        query, key = product.query.reshape(*lead, rows, -1), product.key.reshape(*lead, columns, -1)
        self.report(product.owner, Scores(query, key, product.scaling, logits=logits))


def _product(owner: Call, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Product | None:
    """Return queries and keys of a batched product of two activations; None where it is anything else."""
    scaling = 1.0
    if func is torch.einsum:
        operands = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
        pair = _einsum_pair(args[0], operands)
    elif func in _BADDBMM:
        query, key = [*args[1:], *(kwargs[name] for name in ("batch1", "batch2") if name in kwargs)]
        scaling = float(kwargs.get("alpha", 1.0))
        pair = query, key.transpose(-1, -2)
    elif func in _MATMUL and len(args) == 2 and args[1].ndim > 1:
        pair = args[0], args[1].transpose(-1, -2)
    else:
        return None
    return None if pair is None or min(pair[0].ndim, pair[1].ndim) < 3 else _Product(owner, *pair, scaling)


def _einsum_pair(equation: Any, operands: Any) -> tuple[Tensor, Tensor] | None:
    """Return the operands of `...tk,...sk->...ts`, in whatever letters and order, as (..., T, d) and (..., S, d)."""
    if not isinstance(equation, str) or "->" not in equation or len(operands) != 2:
        return None
    inputs, output = equation.replace(" ", "").split("->")
    left, right = inputs.split(",")
    if "..." in output:
        rest = "".join(map(chr, range(0x100, 0x100 + operands[0].ndim + 3 - len(left))))
        left, right, output = (letters.replace("...", rest) for letters in (left, right, output))
    if (len(left), len(right)) != (operands[0].ndim, operands[1].ndim):
        return None
    shared = set(left) & set(right) - set(output)
    if len(output) < 3 or len(shared) != 1:
        return None
    *batch, row, column = list(output)
    if row in right and column in left:
        (left, right), operands = (right, left), (operands[1], operands[0])
    (inner,) = shared
    if {*batch, row, inner} != set(left) or {*batch, column, inner} != set(right):
        return None
    query = operands[0].permute([left.index(letter) for letter in (*batch, row, inner)])
    key = operands[1].permute([right.index(letter) for letter in (*batch, column, inner)])
    return query, key


def _of_sdpa(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Scores:
    call = {**dict(zip(_SDPA, args, strict=False)), **kwargs}
    query, scale = call["query"], call.get("scale")
    scaling = query.shape[-1] ** -0.5 if scale is None else float(scale)
    return Scores(query, call["key"], scaling, call.get("attn_mask"), bool(call.get("is_causal", False)))


def _of_multihead(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Scores:
    """Return queries and keys of `torch.nn.MultiheadAttention`, projected once more: its own are out of reach."""
    bound = _MULTIHEAD.bind(*args, **kwargs)
    bound.apply_defaults()
    call = bound.arguments
    if call["bias_k"] is not None or call["add_zero_attn"]:
        raise InputError("torch.nn.MultiheadAttention with add_bias_kv or add_zero_attn cannot be measured.")
    query, key = call["query"], call["key"]
    if query.ndim == 2:
        query, key = query[:, None], key[:, None]
    width, heads = query.shape[-1], call["num_heads"]
    if call["use_separate_proj_weight"]:
        weights = call["q_proj_weight"], call["k_proj_weight"]
    else:
        weights = call["in_proj_weight"][:width], call["in_proj_weight"][width : 2 * width]
    bias = call["in_proj_bias"]
    biases = (None, None) if bias is None else (bias[:width], bias[width : 2 * width])
    query, key = (
        F.linear(x, weight, shift).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
        for x, weight, shift in zip((query, key), weights, biases, strict=True)
    )
    mask = _additive(call["attn_mask"], query)
    if mask is not None and mask.ndim == 3:
        mask = mask.unflatten(0, (-1, heads))
    padding = _additive(call["key_padding_mask"], query)
    if padding is not None:
        padding = padding.reshape(-1, 1, 1, padding.shape[-1])
        mask = padding if mask is None else mask + padding
    return Scores(query, key, query.shape[-1] ** -0.5, mask)


def _additive(hidden: Shaped[Tensor, "..."] | None, like: Tensor) -> Shaped[Tensor, "..."] | None:
    """Return a mask of torch's, whose boolean ones say what is hidden, as an additive one."""
    if hidden is None or hidden.dtype != torch.bool:
        return hidden
    return torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, -torch.inf)
