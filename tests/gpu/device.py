"""A simulated CUDA device: tensors that say `cuda:N` and are computed on the CPU, with a count of what a GPU would do.

    with Device() as device:
        model.to("cuda")
        ...
    device.count("wait")

Counted are launched kernels, waits of the host for the device, copies from pageable memory, kernels in float64 and
operations without a deterministic kernel, by phase and source line. CUDA's rules hold: an operation on two devices
raises, and so does `numpy()`. Autograd, autocast, foreach and fused optimisers work as on CUDA. Speed, memory and the
kernels' own numerics are not simulated; nothing is compiled on it.
"""

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch.utils._foreach_utils import _foreach_supported_types
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import dynamics
from tests.gpu import rules
from tests.gpu.stand_ins import FromHost, attend, library, stand_ins
from tests.gpu.tensor import DeviceTensor, with_number, without_device

PACKAGE = f"{Path(dynamics.__file__).parent}/"
LIBRARIES = ("/torch/optim/", "/torch/nn/utils/", "/lightning/", "/torchmetrics/", "/transformers/")


class Event(NamedTuple):
    """Something that a GPU, or the host with it, would do."""

    phase: str
    kind: str  # kernel, wait, copy, float64 or nondeterministic
    name: str
    line: str  # FILE:LINE; of a library's, with that of the package that led there


class Device(TorchDispatchMode):
    """While entered, `cuda` is there, and what is done with it is counted.

    Args:
        count: devices that there are, at most 2.
    """

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self.devices = count
        self.events: Counter[Event] = Counter()
        self._phase = ""
        self.moved: dict[int, tuple[torch.Tensor, torch.nn.Parameter]] = {}  # parameters, and what replaces them

    def count(self, kind: str, phase: str | None = None) -> int:
        """Return how many events of a kind there were, in one phase or in all."""
        return sum(n for event, n in self.events.items() if event.kind == kind and phase in (None, event.phase))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens in the block under a name."""
        before, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = before

    def book(self, kind: str, name: str) -> None:
        self.events[Event(self._phase, kind, name, _line())] += 1

    def __enter__(self) -> "Device":
        assert DeviceTensor.current is None, "there is one simulated device at a time"
        with contextlib.ExitStack() as stack:
            self._open(stack)
            super().__enter__()
            self._leave = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._leave.close()

    def _open(self, stack: contextlib.ExitStack) -> None:
        functions = library()
        functions.enter()
        stack.callback(functions.leave)
        DeviceTensor.current = self
        stack.callback(setattr, DeviceTensor, "current", None)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        _foreach_supported_types.append(DeviceTensor)
        stack.callback(_foreach_supported_types.remove, DeviceTensor)
        implementations = torch.library.Library("aten", "IMPL")
        stack.callback(implementations._destroy)
        for key in ("AutogradCUDA", "CUDA"):
            implementations.impl("scaled_dot_product_attention", attend, key)
        stack.enter_context(FromHost())
        for owner, name, value in stand_ins(self.devices):
            stack.enter_context(mock.patch.object(owner, name, value))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation on the CPU, and count what it would be on the device."""
        if func is torch.ops.prim.device.default:
            return args[0].device
        name = func._schema.name.removeprefix("aten::")
        if name in ("is_pinned", "_pin_memory"):
            return rules.is_pinned(args[0]) if name == "is_pinned" else rules.pin(args[0])
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        ours = [x for x in tensors if isinstance(x, DeviceTensor)]
        if _is_composite(func) and (ours or any(_is_cuda(x) for x in args)):
            return self._decompose(func, args, kwargs)
        target = with_number(kwargs["device"]) if kwargs.get("device") is not None else None
        if not ours and not _is_cuda(target):
            return func(*args, **kwargs)
        place = target or ours[0].place
        if name not in rules.COPIES:
            rules.refuse_mix(name, func, tensors)
        for reason in rules.waits(name, args, kwargs, place):
            self.book("wait", reason)
        if rules.is_pageable_copy(name, args, kwargs, place):
            self.book("copy", "from pageable memory")
        if rules.is_nondeterministic(name, args):
            self.book("nondeterministic", name)
        plain = tree_map(without_device, kwargs) | ({} if target is None else {"device": torch.device("cpu")})
        result = func(*tree_map(without_device, args), **plain)
        if not func.is_view and name not in rules.WITHOUT_KERNEL:
            self.book("kernel", name)
            results = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
            if any(x.dtype == torch.float64 for x in [*ours, *results]):
                self.book("float64", name)
        # What is changed in place is handed on; what is new is wrapped where it lies.
        before = {id(without_device(x)): x for x in tensors}

        def wrap(x: Any) -> Any:
            if not isinstance(x, torch.Tensor) or id(x) in before:
                return before.get(id(x), x)
            return DeviceTensor(x, place) if place.type == "cuda" else x

        return tree_map(wrap, result)

    def _decompose(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the parts of an operation that another mode has met as a whole."""
        super().__enter__()
        try:
            return func.decompose(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)


@functools.cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _is_cuda(x: Any) -> bool:
    return isinstance(x, torch.device) and x.type == "cuda"


@functools.cache
def _belongs(code: CodeType) -> str:
    """Return where a function stands: in the `package`, in a `library` above torch, or "" beneath these."""
    if code.co_name in ("__torch_function__", "__torch_dispatch__"):
        return ""  # watches what others do
    if code.co_filename.startswith(PACKAGE):
        return "package"
    return "library" if any(part in code.co_filename for part in LIBRARIES) else ""


def _line() -> str:
    """Return the innermost line of the package or of a library; with the latter, the package's that led there."""
    library, frame = "", sys._getframe(2)
    while frame is not None:
        kind, place = _belongs(frame.f_code), f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if kind == "package":
            place = f"dynamics/{place.removeprefix(PACKAGE)}"
            return f"{library} < {place}" if library else place
        if kind and not library:
            library = place.split("site-packages/")[-1]
        frame = frame.f_back
    return library or "elsewhere"
