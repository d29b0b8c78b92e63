"""Stand-ins for what torch does, or asks of a GPU, beneath the dispatcher."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from tests.gpu.rules import refuse_mix
from tests.gpu.tensor import DeviceTensor, with_number, without_device


class Unavailable(Exception):
    """The reason why there is no simulated device: no compiler, or one that does not build the library."""


@functools.cache
def library() -> ctypes.CDLL:
    """Build and load what autograd asks of a device; the built file is kept. Raises `Unavailable`."""
    source, folder = Path(__file__).with_name("device.cpp"), Path(torch.__file__).parent
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


def stand_ins(devices: int) -> Iterator[tuple[Any, str, Any]]:
    """Yield owner and name of functions, and what answers instead of them where there are `devices`."""
    answers: dict[str, Any] = {
        **dict.fromkeys(("_lazy_init", "set_device", "empty_cache", "set_rng_state", "manual_seed_all")),
        **{"is_available": True, "is_bf16_supported": True, "device_count": devices, "current_device": 0},
        "current_stream": None,
        **{"get_device_capability": (9, 0), "get_device_name": "simulated", "mem_get_info": (70 << 30, 80 << 30)},
    }
    for name, answer in answers.items():
        yield torch.cuda, name, lambda *_, answer=answer, **__: answer
    yield torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state()
    yield torch.cuda, "synchronize", lambda *_: DeviceTensor.current.book("wait", "synchronize")
    yield torch.cuda, "Event", _Mark
    yield torch.cuda.amp.common, "amp_definitely_not_available", lambda: False
    yield torch.nn.Module, "_apply", _apply
    yield torch.inference_mode, "__enter__", functools.partialmethod(_infer, torch.inference_mode.__enter__)


class _Attention(torch.autograd.Function):
    """Attention in as many launches as on CUDA: one forward, three backward."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, settings: dict[str, Any]) -> Any:
        DeviceTensor.current.book("kernel", "attention")
        with _disable_current_modes(), torch.enable_grad():
            ctx.inputs = [x.plain.detach().requires_grad_() for x in (query, key, value)]
            ctx.output = torch._C._nn.scaled_dot_product_attention(*ctx.inputs, **settings)
        ctx.place = query.place
        return DeviceTensor(ctx.output.detach(), query.place)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        for part in ("dot", "main", "convert"):
            DeviceTensor.current.book("kernel", f"attention backward ({part})")
        with _disable_current_modes():
            gradients = torch.autograd.grad(ctx.output, ctx.inputs, gradient.plain)
        return *(DeviceTensor(x, ctx.place) for x in gradients), None


def attend(query: Any, key: Any, value: Any, attn_mask: Any = None, *options: Any, **settings: Any) -> Any:
    tensors = [x for x in (query, key, value, attn_mask) if x is not None]
    refuse_mix("attention", "scaled_dot_product_attention", tensors)
    settings |= {"attn_mask": without_device(attn_mask), **dict(zip(("dropout_p", "is_causal"), options, strict=False))}
    return _Attention.apply(query, key, value, settings)


class FromHost(TorchFunctionMode):
    """Has `torch.tensor` and `torch.as_tensor` copy to the device in sight of the dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor):
            device = kwargs.pop("device", None)
            if isinstance(args[0], DeviceTensor):
                return args[0].to(device=device or args[0].place, **kwargs)
            if device is not None and with_number(device).type == "cuda":
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
        DeviceTensor.current.book("wait", "event")

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: "_Mark") -> float:
        return 1e3 * (end._recorded - self._recorded)


def _apply(module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
    """Apply as `Module._apply` does, which would lose ties: a parameter that changes sides is another object here."""
    moved = DeviceTensor.current.moved
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
