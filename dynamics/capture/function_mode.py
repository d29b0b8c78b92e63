"""Watches what enters every softmax of an attention, in whatever form the model computes it.

Recognised are the calls of `fused.py`; and a product of queries and keys (matmul, bmm, baddbmm, einsum) that
elementwise operations carry into a softmax over the keys, perhaps beside columns that are no keys (sinks), perhaps
written out as exponentials, or into a sigmoid that weights the values. The tensors are handed over after rotary
embeddings, splits, norms and relative biases: hooks on projections miss these. What is made of such products in
another way (blocks, bands, other axes) is not guessed at: a softmax over it is noted as unclear.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.flex_attention import flex_attention
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from dynamics.capture.calls import Call
from dynamics.capture.fused import Scores, of_flex, of_multihead, of_sdpa
from dynamics.capture.probabilities import CHANGED, MATMUL, SIGMOID, SOFTMAX, ProbabilityWatch

_FUSED: dict[Any, Callable[[tuple[Any, ...], dict[str, Any]], Scores]] = {
    F.scaled_dot_product_attention: of_sdpa,
    F.multi_head_attention_forward: of_multihead,
    flex_attention: of_flex,
}
_BADDBMM = {torch.baddbmm, Tensor.baddbmm}
_LOG_SOFTMAX = {torch.log_softmax, torch.special.log_softmax, F.log_softmax, Tensor.log_softmax}
_EXP = {torch.exp, Tensor.exp, Tensor.exp_}
_SUM = {torch.sum, Tensor.sum}
_TIMES = {torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__}
_OVER = {torch.div, Tensor.div, Tensor.div_, Tensor.__truediv__, Tensor.__itruediv__}
_MINUS = {torch.sub, Tensor.sub, Tensor.__sub__}
_CAT = {torch.cat, torch.concat, torch.concatenate}
_MIXING = {*MATMUL, *_BADDBMM, torch.einsum, F.linear}
UNCLEAR = "it takes a softmax over scores in a form that is not followed (blocks, bands or parts of the keys)"


class _Product(NamedTuple):
    owner: Call
    query: Tensor
    key: Tensor
    scaling: float
    axes: tuple[int, int] = (-2, -1)  # those of the queries and of the keys
    before: int = 0  # columns that are no keys, before the keys
    after: int = 0

    def scaled(self, func: Any, args: tuple[Any, ...], position: int) -> "_Product":
        """Return the product after an elementwise operation on it, the argument at `position`."""
        other = args[1 - position] if len(args) == 2 and position < 2 else None
        if isinstance(other, Tensor) and other.numel() == 1:
            other = other.item()
        if isinstance(other, (int, float)) and func in _TIMES:
            return self._replace(scaling=self.scaling * other)
        if isinstance(other, (int, float)) and func in _OVER and position == 0:
            return self._replace(scaling=self.scaling / other)
        return self

    def scores(self, logits: Tensor, dim: Any) -> Scores | None:
        """Return the scores if `logits` are those of every query over its keys, along `dim`; else None."""
        rows, keys = self.query.shape[-2], self.key.shape[-2]
        wide = self.before + keys + self.after
        is_over_keys = dim in (self.axes[1], logits.ndim + self.axes[1])
        logits = logits.movedim(self.axes, (-2, -1))
        if not is_over_keys or logits.shape[-2:] != (rows, wide):
            return None
        lead = logits.shape[:-2]
        query, key = self.query.reshape(*lead, rows, -1), self.key.reshape(*lead, keys, -1)
        sinks, inner = None, logits[..., self.before : self.before + keys]
        if wide > keys:
            sinks = torch.cat([logits[..., : self.before], logits[..., self.before + keys :]], -1)
        return Scores(query, key, self.scaling, logits=inner, sinks=sinks)


class ScoreWatch(TorchFunctionMode):
    """Calls `report(owner, scores)` for every attention computed while `stack` holds modules at work, innermost last.

    A product is only paired with a softmax of its own module or of one inside it.
    """

    def __init__(self, stack: list[Call], report: Callable[[Call, Scores], None]) -> None:
        super().__init__()
        self.stack, self.report = stack, report
        self._unclear: dict[Call, None] = {}
        self._open: dict[Call, None] = {}  # exponentials of scores that were not divided by their sum
        self.products: Any = WeakIdKeyDictionary()  # what is a product of queries and keys, element by element
        self.derived: Any = WeakIdKeyDictionary()  # what else is made of one, and whose it is
        self.exponentials: Any = WeakIdKeyDictionary()  # of products, perhaps normalised: the product, its logits, dim
        self.shifted: Any = WeakIdKeyDictionary()  # products less one number for each query: what they were before
        self.totals: Any = WeakIdKeyDictionary()  # sums of exponentials: what was summed
        self.sigmoids: Any = WeakIdKeyDictionary()  # of products, perhaps cast: the product, its logits
        self.probabilities = ProbabilityWatch()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.stack:
            return func(*args, **kwargs)
        owner = self.stack[-1]
        if func in _FUSED:
            self.report(owner, _FUSED[func](args, kwargs))
        following = bool(self.products or self.derived)
        call = self._softmax(args, kwargs) if following and func in SOFTMAX else None
        if following:
            self._weigh(func, args)
            self.probabilities.before(func, args)
        result = func(*args, **kwargs)
        if func in _MIXING:
            product = _product(owner, func, args, kwargs)
            if product is not None and isinstance(result, Tensor):
                self.products[result] = product
        elif following and func not in SOFTMAX and isinstance(result, Tensor) and result.is_floating_point():
            call = self._written_out(func, args, kwargs, result)
            self._carry(func, args, kwargs, result)
        if following:
            self.probabilities.after(func, args, kwargs, result)
        if call:
            self.probabilities.add(result, call)
        return result

    def unclear(self) -> dict[Call, str]:
        """Return why calls could not be read, once: their softmax over scores, or what became of it."""
        reasons = dict.fromkeys({**self._unclear, **self._open}, UNCLEAR)
        reasons = dict.fromkeys(self.probabilities.changed, CHANGED) | reasons
        for calls in (self._unclear, self._open, self.probabilities.changed):
            calls.clear()
        return reasons

    def _softmax(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Report a softmax over the keys of a product, and return whose it is.

        One over anything else that is made of a product is unclear.
        """
        logits = args[0] if args else kwargs["input"]
        product = self.products.get(logits)
        if product is not None and product.owner in self.stack:
            return self._report(product, logits, _dim(args, kwargs))
        if self.derived.get(logits) in self.stack:
            self._unclear[self.derived[logits]] = None
        return None

    def _weigh(self, func: Any, args: tuple[Any, ...]) -> None:
        """Report a sigmoid of a product where values are weighted with it; it is a gate or a score elsewhere."""
        if func not in MATMUL or args[0] not in self.sigmoids:
            return
        product, logits = self.sigmoids[args[0]]
        scores = product.scores(logits, -1) if product.owner in self.stack else None
        if scores is not None:
            self.report(product.owner, scores._replace(is_softmax=False))

    def _report(self, product: _Product, logits: Tensor, dim: Any) -> Call | None:
        """Report a softmax of logits, as they were before a shift that it does not see; return whose it is."""
        scores = product.scores(self.shifted.get(logits, logits), dim)
        if scores is None:
            self._unclear[product.owner] = None
            return None
        self._open.pop(product.owner, None)
        self.report(product.owner, scores)
        return product.owner

    def _written_out(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Call | None:
        """Report `log_softmax(s).exp()`, and `e / e.sum(-1, keepdim=True)` with `e = (s - ...).exp()`."""
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor):
            return None
        product = self.products.get(x)
        if func in _LOG_SOFTMAX and product is not None:
            self.exponentials[result] = product, x, _dim(args, kwargs)
        elif func in SIGMOID and product is not None:
            self.sigmoids[result] = product, x
        elif func is Tensor.to and x in self.sigmoids:
            self.sigmoids[result] = self.sigmoids[x]
        elif result is x and x in self.sigmoids:  # overwritten
            del self.sigmoids[x]
        elif func in _EXP and x in self.exponentials:
            return self._report(*self.exponentials[x])
        elif func in _EXP and product is not None and product.owner in self.stack:
            self._open[product.owner] = None
            if result is not x:
                self.exponentials[result] = product, x, -1
        elif func in _SUM and x in self.exponentials and _dim(args, kwargs) in (-1, x.ndim - 1):
            self.totals[result] = x
        elif func in _OVER and len(args) == 2 and self._is_total(args[1], x):
            return self._report(*self.exponentials[x])
        return None

    def _is_total(self, total: Any, x: Tensor) -> bool:
        return isinstance(total, Tensor) and x in self.exponentials and self.totals.get(total) is x

    def _carry(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        """Note that an elementwise operation or a view of a product is still that product, perhaps scaled."""
        if func in _CAT and args:
            self._join(args[0], _dim(args, kwargs), result)
            return
        values = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        for position, arg in enumerate((*args, *kwargs.values())):
            if isinstance(arg, Tensor) and arg in self.products:
                product = self.products[arg]
                is_plain = result.shape == arg.shape or product.axes == (-2, -1)
                if is_plain and arg.numel() == result.numel() and not _is_transposed(arg, result):
                    self.products[result] = product.scaled(func, args, position)
                    other = args[1] if func in _MINUS and position == 0 else None
                    if isinstance(other, Tensor) and other.ndim == arg.ndim and other.shape[product.axes[1]] == 1:
                        self.shifted[result] = arg
                    return
        owners = [self.derived.get(x) or getattr(self.products.get(x), "owner", None) for x in values]
        if owner := next(filter(None, owners), None):
            self.derived[result] = owner

    def _join(self, parts: Any, dim: Any, result: Tensor) -> None:
        """Note what was joined to a product: columns that are no keys, or other scores."""
        products = [self.products.get(part) for part in parts]
        owners = [self.derived.get(x) or getattr(self.products.get(x), "owner", None) for x in parts]
        if sum(owner is not None for owner in owners) == 1 and any(products) and dim in (-1, result.ndim - 1):
            place = next(i for i, product in enumerate(products) if product is not None)
            before, after = (sum(x.shape[-1] for x in part) for part in (parts[:place], parts[place + 1 :]))
            product = products[place]
            self.products[result] = product._replace(before=product.before + before, after=product.after + after)
        elif owner := next(filter(None, owners), None):
            self.derived[result] = owner


def _dim(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))


