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
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._foreach_utils import _foreach_supported_types
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
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


class Unavailable(Exception):
    """The reason why there is no simulated device: no compiler, or one that does not build the library."""


class Event(NamedTuple):
    """Something that a GPU, or the host with it, would do."""

    phase: str
    kind: str  # kernel, wait, copy, float64 or nondeterministic
    name: str
    line: str  # FILE:LINE; of a library's, with that of the package that led there


class DeviceTensor(torch.Tensor):
    """A tensor that says `cuda:N`; `plain` holds its values on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    plain: torch.Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, plain: torch.Tensor, place: torch.device) -> "DeviceTensor":
        with _disable_current_modes():
            shell = torch.empty_strided(plain.shape, plain.stride(), dtype=plain.dtype, device="meta")
        tensor = torch.Tensor._make_subclass(cls, shell, dispatch_device=True, device_for_backend_keys=place)
        tensor.plain, tensor.place = plain, place
        return tensor

    @property
    def device(self) -> torch.device:
        return self.place

    is_cuda, is_cpu = True, False

    @property
    def data(self) -> torch.Tensor:
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value: "DeviceTensor") -> None:
        torch.Tensor.data.__set__(self, value)
        self.plain, self.place = value.plain, value.place

    # What torch does beneath the dispatcher.

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {self.place} device type tensor to numpy. Use Tensor.cpu() first")
        return self.detach().cpu().numpy()

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __getitem__(self, index: Any) -> torch.Tensor:
        return super().__getitem__(_lists_as_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_lists_as_tensors(index), value)

    def new_tensor(self, data: Any, **settings: Any) -> torch.Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": self.place, **settings})

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.plain.untyped_storage()

    def data_ptr(self) -> int:
        return self.plain.data_ptr()

    def __repr__(self, **_: Any) -> str:
        return f"{self.plain!r} on {self.place}"

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            copy: torch.Tensor = DeviceTensor(self.plain.detach().clone(), self.place)
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(copy, self.requires_grad) if is_parameter else copy
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Save it as a tensor of the CPU."""
        return self.detach().cpu().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if Device.current is None:
            raise RuntimeError(f"{func} on a tensor of a simulated device that was left")
        return Device.current.run(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """While entered, `cuda` is there, and what is done with it is counted.

    Args:
        count: devices that there are, at most 2.
    """

    current: "Device | None" = None

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
        assert Device.current is None, "there is one simulated device at a time"
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
        Device.current = self
        stack.callback(setattr, Device, "current", None)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        _foreach_supported_types.append(DeviceTensor)
        stack.callback(_foreach_supported_types.remove, DeviceTensor)
        implementations = torch.library.Library("aten", "IMPL")
        stack.callback(implementations._destroy)
        for key in ("AutogradCUDA", "CUDA"):
            implementations.impl("scaled_dot_product_attention", _attend, key)
        stack.enter_context(_FromHost())
        for owner, name, value in self._stand_ins():
            stack.enter_context(mock.patch.object(owner, name, value))

    def _stand_ins(self) -> Iterator[tuple[Any, str, Any]]:
        """Yield what asks for a GPU beneath the dispatcher, and what answers instead."""
        answers: dict[str, Any] = {
            **dict.fromkeys(("_lazy_init", "set_device", "empty_cache", "set_rng_state", "manual_seed_all")),
            **{"is_available": True, "is_bf16_supported": True, "device_count": self.devices, "current_device": 0},
            **{"get_device_capability": (9, 0), "get_device_name": "simulated", "mem_get_info": (70 << 30, 80 << 30)},
        }
        for name, answer in answers.items():
            yield torch.cuda, name, lambda *_, answer=answer, **__: answer
        yield torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state()
        yield torch.cuda, "synchronize", lambda *_: self.book("wait", "synchronize")
        yield torch.cuda, "Event", _Mark
        yield torch.nn.Module, "_apply", _apply
        yield torch.inference_mode, "__enter__", functools.partialmethod(_infer, torch.inference_mode.__enter__)
        yield torch.cuda.amp.common, "amp_definitely_not_available", lambda: False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation on the CPU, and count what it would be on the device."""
        if func is torch.ops.prim.device.default:
            return args[0].device
        name = func._schema.name.removeprefix("aten::")
        if name in ("is_pinned", "_pin_memory"):
            return _pin(name, args[0])
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        ours = [x for x in tensors if isinstance(x, DeviceTensor)]
        target = _with_number(kwargs["device"]) if kwargs.get("device") is not None else None
        if _is_composite(func) and (ours or any(_is_cuda(x) for x in args)):  # from within another mode
            return self._decompose(func, args, kwargs)
        if not ours and not _is_cuda(target):
            return func(*args, **kwargs)
        place = target or ours[0].place
        if name in COPIES:
            source, to = (args[0], place) if name == "_to_copy" else (args[1], args[0].device)
            self._book_copy(source, to, kwargs.get("non_blocking", name == "copy_" and args[2:] == (True,)))
        else:
            _refuse_mix(name, func, tensors)
        if name in INDEXING:
            self._book_index(name, args)
        elif name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self.book("wait", name)
        self._check_determinism(name, args)
        plain = tree_map(_plain, kwargs) | {"device": CPU} if target is not None else tree_map(_plain, kwargs)
        result = func(*tree_map(_plain, args), **plain)
        if not func.is_view and name not in WITHOUT_KERNEL:
            self.book("kernel", name)
            results = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
            if any(x.dtype == torch.float64 for x in [*ours, *results]):
                self.book("float64", name)
        # What is changed in place is handed on; what is new is wrapped where it lies.
        before = {id(_plain(x)): x for x in tensors}

        def wrap(x: Any) -> Any:
            if not isinstance(x, torch.Tensor) or id(x) in before:
                return before.get(id(x), x)
            return DeviceTensor(x, place) if place.type == "cuda" else x

        return tree_map(wrap, result)

    def _decompose(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        super().__enter__()
        try:
            return func.decompose(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)

    def _book_copy(self, source: torch.Tensor, to: torch.device, is_asynchronous: bool) -> None:
        if source.device.type == to.type:
            return
        direction = "to the device" if to.type == "cuda" else "to the host"
        if not is_asynchronous:
            self.book("wait", f"copy {direction}")
        elif to.type == "cuda" and not _pin("is_pinned", source):
            self.book("copy", "from pageable memory")

    def _book_index(self, name: str, args: tuple[Any, ...]) -> None:
        indices = [x for x in args[1] if x is not None]
        fills = name != "index" and "put" in name and args[2].numel() == 1 and args[2].device.type == "cpu"
        for index in indices:
            if index.dtype in (torch.bool, torch.uint8) and not (fills and len(indices) == 1):
                self.book("wait", "boolean index")
            if not isinstance(index, DeviceTensor) and index.ndim:
                self.book("wait", "copy to the device")

    def _check_determinism(self, name: str, args: tuple[Any, ...]) -> None:
        is_strict = torch.are_deterministic_algorithms_enabled()
        is_strict = is_strict and not torch.is_deterministic_algorithms_warn_only_enabled()
        if name in NONDETERMINISTIC and NONDETERMINISTIC[name](*args):
            self.book("nondeterministic", name)
            if is_strict:
                raise RuntimeError(f"{name} does not have a deterministic implementation on CUDA")
        if is_strict and name in PRODUCTS and "CUBLAS_WORKSPACE_CONFIG" not in os.environ:
            raise RuntimeError(f"{name} is not deterministic on CUDA without CUBLAS_WORKSPACE_CONFIG=:4096:8")


class _Attention(torch.autograd.Function):
    """Attention in as many launches as on CUDA: one forward, three backward."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, settings: dict[str, Any]) -> Any:
        assert Device.current is not None
        Device.current.book("kernel", "attention")
        with _disable_current_modes(), torch.enable_grad():
            ctx.inputs = [x.plain.detach().requires_grad_() for x in (query, key, value)]
            ctx.output = torch._C._nn.scaled_dot_product_attention(*ctx.inputs, **settings)
        ctx.place = query.place
        return DeviceTensor(ctx.output.detach(), query.place)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        assert Device.current is not None
        for part in ("dot", "main", "convert"):
            Device.current.book("kernel", f"attention backward ({part})")
        with _disable_current_modes():
            gradients = torch.autograd.grad(ctx.output, ctx.inputs, gradient.plain)
        return *(DeviceTensor(x, ctx.place) for x in gradients), None


def _attend(query: Any, key: Any, value: Any, attn_mask: Any = None, *options: Any, **settings: Any) -> Any:
    tensors = [x for x in (query, key, value, attn_mask) if x is not None]
    _refuse_mix("attention", "scaled_dot_product_attention", tensors)
    settings |= {"attn_mask": _plain(attn_mask), **dict(zip(("dropout_p", "is_causal"), options, strict=False))}
    return _Attention.apply(query, key, value, settings)


class _FromHost(TorchFunctionMode):
    """Has `torch.tensor` and `torch.as_tensor` copy to the device in sight of the dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor):
            device = kwargs.pop("device", None)
            if isinstance(args[0], DeviceTensor):
                return args[0].to(device=device or args[0].place, **kwargs)
            if device is not None and _with_number(device).type == "cuda":
                return func(*args, **kwargs).to(device)
            kwargs |= {"device": device}
        return func(*args, **kwargs)


class _Mark:
    """A `torch.cuda.Event`: reading the time between two of them takes no wait, waiting for one does."""

    def __init__(self, **_: Any) -> None:
        self._recorded = 0.0

    def record(self, *_: Any) -> None:
        self._recorded = time.perf_counter()

    def synchronize(self) -> None:
        if Device.current is not None:
            Device.current.book("wait", "event")

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: "_Mark") -> float:
        return 1e3 * (end._recorded - self._recorded)


def _apply(module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
    """Apply as `Module._apply` does, which would lose ties: a parameter that changes sides is another object here."""
    assert Device.current is not None
    moved = Device.current.moved
    for child in module.children() if recurse else ():
        child._apply(change)
    for name, parameter in module._parameters.items():
        if parameter is None:
            continue
        if id(parameter) not in moved:
            data = change(parameter.detach())
            if isinstance(data, DeviceTensor) == isinstance(parameter, DeviceTensor):
                parameter.data = data
                continue
            moved[id(parameter)] = parameter, torch.nn.Parameter(data, parameter.requires_grad)
            if parameter.grad is not None:
                moved[id(parameter)][1].grad = change(parameter.grad)
        module._parameters[name] = moved[id(parameter)][1]
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


def _infer(context: torch.inference_mode, enter: Callable[[torch.inference_mode], None]) -> None:
    """Enter inference mode, or leave it: either way torch would set the engine's threads going."""
    enter(context)
    torch._C._set_multithreading_enabled(False)


@functools.cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _is_cuda(x: Any) -> bool:
    return isinstance(x, torch.device) and x.type == "cuda"


def _plain(x: Any) -> Any:
    return x.plain if isinstance(x, DeviceTensor) else x


def _with_number(device: Any) -> torch.device:
    device = torch.device(device)
    return torch.device("cuda:0") if device.type == "cuda" and device.index is None else device


def _lists_as_tensors(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(map(_lists_as_tensors, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _pin(name: str, x: torch.Tensor) -> Any:
    """Answer `is_pinned`, or return the tensor in page-locked memory."""
    if name == "is_pinned":
        return getattr(x if x._base is None else x._base, "is_page_locked", False)
    copy = x.clone()
    copy.is_page_locked = True  # type: ignore[attr-defined]
    return copy


def _refuse_mix(name: str, func: Any, tensors: list[torch.Tensor]) -> None:
    """Raise where CUDA would: numbers of the CPU may stand beside tensors of a device, and so may indices."""
    if name in INDEXING:
        tensors = [tensors[0], *(x for x in tensors[1:] if x.is_cuda or x.is_floating_point())]
    places = {str(x.device) for x in tensors if x.ndim or x.device.type != "cpu"}
    if len(places) > 1:
        found = ", ".join(sorted(places))
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two: {found} ({func})")


@functools.cache
def _belongs(code: CodeType) -> str:
    """Return where a function stands: in the `package`, in a `library` above torch, or "" beneath these."""
    path = code.co_filename
    if code.co_name in ("__torch_function__", "__torch_dispatch__"):
        return ""  # watches what others do
    if "/dynamics/" in path and "site-packages" not in path:
        return "package"
    above = ("/torch/optim/", "/torch/nn/utils/", "/lightning/", "/torchmetrics/", "/transformers/")
    return "library" if any(part in path for part in above) else ""


def _line() -> str:
    """Return the innermost line of the package or of a library; with the latter, the package's that led there."""
    first, frame = "", sys._getframe(2)
    while frame is not None:
        kind = _belongs(frame.f_code)
        if kind and (kind == "package" or not first):
            path = frame.f_code.co_filename
            short = path.split("site-packages/")[-1] if kind == "library" else path[path.rindex("/dynamics/") + 1 :]
            place = f"{short}:{frame.f_lineno}"
            if kind == "package":
                return f"{first} < {place}" if first else place
            first = place
        frame = frame.f_back
    return first or "elsewhere"


@functools.cache
def library() -> ctypes.CDLL:
    """Build and load what autograd asks of a device; the built file is kept. Raises `Unavailable`."""
    source, folder = Path(__file__).with_suffix(".cpp"), Path(torch.__file__).parent
    digest = hashlib.sha256(source.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"simulated-device-{digest}.so"
    if not built.is_file():
        compiler = shutil.which("g++")
        if compiler is None:
            raise Unavailable("there is no g++ to build the simulated device with")
        fresh = built.with_suffix(f".{os.getpid()}")
        options = ["-std=c++20", "-shared", "-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={torch.compiled_with_cxx11_abi():d}"]
        places = [f"-I{folder}/include", f"-L{folder}/lib", "-lc10", "-ltorch_cpu"]
        words = [compiler, *options, str(source), *places, "-o", str(fresh)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"g++ does not build the simulated device: {done.stderr.strip()[:300]}")
        fresh.replace(built)
    return ctypes.CDLL(str(built))
