"""Finds the layers of any model in one forward pass.

A layer is the outermost class of list children (`ModuleList`, `Sequential`; of any modules where there are no
lists) that holds exactly one attention module each. Names say little: the longest list of wav2vec2 holds its
convolutions, ALBERT calls one shared module again and again, CANINE keeps its layers in three encoders, XLM keeps
attentions, norms and feed-forward parts in lists of their own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from dynamics.capture.calls import Call, at_work
from dynamics.capture.function_mode import ScoreWatch
from dynamics.capture.fused import Scores
from dynamics.capture.hearing import NO_SCORES, Hearing
from dynamics.capture.states import InputShape, StateLayout, first_states, input_shape, learn_layout
from dynamics.errors import InputError

_CODERS = {"encoder", "decoder"}

Trace = list[tuple[str, int]]  # (module, 0) when it starts, (module, heads) when it attends


@dataclass(frozen=True)
class Layout:
    """Where the layers of a model are, and how often they run.

    `blocks` and `attentions` (cross-attention too) name each module once, though a shared one may run many times. A
    layer's states leave its module in `exits`: the block itself, or the last part of a layer that is no module.
    `heads` has the query heads of each layer, as they run; 0 without self-attention; `places` its stack and number in
    it; `unheard`, by its place in these, why its attention is not captured; `unclear` names modules that take a softmax
    over scores that is not followed. `stacks` has the stack of each block: an encoder and a decoder, or towers of text
    and images, are numbered apart; "" where there is one. `depths` has the number of layers of each stack, and
    `outputs` the stack that the last hidden state of a model belongs to.
    """

    blocks: tuple[str, ...]
    exits: tuple[str, ...]
    attentions: tuple[str, ...]
    heads: tuple[int, ...]
    places: tuple[tuple[str, int], ...]
    unheard: dict[int, str]
    unclear: frozenset[str]
    stacks: tuple[str, ...]
    depths: Counter[str]
    outputs: dict[str, str]
    states: StateLayout

    @property
    def layers(self) -> int:
        """The number of layers L."""
        return len(self.heads)


def find_layers(model: nn.Module, forward: Callable[[], Any]) -> Layout:
    """Return the layout of `model`, learnt from one run of `forward`; an `InputError` if it has no layers."""
    stack: list[Call] = []
    trace: Trace = []
    attending: dict[str, bool] = {}  # whether it takes its keys from another sequence
    shapes: dict[str, Sequence[int]] = {}  # of what enters a module at first
    batch = InputShape()
    hearing = Hearing()

    def enter(name: str) -> None:
        nonlocal batch
        call = stack[-1]
        hearing.start(call, len(trace))
        trace.append((name, 0))
        if name not in shapes and (x := first_states((*call.args, *call.kwargs.values()))) is not None:
            shapes[name] = x.shape
        if (name == "" or isinstance(call.module, PreTrainedModel)) and batch == InputShape():
            batch = input_shape(call.module, call.args, call.kwargs)

    def report(call: Call, scores: Scores) -> None:
        attending[call.name] = call.cross
        shape = scores.query.shape
        if not call.cross:
            heads = shape[-3] if len(shape) > 3 else max(1, shape[0] // call.batch)
            hearing.add(call, scores, heads)
            trace.append((call.name, heads))

    modules = dict(model.named_modules())
    with at_work(modules, stack, enter), ScoreWatch(stack, report) as watch:
        forward()
    unclear = {call: reason for call, reason in watch.unclear().items() if not call.cross}
    self_attentions = list(dict.fromkeys(name for name, heads in trace if heads))
    attending |= {call.name: False for call in unclear if call.name not in attending}
    layers = _around(model, self_attentions) if self_attentions else set()
    if apart := [call.name for call in unclear if call.name and layers.isdisjoint(_prefixes(call.name))]:
        layers = _around(model, self_attentions + list(dict.fromkeys(apart)))
    layers = layers or _stages(model)
    for name, module in modules.items():  # an encoder or decoder whose attention is of no kind that is heard
        is_coder = isinstance(module, PreTrainedModel) and name.rpartition(".")[2] in _CODERS
        if is_coder and not any(layer.startswith(f"{name}.") for layer in layers):
            layers |= {f"{name}.{layer}" for layer in _stages(module)}
    blocks = tuple(dict.fromkeys(name for name, _ in trace if name in layers))
    if not blocks:
        raise InputError(f"No layers were found in {type(model).__name__}: it runs no list of equal modules.")
    runs = _runs(trace, set(blocks))
    reasons = hearing.reasons(unclear, trace, set(blocks))
    stacks = _stacks(modules, blocks, [name for name, crosses in attending.items() if crosses])
    outputs = {_innermost(_prefixes(name)[:-1], modules): stack for name, stack in stacks.items()}
    if len(set(stacks.values())) == 1:
        outputs = {next((x for x in modules if isinstance(modules[x], PreTrainedModel)), ""): ""}
    inside = tuple(f"{name}." for name in blocks)
    attentions = tuple(name for name in attending if name in blocks or name.startswith(inside))
    config = getattr(modules[_innermost(_prefixes(blocks[0])[:-1], modules)], "config", None)
    return Layout(
        blocks,
        exits=_exits(model, blocks, trace) if set(blocks) <= attending.keys() else blocks,
        attentions=attentions,
        heads=tuple(0 if place in reasons else heads for place, (_, heads) in enumerate(runs)),
        unheard={place: reasons.get(place, NO_SCORES) for place, (_, heads) in enumerate(runs) if not heads} | reasons,
        unclear=frozenset(call.name for call in unclear),
        places=_places([stacks[name] for name, _ in runs]),
        stacks=tuple(stacks.values()),
        depths=Counter(stacks[name] for name, _ in runs),
        outputs=outputs,
        states=learn_layout(
            shapes.get(blocks[0], ()),
            batch,
            [modules[name] for name in attentions],
            getattr(config, "altup_active_idx", 0),
        ),
    )


def _runs(trace: Trace, blocks: set[str]) -> Trace:
    """Return every run of a layer, in order, with the heads of its last self-attention; 0 without one."""
    runs: Trace = []
    inside = tuple(f"{name}." for name in blocks)
    for name, heads in trace:
        if heads == 0 and name in blocks:
            runs.append((name, 0))
        elif heads and (name in blocks or name.startswith(inside)):
            runs[-1] = (runs[-1][0], heads)
    return runs


def _places(stacks: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Return the stack of each layer and its number there."""
    return tuple((stack, stacks[: place + 1].count(stack)) for place, stack in enumerate(stacks))


