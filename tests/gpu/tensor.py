"""A tensor that says `cuda:N` and is computed on the CPU."""

from typing import Any, ClassVar

import torch
from torch.utils._python_dispatch import _disable_current_modes


class DeviceTensor(torch.Tensor):
    """A tensor that says `cuda:N`; `plain` holds its values on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    current: ClassVar[Any] = None  # the `Device` that is entered
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
        return super().__getitem__(lists_as_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(lists_as_tensors(index), value)

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
        if DeviceTensor.current is None:
            raise RuntimeError(f"{func} on a tensor of a simulated device that was left")
        return DeviceTensor.current.run(func, args, kwargs or {})


def without_device(x: Any) -> Any:
    """Return the values of a tensor of the device; anything else as it is."""
    return x.plain if isinstance(x, DeviceTensor) else x


def with_number(device: Any) -> torch.device:
    """Return `cuda` as `cuda:0`."""
    device = torch.device(device)
    return torch.device("cuda:0") if device.type == "cuda" and device.index is None else device


def lists_as_tensors(index: Any) -> Any:
    """Return an index with tensors in the place of its lists, which torch would copy beneath the dispatcher."""
    if isinstance(index, tuple):
        return tuple(map(lists_as_tensors, index))
    return torch.tensor(index) if isinstance(index, list) else index
