"""Rows from what passes through the blocks: quantities by name, for every cell (a seed at a bias norm).

Legend: S seeds, C cells (bias norms) of a seed, B sequences of a cell, T tokens, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from inspect import signature

import torch
from torch import Tensor

from dynamics import metrics as registry
from dynamics.capture import AttentionCall
from dynamics.errors import InputError
from dynamics.metrics.streaming import Sums
from dynamics.metrics.streaming.base import Attention, Estimate, Group, groups
from dynamics.record import NAN, Row, condition

WITHIN = "_within_windows"


class Quantity:
    """A quantity of states: a function of `dynamics.metrics`, and the tokens that it is given.

    What reads first moments takes every token; spectra and neighbour searches take `sample` of them, evenly
    spaced. With `_within_windows` behind its name it is the mean over sequences of what each gives by itself.
    """

    def __init__(self, name: str, sample: int) -> None:
        self._within = name.endswith(WITHIN)
        name = name.removesuffix(WITHIN)
        self._sample = None if isinstance(registry.resolve(name), Sums) else sample
        self._function: Callable[..., Tensor] = getattr(import_module(f"dynamics.metrics.{name}"), name)
        self._by_window = "windows" in signature(self._function).parameters

    def __call__(self, x: Tensor) -> tuple[float, int]:
        """The value for the states `x` (B, T, D), and the number of tokens behind it."""
        if self._within:
            values, numbers = zip(*(self._value(one[None]) for one in x), strict=True)
            return sum(values) / len(values), sum(numbers)
        return self._value(x)

    def _value(self, x: Tensor) -> tuple[float, int]:
        windows = torch.arange(len(x), device=x.device).repeat_interleave(x.shape[1])
        x = x.flatten(0, 1)
        if self._sample is not None and len(x) > self._sample:
            chosen = torch.arange(self._sample, device=x.device) * len(x) // self._sample
            x, windows = x[chosen], windows[chosen]
        value = self._function(x, windows) if self._by_window else self._function(x)
        return float(value), len(x)


class Quantities:
    """The metrics of a probe by name, those of states and those of attention.

    Raises:
        InputError: a name that nothing bears, or a quantity of neither.
    """

    def __init__(self, names: Sequence[str], sample: int) -> None:
        self.states: dict[str, Quantity] = {}
        self._attention: list[str] = []
        for name in names:
            plain = name.removesuffix(WITHIN)
            sites = registry.resolve(plain).sites
            if "residual" in sites and plain in registry.names():
                self.states[name] = Quantity(name, sample)
            elif "attention" in sites and plain == name:
                self._attention.append(name)
            else:
                raise InputError(f"metrics: {name} is a quantity of neither states nor attention: leave it out.")

    def attention(self) -> list[Group]:
        """Fresh metrics of one attention."""
        return groups(registry.resolve(name) for name in self._attention)


class Meter:
    """Measures the cells that pass together, and keeps their rows.

    Args:
        quantities: what to measure.
        key: run and subject, the first columns of the rows.
        cells: the condition of each cell but for its part, seeds first: S lists of C.
    """

    def __init__(
        self, quantities: Quantities, key: tuple[str, str], cells: Sequence[Sequence[dict[str, object]]]
    ) -> None:
        self._quantities, self._key, self._cells = quantities, key, [cell for row in cells for cell in row]
        self._rows: list[Row] = []
        self._attention: dict[tuple[int, int], list[Group]] = {}

    def on_states(self, part: str, layer: int, x: Tensor) -> None:
        """States x (S, C, B, T, D) of a part of the block at `layer`."""
        for states, cell in zip(x.flatten(0, 1), self._cells, strict=True):
            for name, quantity in self._quantities.states.items():
                value, n = quantity(states)
                self._add({**cell, "part": part}, "residual", layer, name, value, NAN, NAN, n)

    def on_attention(self, call: AttentionCall) -> None:
        """An attention call of S * C * B rows, or of a multiple where windows are cut smaller."""
        rows = len(call.query) // len(self._cells)
        for i in range(len(self._cells)):
            self.on_cell(i, call.layer, cut(call, i * rows, (i + 1) * rows))

    def on_cell(self, cell: int, layer: int, call: AttentionCall) -> None:
        """The attention call of one cell. A layer may make several (local attention)."""
        if (cell, layer) not in self._attention:
            self._attention[cell, layer] = self._quantities.attention()
        windows = torch.arange(len(call.query), device=call.query.device)
        for group in self._attention[cell, layer]:
            group.update(Attention(call, windows))

    def rows(self) -> list[Row]:
        """The rows of everything that passed."""
        for (cell, layer), members in self._attention.items():
            for group in members:
                for name, found in group.compute().items():
                    self._add(self._cells[cell], "attention", layer, name, *_layer(found))
        self._attention.clear()
        return self._rows

    def _add(self, cell: dict[str, object], site: str, layer: int, name: str, *found: float) -> None:
        self._rows.append(Row(*self._key, condition(**cell), 0, site, layer, -1, name, *found))


def _layer(found: Estimate) -> tuple[float, float, float, int]:
    """The layer's value with its interval: heads of random blocks are draws like any other."""
    return float(found.value[-1]), float(found.low[-1]), float(found.high[-1]), found.n


def cut(call: AttentionCall, start: int, stop: int) -> AttentionCall:
    """The rows `start` to `stop` of an attention call."""
    rows = len(call.query)

    def of(x: Tensor | None) -> Tensor | None:
        return x[start:stop] if x is not None and len(x) == rows else x

    parts = {name: of(getattr(call, name)) for name in ("query", "key", "valid", "mask", "scores")}
    return replace(call, **parts)


def biased(call: AttentionCall, query: Tensor | None, key: Tensor | None) -> AttentionCall:
    """The call with biases (H, K) added to its queries and (H_kv, K) to its keys, as they enter the product.

    Masks and relative biases stay as they are.
    """
    moved = replace(
        call,
        query=call.query if query is None else call.query + query[:, None],
        key=call.key if key is None else call.key + key[:, None],
    )
    if call.scores is None:
        return moved
    # The model hands over finished scores: they change by what the product changes by.
    change = moved.query @ moved.expanded_key().mT - call.query @ call.expanded_key().mT
    return replace(moved, scores=call.scores + call.scaling * change)
