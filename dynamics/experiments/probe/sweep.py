"""The sweep of the probe: every seed and every bias of one design."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from dynamics.capture import AttentionCall
from dynamics.experiments.probe.architectures import Architecture
from dynamics.experiments.probe.blocks import RandomBlocks, direction, draw, generator, ignore
from dynamics.experiments.probe.cells import Cell, Cells, ProbeSuites, biased
from dynamics.experiments.probe.design import ProbeSettings
from dynamics.record import Row, condition

BUDGET = 1 << 26  # numbers in the largest tensor that exists at a time
# Signs of a bias that is added to queries and keys themselves.
DIRECT = {"query": (1, 0), "key": (0, 1), "parallel": (1, 1), "opposed": (1, -1)}

Blocks = RandomBlocks | Architecture
Chunk = tuple[list[Cell], Callable[[Cells], None]]  # cells that are measured together, and a function that feeds them


class ProbeSweep:
    """All measurements of one design; `run` is the first column of the rows."""

    def __init__(self, blocks: Blocks, settings: ProbeSettings, suites: ProbeSuites, run: str) -> None:
        self._blocks, self._settings, self._suites = blocks, settings, suites
        self._key = run, blocks.design.architecture

    @property
    def work(self) -> int:
        """The amount of work, in the unit in which `rows` counts."""
        return sum(self._work(cells) for cells, _ in self._chunks())

    def rows(
        self, advance: Callable[[int], object], measured: frozenset[tuple[str, str]] = frozenset()
    ) -> Iterator[list[Row]]:
        """Yield the rows, some cells at a time, and report the work done to `advance`.

        Cells whose subject and condition (without the part) are in `measured` are left out.
        """
        for cells, feed in self._chunks():
            if not measured.issuperset((self._key[1], condition(**cell)) for cell in cells):
                meter = Cells(self._suites, self._key, cells, self._settings.batch)
                feed(meter)
                yield meter.rows()
            advance(self._work(cells))

    def _work(self, cells: Sequence[Cell]) -> int:
        return len(cells) * (4 * self._blocks.layers if cells[0]["bias"] == "input" else 1)

    def _chunks(self) -> Iterator[Chunk]:
        """Divide the cells of each seed into what fits into memory."""
        settings, (tokens, width) = self._settings, self._blocks.shape
        betas, fitting = settings.betas, max(1, BUDGET // (4 * settings.batch * tokens * width))
        seeds = range(settings.seed, settings.seed + settings.seeds)
        if "input" in settings.biases:
            for seed in seeds:
                for some in (betas[i : i + fitting] for i in range(0, len(betas), fitting)):
                    cells = [self._cell(seed, beta, "input") for beta in some]
                    yield cells, partial(self._feed_biased_inputs, seed, some)
        if biases := [(place, beta) for place in settings.biases if place in DIRECT for beta in betas]:
            for seed in seeds:
                cells = [self._cell(seed, beta, place) for place, beta in biases]
                yield cells, partial(self._feed_biased_attention, seed, biases)

    def _cell(self, seed: int, beta: float, bias: str) -> Cell:
        return {**self._blocks.design.condition, "beta": f"{beta:.10g}", "bias": bias, "seed": seed}

    def _inputs(self, seed: int) -> Tensor:
        """Draw inputs without a bias, the same for all norms: (1, B, T, D)."""
        shape = 1, self._settings.batch, *self._blocks.shape
        return draw(self._blocks.design.inputs, shape, generator(seed, "inputs")).to(self._blocks.device)

    def _feed_biased_inputs(self, seed: int, betas: Sequence[float], meter: Cells) -> None:
        """Pass x + b through the blocks."""
        bias = torch.tensor(betas)[:, None] * direction(self._blocks.shape[1:], generator(seed, "bias"))
        x = self._inputs(seed) + bias[:, None, None].to(self._blocks.device)
        meter.on_states("input", 0, x)
        self._blocks.run(seed, x, meter.on_states, meter.on_attention)

    def _feed_biased_attention(self, seed: int, biases: Sequence[tuple[str, float]], meter: Cells) -> None:
        """Pass inputs without a bias through the first attention, and add biases to its queries and keys."""
        calls: list[AttentionCall] = []
        self._blocks.run(seed, self._inputs(seed), ignore, calls.append, depth=1)
        for call in (call for call in calls if call.layer == 1):
            shape = call.key.shape[1], call.key.shape[-1]
            unit = direction(shape, generator(seed, "query-key bias")).to(call.key)
            for number, (place, beta) in enumerate(biases):
                on_query, on_key = (beta * sign * unit for sign in DIRECT[place])
                meter.on_cell(number, biased(call, on_query.repeat_interleave(call.groups, 0), on_key))
