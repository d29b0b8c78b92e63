"""What a model itself says of its states and attention, for comparison with what is captured of it."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from dynamics.capture.probabilities import MATMUL, SIGMOID, SOFTMAX
from dynamics.capture.state import held_still

TOLERANCE = 1e-4  # greatest difference, relative to the greatest value; eight roundings where that is more
LARGEST = 2**28  # attention weights that are held at once at most
_MARK = "_output_capturing_hooks_installed"


class Kernels(TorchFunctionMode):
    """Records the weights of the attentions that `count` counts, as the kernels themselves compute them.

    Those of a fused kernel are what it makes of one-hot values. Enter it before a capture.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        super().__init__()
        self.weights: dict[int, Float[Tensor, "*lead T S"]] = {}  # by the number of the attention
        self._count, self._held = count, 0
        self._sigmoid: Tensor | None = None  # the newest

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        number = self._count() - 1
        if func in SIGMOID:
            self._sigmoid = result
        if number >= 0 and number not in self.weights and self._held < LARGEST:
            if func is F.scaled_dot_product_attention:
                query, key, value, *rest = (*args, *(kwargs[x] for x in ("query", "key", "value") if x in kwargs))
                one_hot = torch.eye(key.shape[-2], dtype=value.dtype, device=value.device)
                options = {name: x for name, x in kwargs.items() if name not in ("query", "key", "value")}
                self._keep(number, func(query, key, one_hot.expand(*key.shape[:-1], -1), *rest, **options))
            elif func is F.multi_head_attention_forward:
                _, weights = func(*args, **kwargs | {"need_weights": True, "average_attn_weights": False})
                if weights is not None:
                    self._keep(number, weights)
            elif func in SOFTMAX:
                self._keep(number, result)
            elif func in MATMUL and self._sigmoid is not None and args[0].shape == self._sigmoid.shape:
                self._keep(number, self._sigmoid)
        return result

    def _keep(self, number: int, weights: Tensor) -> None:
        self.weights[number] = weights.detach()
        self._held += weights.numel()


@contextmanager
def removing_recorders(model: nn.Module) -> Iterator[None]:
    """Remove the hooks that transformers leaves in a model once it has listed its hidden states or attention."""
    hooks = {module: set(module._forward_hooks) for module in model.modules()}
    marked = {module for module in hooks if hasattr(module, _MARK)}
    try:
        yield
    finally:
        for module, before in hooks.items():
            for key in set(module._forward_hooks) - before:
                del module._forward_hooks[key]
            if module not in marked:
                vars(module).pop(_MARK, None)


def eager_output(model: nn.Module, batch: Mapping[str, Tensor]) -> Any:
    """Return the output of a model's eager path, which lists its attention weights; None where it has no such path."""
    if not (options := options_of(model, "output_attentions")):
        return None
    with held_still(model):
        try:
            for module in model.modules():
                if isinstance(module, PreTrainedModel):
                    module.set_attn_implementation("eager")
            return model(**batch, **options)
        except Exception:  # every architecture raises its own
            return None


def options_of(model: nn.Module, name: str) -> dict[str, Any]:
    """Return the arguments with which a model lists its states or attention weights; none where it cannot."""
    if not isinstance(model, PreTrainedModel):
        return {}
    parameters = inspect.signature(model.forward).parameters
    takes_all = any(x.kind is inspect.Parameter.VAR_KEYWORD for x in parameters.values())
    return {key: True for key in (name, "return_dict") if key in parameters or takes_all}


def listed(output: Any, stack: str, name: str) -> list[Tensor]:
    """Return the tensors that an output lists under a name (`hidden_states`, `attentions`), of one stack."""
    if stack and getattr(output, f"{stack}_{name}", None) is not None:
        return _tensors(getattr(output, f"{stack}_{name}"))
    part = getattr(output, f"{stack}_output", None) if stack else output
    return _tensors(getattr(part, name, None) or getattr(part, f"encoder_{name}", None))


def _tensors(values: Iterable[Any] | None) -> list[Tensor]:
    return [x for x in values or () if isinstance(x, Tensor)]


def final(output: Any) -> Tensor | None:
    """Return the first tensor of floating point of what a model returns."""
    return next((x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()), None)


def nearest(x: Tensor, valid: Tensor, own: Tensor) -> float:
    """Return the least difference of x (B, T, D) from what `own` may be: states, images, a stream or their mean."""
    forms = [own, own.transpose(0, 1)]
    if own.ndim == 4:
        forms = [own.flatten(2).transpose(1, 2), own.flatten(1, 2), *own, own.mean(0), own.mean(2)]
    differences = []
    for form in forms:
        tokens = form.shape[1]  # images may be listed without their class token
        if x[:, -tokens:].shape == form.shape and valid[:, -tokens:].shape == form.shape[:2]:
            real = valid[:, -tokens:]
            differences.append(difference(*(part.to(real.device)[real] for part in (x[:, -tokens:], form))))
    return min(differences, default=math.inf)


def difference(x: Tensor, own: Tensor) -> float:
    """Return the greatest difference relative to the greatest value; infinite where shapes differ or it is NaN."""
    if x.shape != own.shape:
        return math.inf
    if not own.numel():
        return 0.0
    own = own.to(x.device)  # layers may lie on several devices
    apart = float((x.float() - own.float()).abs().max() / own.float().abs().max().clamp(min=1e-30))
    return math.inf if math.isnan(apart) else apart


def tolerance(x: Tensor) -> float:
    """Return the greatest difference that is taken for rounding."""
    return max(TOLERANCE, 8 * torch.finfo(x.dtype).eps)
