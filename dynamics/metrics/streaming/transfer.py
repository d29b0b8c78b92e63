"""What the host asks of a device: each answer is a wait for all its work, whatever the size of the answer."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

T = TypeVar("T")
_ANSWERS: Any = WeakIdKeyDictionary()  # of tensors on devices: version and answer, by the question


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors on the host; all that lie on one device come in one copy, byte by byte.

    >>> to_host([torch.ones(2, dtype=torch.int64), torch.tensor(0.5)])
    [tensor([1, 1]), tensor(0.5000)]
    """
    result = list(tensors)
    for device in {x.device for x in tensors if x.device.type != "cpu"}:
        # The widest types first: each then begins at a multiple of its size.
        places = sorted((i for i, x in enumerate(tensors) if x.device == device), key=lambda i: -tensors[i].itemsize)
        parts = [tensors[place].contiguous().view(-1).view(torch.uint8) for place in places]
        for place, part in zip(places, torch.cat(parts).cpu().split([len(part) for part in parts]), strict=True):
            result[place] = part.view(tensors[place].dtype).view(tensors[place].shape)
    return result


def sent(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; the host does not wait for a copy to a GPU."""
    return x.to(device, non_blocking=device.type == "cuda")


def asked(x: Tensor, question: Callable[[Tensor], T]) -> T:
    """Return the answer to a question about a tensor: a device is asked once, for as long as the tensor stays as it is.

    All metrics that a batch is fed to, at all layers, share the answer.
    """
    if x.device.type == "cpu" or x.is_inference():
        return question(x)
    answers = _ANSWERS.setdefault(x, {})
    if answers.get(question, (None,))[0] != x._version:
        answers[question] = x._version, question(x)
    answer: T = answers[question][1]
    return answer


def _holds(mask: Tensor) -> bool:
    return bool(mask.all())


def is_whole(mask: Bool[Tensor, "..."]) -> bool:
    """Return whether a mask is true everywhere."""
    return asked(mask, _holds)


def counted(values: Int[Tensor, " n"], size: int) -> Int[Tensor, " size"]:
    """Count how often each number below `size` occurs; a device is not asked for the largest."""
    if values.device.type == "cpu":
        return torch.bincount(values, minlength=size)
    return values.new_zeros(size).scatter_add_(0, values, torch.ones_like(values))
