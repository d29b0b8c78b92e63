"""Finds the layers of any model in one forward pass.

A layer is the outermost class of list children (`ModuleList`, `Sequential`; of any modules where there are no
lists) that holds exactly one attention module each. Names say little: the longest list of wav2vec2 holds its
convolutions, ALBERT calls one shared module again and again, CANINE keeps its layers in three encoders.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import nn

from dynamics.capture.calls import Call, at_work
from dynamics.capture.function_mode import Scores, ScoreWatch
from dynamics.errors import InputError


@dataclass(frozen=True)
class Layout:
    """Where the layers of a model are, and how often they run.

    `blocks` and `attentions` (cross-attention too) name each module once, though a shared one may run many times.
    `heads` has the query heads of each layer, as they run; 0 without self-attention.
    """

    blocks: tuple[str, ...]
    attentions: tuple[str, ...]
    heads: tuple[int, ...]

    @property
    def layers(self) -> int:
        """The number of layers L."""
        return len(self.heads)


def find_layers(model: nn.Module, forward: Callable[[], Any]) -> Layout:
    """Return the layout of `model`, learnt from one run of `forward`; an `InputError` if it has no layers."""
    stack: list[Call] = []
    trace: list[tuple[str, int]] = []  # (module, 0) when it starts, (module, heads) when it attends
    attending: dict[str, None] = {}

    def report(call: Call, scores: Scores) -> None:
        attending[call.name] = None
        shape = scores.query.shape
        if not call.cross:
            trace.append((call.name, shape[-3] if len(shape) > 3 else max(1, shape[0] // call.batch)))

    modules = dict(model.named_modules())
    with at_work(modules, stack, lambda name: trace.append((name, 0))), ScoreWatch(stack, report):
        forward()
    self_attentions = list(dict.fromkeys(name for name, heads in trace if heads))
    layers = _around(model, self_attentions) if self_attentions else _stages(model)
    blocks = tuple(dict.fromkeys(name for name, _ in trace if name in layers))
    if not blocks:
        raise InputError(f"No layers were found in {type(model).__name__}: it runs no list of equal modules.")
    heads: list[int] = []
    for name, count in trace:
        if count == 0 and name in blocks:
            heads.append(0)
        elif count and heads:
            heads[-1] = count
    return Layout(blocks, tuple(attending), tuple(heads))


def _around(model: nn.Module, attentions: list[str]) -> set[str]:
    """Return the layers around these modules, and what else stands in the same lists (layers of another kind)."""
    modules = dict(model.named_modules())
    lists = {name for name, module in modules.items() if isinstance(module, nn.ModuleList | nn.Sequential)}
    chains = {name: [x for x in _prefixes(name) if _parent(x) in lists] or _prefixes(name) for name in attentions}
    holds = Counter(ancestor for chain in chains.values() for ancestor in chain)
    crowded = {type(modules[name]) for name, count in holds.items() if count > 1}
    blocks = {next((x for x in chain if type(modules[x]) not in crowded), name) for name, chain in chains.items()}
    stacks = {_parent(name) for name in blocks if isinstance(modules[_parent(name)], nn.ModuleList)}
    return blocks | {name for name in modules if name and _parent(name) in stacks}


def _stages(model: nn.Module) -> set[str]:
    """Return the children of the outermost lists of equal modules: the layers of a model without attention."""
    stages: set[str] = set()
    for name, module in model.named_modules():
        children = dict(module.named_children())
        is_list = isinstance(module, (nn.ModuleList, nn.Sequential)) and len(children) > 1
        equal = len({type(child) for child in children.values()}) == 1
        learns = any(True for _ in module.parameters())
        if is_list and equal and learns and stages.isdisjoint(_prefixes(name)):
            stages |= {f"{name}.{key}".lstrip(".") for key in children}
    return stages


def _prefixes(name: str) -> list[str]:
    """Return the names of what is around a module, and its own: `a.b.c` -> `a`, `a.b`, `a.b.c`."""
    return list(accumulate(name.split("."), "{}.{}".format))


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
