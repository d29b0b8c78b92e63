"""The modules at work during a forward pass, and their arguments."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

_SOURCES = ("key_value_states", "encoder_hidden_states", "cross_attention_states")


@dataclass(frozen=True, eq=False)
class Call:
    """A module at work."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def batch(self) -> int:
        """The number of sequences: the first axis of its first tensor."""
        return next(x.shape[0] for x in (*self.args, *self.kwargs.values()) if isinstance(x, Tensor))

    @property
    def cross(self) -> bool:
        """Whether the module, an attention, takes its keys from another sequence."""
        if isinstance(self.module, nn.MultiheadAttention):
            query, key = (*self.args, self.kwargs.get("query"), self.kwargs.get("key"))[:2]
            return query is not key
        values = arguments(self.module, self.args, self.kwargs)
        return any(isinstance(values.get(name), Tensor) for name in _SOURCES)


def arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a module's call by the names of its `forward`."""
    return {**dict(zip(_parameters(type(module).forward), args, strict=False)), **kwargs}


@cache
def _parameters(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]


@contextmanager
def at_work(
    modules: dict[str, nn.Module], stack: list[Call], on_enter: Callable[[str], None] = lambda name: None
) -> Iterator[None]:
    """Keep in `stack` the calls of `modules` that are at work, innermost last; report the names to `on_enter`."""

    def enter(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stack.append(Call(name, module, args, kwargs))
        on_enter(name)

    def leave(*_: Any) -> None:
        stack.pop()

    with ExitStack() as hooks:
        hooks.callback(stack.clear)
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(partial(enter, name), with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        yield