def _around(model: nn.Module, attentions: list[str]) -> set[str]:
    """Return the layers around these modules, and what else stands in the same lists (layers of another kind)."""
    modules = dict(model.named_modules())
    lists = {name for name, module in modules.items() if isinstance(module, nn.ModuleList | nn.Sequential)}
    chains = {name: [x for x in _prefixes(name) if _parent(x) in lists] for name in attentions}
    if any(chains.values()):  # an attention outside of all lists is the head of a model, which pools
        chains = {name: chain for name, chain in chains.items() if chain}
    else:
        chains = {name: _prefixes(name) for name in attentions}
    holds = Counter(ancestor for chain in chains.values() for ancestor in chain)
    crowded = {type(modules[name]) for name, count in holds.items() if count > 1}
    blocks: set[str] = set()
    for name, chain in chains.items():
        block = next((x for x in chain if type(modules[x]) not in crowded), chain[-1])
        outer = [x for x in chain[:-1] if _parent(x) in lists]
        blocks.add(outer[-1] if block == name and outer else block)  # a layer may keep several attentions in a list
    # What holds layers is a stage, though it may attend between them.
    blocks = {name for name in blocks if not any(other.startswith(f"{name}.") for other in blocks)}
    stacks = {_parent(name) for name in blocks if isinstance(modules[_parent(name)], nn.ModuleList)}
    return blocks | {name for name in modules if name and _parent(name) in stacks}


def _exits(model: nn.Module, blocks: tuple[str, ...], trace: Trace) -> tuple[str, ...]:
    """Return what the states leave each layer by, where a layer's parts stand in lists side by side (XLM).

    Raises:
        InputError: the last part of a layer is no norm: the residual stream passes through no module then.
    """
    lists = {_parent(name) for name in blocks}
    if len(lists) > 1 or not isinstance(model.get_submodule(*lists), nn.ModuleList):
        return blocks
    around = _parent(*lists)
    children = model.get_submodule(around).named_children()
    beside = [
        f"{around}.{name}".lstrip(".") for name, x in children if isinstance(x, nn.ModuleList) and len(x) == len(blocks)
    ]
    owners = {f"{name}.{number}": number for name in beside for number in range(len(blocks))}
    exits = tuple({owners[name]: name for name, heads in trace if heads == 0 and name in owners}.values())
    if exits == blocks or all("norm" in type(model.get_submodule(name)).__name__.lower() for name in exits):
        return exits
    why = "keeps its layers as lists of parts, and no module returns the states of a whole layer"
    raise InputError(f"{type(model).__name__} {why}: it cannot be measured.")


def _stacks(modules: dict[str, nn.Module], blocks: Iterable[str], crossing: Sequence[str]) -> dict[str, str]:
    """Return the name of the stack of each block: of models in the model, or of lists of encoders and decoders.

    A decoder cross-attends, or is called so.
    """
    parts = {name: _innermost(_prefixes(name)[:-1], modules) for name in blocks}
    if len(set(parts.values())) == 1:
        crosses = {_parent(name): any(x.startswith(f"{name}.") for x in crossing) for name in parts}
        is_decoder = {_CODERS & set(name.split(".")) == {"decoder"} for name in parts}
        if len(set(crosses.values())) == 2 or len(is_decoder) == 2:
            parts = {name: _coder(name) for name in parts}
    paths = {part: part.split(".") for part in parts.values()}
    if len(paths) == 1:
        return dict.fromkeys(parts, "")
    depth = next(i for i, words in enumerate(zip_longest(*paths.values())) if len(set(words)) > 1)
    short = {part: path[depth] if depth < len(path) else "" for part, path in paths.items()}
    is_clear = len(set(short.values())) == len(short)
    return {name: short[part] if is_clear else ".".join(paths[part][depth:]) for name, part in parts.items()}


def _coder(name: str) -> str:
    """Return the prefix of a block's name that ends with `encoder` or `decoder`; its list where there is none."""
    return next((x for x in _prefixes(name) if x.rpartition(".")[2] in _CODERS), _parent(name))


def _innermost(prefixes: Sequence[str], modules: dict[str, nn.Module]) -> str:
    return next((name for name in reversed(prefixes) if isinstance(modules[name], PreTrainedModel)), "")


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
