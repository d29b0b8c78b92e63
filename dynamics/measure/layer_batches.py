"""Layers whose metrics are fed together: on a GPU a launch costs more than the work on a small layer.

What a layer hands over waits for that of the other layers. Where they agree in shape, tokens and metrics, their heads
are laid end to end and update one accumulator; at the end the host gets its states in one copy, and every layer takes
its part of them.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dynamics.capture import AttentionCall
from dynamics.measure.budget import Budgeted
from dynamics.measure.suite import Suite
from dynamics.metrics.streaming import Attention, Group, Pair, States, Weights
from dynamics.metrics.streaming.transfer import to_host

LARGEST = 1 << 24  # bytes of a layer's batch from which its work outweighs the launches: it does not wait
Batch = States | Pair | Attention | Weights
Place = tuple[str, str, int]  # stack, site and layer


@dataclass(eq=False)
class LayerBatch:
    """Layers that are fed together, and their common groups."""

    places: list[Place]
    members: list[Budgeted]


class LayerBatches:
    """All layers of a meter that are fed together with others: `update` feeds a group."""

    def __init__(self, suite: Suite, update: Callable[[Budgeted, Batch], None]) -> None:
        self._suite, self._update = suite, update
        self._members: dict[Place, list[Budgeted]] = {}  # each layer's own groups that common ones stand for
        self._waiting: dict[Place, list[Batch]] = defaultdict(list)
        self._of: dict[Place, LayerBatch] = {}
        self._alone: set[Place] = set()

    def hold(self, place: Place, batch: Batch, members: list[Budgeted]) -> list[Budgeted]:
        """Let a batch wait for those of other layers; return the groups that take it at once."""
        joint = [member for member in members if _is_joint(member.group)]
        if place in self._alone or not joint:
            return members
        tensors = _tensors(batch)
        if _likeness(batch) is None or sum(x.numel() * x.itemsize for x in tensors) > LARGEST:
            self.flush()
            self._split(place)
            return members
        self._members[place] = joint
        self._waiting[place].append(batch)
        return [member for member in members if not _is_joint(member.group)]

    def flush(self) -> None:
        """Feed everything that waits."""
        alike: dict[Any, list[Place]] = defaultdict(list)
        for place, batches in self._waiting.items():
            if place not in self._of:
                kind = list(map(_likeness, batches))
                alike[repr((self._suite.sites[place[1]], kind))].append(place)
        for places in alike.values():
            self._gather(places)
        for layers in dict.fromkeys(map(self._of.__getitem__, self._waiting)):
            fed = [self._waiting[place] for place in layers.places]
            if len({tuple(map(_likeness, own)) for own in fed}) == 1:
                for parts in map(list, zip(*fed, strict=True)):
                    for member in layers.members:
                        self._update(member, _joined(parts))
            else:  # they are no longer fed alike
                for place, own in zip(layers.places, fed, strict=True):
                    self._split(place)
                    for batch in own:
                        for member in self._members[place]:
                            self._update(member, batch)
        self._waiting.clear()

    def _gather(self, places: list[Place]) -> LayerBatch:
        """Give layers that are to be fed together their common groups."""
        groups = [(group, budget) for group, budget in self._suite.build(places[0][1]) if _is_joint(group)]
        for group, _ in groups:
            group.states.layers = len(places)
        layers = LayerBatch(places, [Budgeted(*pair) for pair in groups])
        self._of.update(dict.fromkeys(places, layers))
        return layers

    def states(self) -> dict[str, Any]:
        """Return all common states, after a `flush`, for `load`."""
        together = dict.fromkeys(self._of.values())
        common = [(layers.places, [member.states() for member in layers.members]) for layers in together]
        return {"alone": list(self._alone), "common": common}

    def load(self, states: dict[str, Any], members: dict[Place, list[Budgeted]]) -> None:
        """Take what `states` returned; `members` are each layer's own groups."""
        self._alone = set(states["alone"])
        for places, common in states["common"]:
            for member, kept in zip(self._gather(places).members, common, strict=True):
                member.load(kept)
            self._members |= {place: [m for m in members[place] if _is_joint(m.group)] for place in places}

    def _split(self, place: Place) -> None:
        """Give the layers that are fed together with `place` their own states: from now on each is fed alone."""
        self._alone.add(place)
        if place in self._of:
            layers = self._of[place]
            for number, other in enumerate(layers.places):
                del self._of[other]
                self._alone.add(other)
                self._take(layers, number)

    def settle(self) -> None:
        """Bring all common states to the host, after a `flush`, and give every layer its part."""
        together = list(dict.fromkeys(self._of.values()))
        states = [member.group.states for layers in together for member in layers.members]
        names = [(of, name) for of in states for name in of._defaults if name not in of.stays]
        values = [getattr(of, name) for of, name in names]
        moved = iter(to_host([x for value in values for x in (value if isinstance(value, list) else [value])]))
        for (of, name), value in zip(names, values, strict=True):
            setattr(of, name, [next(moved) for _ in value] if isinstance(value, list) else next(moved))
        for layers in together:
            for number in range(len(layers.places)):
                self._take(layers, number)
                for shared, own in zip(layers.members, self._members[layers.places[number]], strict=True):
                    own.group.states.whole = shared.group.states, number

    def _take(self, layers: LayerBatch, number: int) -> None:
        for shared, own in zip(layers.members, self._members[layers.places[number]], strict=True):
            own.group.states.take(shared.group.states, number)
            own.seen = shared.seen


def _is_joint(group: Group) -> bool:
    """Whether layers may share the accumulator: the class that fills its states says where their heads are."""
    filler = next(base for base in type(group.states).__mro__ if "update" in vars(base))
    return bool(vars(filler).get("heads_at"))


def _tensors(batch: Batch) -> list[Tensor]:
    if isinstance(batch, Attention):
        return [batch.call.query, batch.call.key]
    return [x for x in batch if isinstance(x, Tensor)]


def _likeness(batch: Batch) -> tuple[Any, ...] | None:
    """Return what batches of different layers must share to be joined; None where they cannot be."""
    if isinstance(batch, Pair):
        return None
    sizes = [(x.shape, x.dtype, x.device) for x in _tensors(batch)]
    if isinstance(batch, Weights):
        return tuple(sizes)
    if isinstance(batch, States):
        return *sizes, _memory(batch.windows)
    call = batch.call
    if not isinstance(call, AttentionCall) or any(x is not None for x in (call.scores, call.sinks, call.change)):
        return None
    if call.mask is not None and (call.mask.ndim != 4 or call.mask.shape[1] != 1):
        return None
    same = [None if x is None else _memory(x) for x in (batch.windows, call.valid, call.mask)]
    return *sizes, *same, call.scaling, call.is_causal, call.cross


def _memory(x: Tensor) -> tuple[Any, ...]:
    """Return what tells a tensor from all others that exist beside it."""
    return x.data_ptr(), x.shape, x.stride(), x.dtype, x.device


def _joined(parts: list[Batch]) -> Batch:
    """Return the batches of several layers as one: their heads one layer after the other."""
    first = parts[0]
    if isinstance(first, States):
        return first._replace(x=torch.cat([_tensors(part)[0] for part in parts], dim=1))
    axis = 0 if isinstance(first, Weights) else 1
    query, key = (torch.cat(tensors, dim=axis) for tensors in zip(*map(_tensors, parts), strict=True))
    if isinstance(first, Attention) and isinstance(first.call, AttentionCall):
        return Attention(replace(first.call, query=query, key=key), first.windows)
    return Weights(query, key)
