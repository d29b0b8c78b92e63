"""Measures what passes through the blocks, for every cell: a seed at one bias.

Legend: C cells, B sequences (the windows) of a cell, T tokens, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamics import metrics as registry
from dynamics.capture import AttentionCall
from dynamics.errors import InputError
from dynamics.experiments.probe.within_windows import SUFFIX, WithinWindows, evenly_spaced
from dynamics.measure.meter import Meter
from dynamics.measure.suite import Entry, Suite
from dynamics.metrics.streaming import Attention, Referenced, States, Sums
from dynamics.record import Row, condition

Cell = Mapping[str, object]  # the condition of a cell, without the part of the block


class ProbeSuites(NamedTuple):
    """What a probe measures."""

    every: Suite  # of states, on every token (first moments)
    sampled: Suite  # of states, on at most `sample` evenly spaced tokens of a cell (spectra and neighbour searches)
    attention: Suite
    sample: int

    @classmethod
    def parse(cls, names: Sequence[str], sample: int) -> "ProbeSuites":
        """Sort metrics by what they use; refuse those that are measured neither on states nor on attention."""
        every: list[Entry] = []
        sampled: list[Entry] = []
        attention: list[Entry] = []
        for name in names:
            quantity = name.removesuffix(SUFFIX)
            metric = registry.resolve(quantity)
            needs_all = isinstance(metric, Sums)
            is_of_states = "residual" in metric.sites and not isinstance(metric, Referenced)
            if is_of_states and name != quantity and quantity in registry.names():
                options = {"of": quantity, "most": None if needs_all else sample}
                every.append(Entry(name, f"{WithinWindows.__module__}.{WithinWindows.__name__}", options))
            elif is_of_states and name == quantity:
                (every if needs_all else sampled).append(Entry(metric.name, name, {}))
            elif "attention" in metric.sites and name == quantity:
                attention.append(Entry(metric.name, name, {}))
            else:
                raise InputError(f"metrics: {name} is measured neither on states nor on attention; remove it.")
        return cls(Suite({"residual": every}), Suite({"residual": sampled}), Suite({"attention": attention}), sample)

    def descriptions(self) -> dict[str, dict[str, Any]]:
        """Return title, unit, range, estimator and the like of every metric."""
        return self.every.descriptions() | self.sampled.descriptions() | self.attention.descriptions()


class Cells:
    """Measures the C cells that pass through the blocks together, of B `windows` each; `key` is run and subject."""

    def __init__(self, suites: ProbeSuites, key: tuple[str, str], cells: Sequence[Cell], windows: int) -> None:
        self._suites, self._key, self._cells, self._windows = suites, key, cells, windows
        self._rows: list[Row] = []
        self._attention: dict[int, Meter] = {}

    def on_states(self, part: str, layer: int, x: Tensor) -> None:
        """Measure the states x (C, B, T, D) of a part of the block at `layer`."""
        windows = self._numbers(x.shape[1] * x.shape[2], x.device)
        some_windows = evenly_spaced(windows, self._suites.sample)
        for cell, states in zip(self._cells, x.flatten(1, 2).unsqueeze(2), strict=True):
            some_states = States(evenly_spaced(states, self._suites.sample), some_windows)
            batches = States(states.double(), windows), some_states
            for suite, batch in zip((self._suites.every, self._suites.sampled), batches, strict=True):
                meter = Meter(suite, x.device)
                meter.feed("residual", layer, batch)
                self._read(meter, {**cell, "part": part})

    def on_attention(self, call: AttentionCall) -> None:
        """Measure an attention call of all cells. A layer may make several (local attention)."""
        rows = len(call.query) // len(self._cells)
        for number in range(len(self._cells)):
            self.on_cell(number, rows_of(call, slice(number * rows, (number + 1) * rows)))

    def on_cell(self, number: int, call: AttentionCall) -> None:
        """Measure an attention call of the cell with this number alone."""
        device = call.query.device
        meter = self._attention.setdefault(number, Meter(self._suites.attention, device))
        meter.feed("attention", call.layer, Attention(call, self._numbers(len(call.query), device)))

    def rows(self) -> list[Row]:
        """Return the rows of everything that has passed: the layers', for heads of random blocks are draws alike."""
        for number, meter in self._attention.items():
            self._read(meter, self._cells[number])
        self._attention.clear()
        return self._rows

    def _numbers(self, rows: int, device: torch.device) -> Tensor:
        """Number `rows` tokens or local windows by their sequence."""
        return torch.arange(self._windows, device=device).repeat_interleave(rows // self._windows)

    def _read(self, meter: Meter, cell: Cell) -> None:
        measured = meter.compute(*self._key, condition(**cell))
        self._rows += [row for row in measured.rows if row.head == -1]


def rows_of(call: AttentionCall, rows: slice) -> AttentionCall:
    """Return some rows of an attention call."""
    names = ("query", "key", "value", "valid", "mask", "scores")
    parts: dict[str, Any] = {name: getattr(call, name) for name in names}
    return replace(call, **{name: x[rows] for name, x in parts.items() if x is not None and len(x) == len(call.query)})


def biased(call: AttentionCall, query: Tensor, key: Tensor) -> AttentionCall:
    """Return the call with biases (H, K) added to its queries and (H_kv, K) to its keys, as they enter the product.

    Masks and relative biases stay as they are.
    """
    moved = replace(call, query=call.query + query[:, None], key=call.key + key[:, None])
    if call.scores is None:
        return moved
    # A model that computes its own softmax hands over finished scores: they change as the product does.
    change = moved.query @ moved.expanded_key().mT - call.query @ call.expanded_key().mT
    return replace(moved, scores=call.scores + call.scaling * change)