def _is_transposed(x: Tensor, view: Tensor) -> bool:
    """Return whether `view` shows x with its last two axes exchanged."""
    same = x.data_ptr() == view.data_ptr() and x.ndim == view.ndim
    return same and x.stride()[-2:] != view.stride()[-2:] and x.stride()[-2:] == view.stride()[:-3:-1]


def _product(owner: Call, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Product | None:
    """Return queries and keys of a batched product of two activations; None where it is anything else."""
    scaling = 1.0
    if func is torch.einsum:
        operands = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
        return _einsum_product(owner, args[0], operands)
    elif func in _BADDBMM:
        query, key = [*args[1:], *(kwargs[name] for name in ("batch1", "batch2") if name in kwargs)]
        scaling = float(kwargs.get("alpha", 1.0))
        pair = query, key.transpose(-1, -2)
    elif func in MATMUL and len(args) == 2 and args[1].ndim > 1:
        pair = args[0], args[1].transpose(-1, -2)
    else:
        return None
    return None if pair is None or min(pair[0].ndim, pair[1].ndim) < 3 else _Product(owner, *pair, scaling)


def _einsum_product(owner: Call, equation: Any, operands: Any) -> _Product | None:
    """Return a product like `...tk,...sk->...ts`, whatever its letters and their order; queries are (..., T, d)."""
    if not isinstance(equation, str) or "->" not in equation or len(operands) != 2:
        return None
    inputs, output = equation.replace(" ", "").split("->")
    left, right = inputs.split(",")
    if "..." in output:
        rest = "".join(map(chr, range(0x100, 0x100 + operands[0].ndim + 3 - len(left))))
        left, right, output = (letters.replace("...", rest) for letters in (left, right, output))
    if (len(left), len(right)) != (operands[0].ndim, operands[1].ndim):
        return None
    own = [letter for letter in output if (letter in left) != (letter in right)]
    shared = set(left) & set(right) - set(output)
    if len(output) < 3 or len(shared) != 1 or len(own) != 2:
        return None
    (inner,), (row, column) = shared, own
    batch = [letter for letter in output if letter not in own]
    if row in right and column in left:
        (left, right), operands = (right, left), (operands[1], operands[0])
    if {*batch, row, inner} != set(left) or {*batch, column, inner} != set(right):
        return None
    query = operands[0].permute([left.index(letter) for letter in (*batch, row, inner)])
    key = operands[1].permute([right.index(letter) for letter in (*batch, column, inner)])
    axes = output.index(row) - len(output), output.index(column) - len(output)
    return _Product(owner, query, key, 1.0, axes)
