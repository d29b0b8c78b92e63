"""The sweep: every design, every seed, every bias norm."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dynamics.capture import AttentionCall
from dynamics.experiments.probe.blocks import OnAttention, OnStates, direction, draw, generator, ignore
from dynamics.experiments.probe.design import Design, Settings
from dynamics.experiments.probe.meter import Meter, Quantities, biased
from dynamics.record import Row

BUDGET = 1 << 26
"""Numbers in the largest tensor that exists at a time."""
DIRECT = {"query": (1, 0), "key": (0, 1), "parallel": (1, 1), "opposed": (1, -1)}
"""Signs of a bias that is put straight on queries and keys."""


class Blocks(Protocol):
    """Untrained blocks: random ones, or an architecture's.

    `layers` of them; `shape` is (tokens, width) of what enters the first; `together` says whether one pass may
    hold several seeds.
    """

    design: Design
    layers: int
    shape: tuple[int, int]
    together: bool

    def run(
        self, seeds: Sequence[int], x: Tensor, on_states: OnStates, on_attention: OnAttention, depth: int = 0
    ) -> None:
        """Pass `x` (S, C, B, T, D) through the first `depth` blocks (all by default)."""


class Sweep:
    """All that one design is asked: rows, some cells at a time.

    Args:
        blocks: what is probed.
        settings: of the probe.
        quantities: what to measure.
        run: the first column of the rows.
        device: of the states.
    """

    def __init__(
        self, blocks: Blocks, settings: Settings, quantities: Quantities, run: str, device: torch.device
    ) -> None:
        self._blocks, self._settings, self._quantities, self._device = blocks, settings, quantities, device
        self._key = run, blocks.design.architecture
        self._seeds = range(settings.seed, settings.seed + settings.seeds)
        self._direct = [place for place in settings.biases if place in DIRECT]

    @property
    def work(self) -> int:
        """How much there is to do, in the unit that `rows` counts in."""
        cells = len(self._seeds) * len(self._settings.betas)
        return cells * (("input" in self._settings.biases) * 4 * self._blocks.layers + len(self._direct))

    def rows(self, advance: Callable[[int], object]) -> Iterator[list[Row]]:
        """The rows, as they come; `advance` is told of the work done."""
        if "input" in self._settings.biases:
            for seeds, betas in self._chunks():
                yield self._biased_inputs(seeds, betas)
                advance(len(seeds) * len(betas) * 4 * self._blocks.layers)
        for seed in self._seeds if self._direct else ():
            yield self._biased_attention(seed)
            advance(len(self._settings.betas) * len(self._direct))

    def _chunks(self) -> Iterator[tuple[Sequence[int], Sequence[float]]]:
        """Seeds and bias norms that pass together: what fits, all norms of a seed before the next seed's."""
        tokens, width = self._blocks.shape
        fits = max(1, BUDGET // (4 * self._settings.batch * tokens * width))
        betas = self._settings.betas
        seeds = max(1, fits // len(betas)) if self._blocks.together else 1
        for i in range(0, len(self._seeds), seeds):
            for j in range(0, len(betas), fits):
                yield self._seeds[i : i + seeds], betas[j : j + fits]

    def _cell(self, seed: int, beta: float, bias: str) -> dict[str, object]:
        return {**self._blocks.design.condition, "beta": f"{beta:.10g}", "bias": bias, "seed": seed}

    def _inputs(self, seeds: Sequence[int]) -> Tensor:
        """Inputs without a bias, the same for all norms: (S, 1, B, T, D)."""
        shape, kind = (self._settings.batch, *self._blocks.shape), self._blocks.design.inputs
        drawn = [draw(kind, shape, generator(seed, "inputs")) for seed in seeds]
        return torch.stack(drawn)[:, None].to(self._device)

    def _biased_inputs(self, seeds: Sequence[int], betas: Sequence[float]) -> list[Row]:
        """States and attention of blocks that are fed x + b."""
        cells = [[self._cell(seed, beta, "input") for beta in betas] for seed in seeds]
        meter = Meter(self._quantities, self._key, cells)
        towards = torch.stack([direction(self._blocks.shape[1:], generator(seed, "bias")) for seed in seeds])
        bias = torch.tensor(betas)[:, None] * towards[:, None]
        x = self._inputs(seeds) + bias[:, :, None, None].to(self._device)
        meter.on_states("input", 0, x)
        self._blocks.run(seeds, x, meter.on_states, meter.on_attention)
        return meter.rows()

    def _biased_attention(self, seed: int) -> list[Row]:
        """The first block's attention, inputs unbiased, with biases on its queries and keys."""
        calls: list[AttentionCall] = []
        self._blocks.run([seed], self._inputs([seed]), ignore, calls.append, depth=1)
        calls = [call for call in calls if call.layer == 1]
        signs = [(place, beta) for place in self._direct for beta in self._settings.betas]
        cells = [self._cell(seed, beta, place) for place, beta in signs]
        meter = Meter(self._quantities, self._key, [cells])
        for call in calls:
            heads, width = call.key.shape[1], call.key.shape[-1]
            unit = direction((heads, width), generator(seed, "query-key bias")).to(call.key)
            for i, (place, beta) in enumerate(signs):
                on_query, on_key = (beta * sign * unit for sign in DIRECT[place])
                grouped = on_query.repeat_interleave(call.groups, 0)
                meter.on_cell(i, call.layer, biased(call, grouped, on_key))
        return meter.rows()
