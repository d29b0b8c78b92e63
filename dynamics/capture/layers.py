"""Finds the layers of any model by watching one forward pass.

A layer is the outermost class of list children (`ModuleList`, `Sequential`) that holds exactly one attention
module each. Names say little: the longest list of wav2vec2 holds its convolutions, ALBERT calls one shared module
again and again, canine keeps its layers in three encoders.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dynamics.capture.function_mode import Scores, ScoreWatch
from dynamics.errors import Refusal

_SOURCES = ("key_value_states", "encoder_hidden_states", "cross_attention_states")


@dataclass(frozen=True)
class Layout:
    """Where a model keeps its layers, by module name, and how often it runs them.

    `blocks` and `attentions` name modules, each once, though a shared one may run many times. `heads` has one
    entry for each layer, in the order in which they run; 0 for a layer without self-attention.
    """

    blocks: tuple[str, ...]
    attentions: tuple[str, ...]
    heads: tuple[int, ...]

    @property
    def layers(self) -> int:
        return len(self.heads)


@dataclass(frozen=True)
class Call:
    """A module at work: its name, and what it was given."""

    name: str
    module: nn.Module
    args: tuple
    kwargs: dict[str, Any]

    @property
    def cross(self) -> bool:
        """Whether the module is an attention to another sequence."""
        if isinstance(self.module, nn.MultiheadAttention):
            return len(self.args) > 1 and self.args[1] is not self.args[0]
        if any(isinstance(self.kwargs.get(name), Tensor) for name in _SOURCES):
            return True
        names = self.module.forward.__code__.co_varnames[1 : 1 + len(self.args)]
        return any(
            name in _SOURCES and isinstance(x, Tensor) for name, x in zip(names, self.args, strict=False)
        )


@contextmanager
def at_work(
    modules: dict[str, nn.Module], stack: list[Call], seen: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Keeps in `stack` the calls of `modules` that are at work; `seen(name)` is told of every one."""

    def enter(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            stack.append(Call(name, module, args, kwargs))
            if seen is not None:
                seen(name)

        return hook

    def leave(*_: Any) -> None:
        stack.pop()

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
        yield
    finally:
        for handle in handles:
            handle.remove()
        stack.clear()


def find_layers(model: nn.Module, forward: Callable[[], Any]) -> Layout:
    """The layout of `model`, learnt from one run of `forward`. Refused where there are no layers to be found."""
    stack: list[Call] = []
    trace: list[str | tuple[str, int]] = []

    def report(call: Call, scores: Scores) -> None:
        if not call.cross:
            trace.append((call.name, scores.query.shape[-3]))

    watch = ScoreWatch(lambda: stack[-1] if stack else None, lambda call: call in stack, report)
    with at_work(dict(model.named_modules()), stack, trace.append), watch:
        forward()
    attentions = list(dict.fromkeys(event[0] for event in trace if isinstance(event, tuple)))
    ran = {event for event in trace if isinstance(event, str)}
    blocks = _around(model, attentions) if attentions else _stages(model, ran)
    blocks = [name for name in model_order(model, blocks) if name in ran]
    if not blocks:
        raise Refusal(f"No layers were found in {type(model).__name__}: it has no list of equal modules.")
    heads: list[int] = []
    for event in trace:
        if isinstance(event, tuple):
            if heads and not heads[-1]:
                heads[-1] = event[1]
        elif event in blocks:
            heads.append(0)
    return Layout(tuple(blocks), tuple(attentions), tuple(heads))


def model_order(model: nn.Module, names: list[str]) -> list[str]:
    wanted = set(names)
    return [name for name, _ in model.named_modules() if name in wanted]


def _around(model: nn.Module, attentions: list[str]) -> list[str]:
    """The layers around the attention modules, and what else stands in the same lists."""
    modules = dict(model.named_modules(remove_duplicate=False))
    ancestors = {name: [x for x in _prefixes(name) if _in_list(modules, x)] for name in attentions}
    holds = Counter(ancestor for chain in ancestors.values() for ancestor in chain)
    crowded = {type(modules[name]) for name, count in holds.items() if count > 1}
    blocks = []
    for name, chain in ancestors.items():
        alone = [x for x in chain if type(modules[x]) not in crowded]
        blocks.append(alone[0] if alone else name)
    lists = {parent for name in blocks if isinstance(modules[parent := _parent(name)], nn.ModuleList)}
    return blocks + [name for name in modules if name and _parent(name) in lists]


def _stages(model: nn.Module, ran: set[str]) -> list[str]:
    """The children of the outermost lists of equal modules, for models without attention."""
    stages: list[str] = []
    for name, module in model.named_modules():
        children = [child for child in module.children() if any(True for _ in child.parameters())]
        is_list = isinstance(module, (nn.ModuleList, nn.Sequential)) and len(children) > 1
        outermost = not any(prefix in stages for prefix in _prefixes(name))
        if is_list and outermost and len({type(child) for child in children}) == 1:
            stages += [f"{name}.{key}" if name else key for key, _ in module.named_children()]
    return [name for name in stages if name in ran]


def _prefixes(name: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`, `a.b.c`: the module and all around it, outermost first, without the model."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _in_list(modules: dict[str, nn.Module], name: str) -> bool:
    return bool(name) and isinstance(modules[_parent(name)], (nn.ModuleList, nn.Sequential))
