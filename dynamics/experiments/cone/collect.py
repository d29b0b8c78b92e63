"""One pass over sentences: a vector for each at every depth, and the metrics of vectors and of their tokens.

Legend: B sentences of a batch, T tokens, n sentences, d width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynamics.capture import capture
from dynamics.errors import InputError
from dynamics.experiments.cone import dense
from dynamics.experiments.cone.pooling import MODES
from dynamics.experiments.cone.setup import Setup
from dynamics.loading.inputs import chunks
from dynamics.loading.models import Loaded
from dynamics.loading.text import CONTEXT, Encoder, pad
from dynamics.measure.measurement import exact
from dynamics.measure.meter import Meter
from dynamics.measure.suite import Suite
from dynamics.metrics.streaming import States
from dynamics.record import Array, Row, condition

OUTPUT = "output"
Key = tuple[str, str, int]
"""Run, subject and step of rows."""


class Depth(NamedTuple):
    """A layer of the residual stream, or (`state` is "output") what the model makes of the last one.

    That is what follows a final norm and, for sentences, the dense layers behind the pooling.
    """

    layer: int
    state: str = ""

    def where(self, **settings: str) -> str:
        """The condition of rows at this depth; empty settings are left out."""
        told = {"state": self.state, **settings}
        return condition(**{key: value for key, value in told.items() if value})


@dataclass
class Collected:
    """What a pass gives. Sentences keep their order.

    Args:
        vectors: (n, d) at every depth, pooled as the model does it, not normalised.
        token_sums: (n, d) at every depth: the sum of the directions of each sentence's tokens.
        token_counts: (n,).
        rows, arrays: of the metrics.
        seconds: spent on each metric and on the forward passes.
        truncated: sentences that were too long.
    """

    vectors: dict[Depth, np.ndarray]
    token_sums: dict[Depth, np.ndarray]
    token_counts: np.ndarray
    rows: list[Row] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    truncated: int = 0

    @property
    def final(self) -> Depth:
        """Where the model's own vectors come from: the output, where it differs from the last layer."""
        return max(self.vectors)


class Batch(NamedTuple):
    """Sentences by their numbers, the model's arguments, and how many tokens in front are not pooled."""

    numbers: list[int]
    inputs: dict[str, Tensor]
    skipped: int


def batches(
    sentences: Sequence[str], loaded: Loaded, code: Encoder | None, setup: Setup, size: int
) -> tuple[list[Batch], int]:
    """The batches, longest sentences first, and how many were too long.

    Args:
        code: None where the model encodes by itself.
        size: sentences in a batch.

    Raises:
        InputError: the tokenizer cannot pad, or makes nothing of a sentence.
    """
    texts = [setup.prepare(sentence) for sentence in sentences]
    if code is None:
        assert loaded.encode is not None
        groups = chunks(iter(range(len(texts))), size)
        return [Batch(part, dict(loaded.encode([texts[i] for i in part])), 0) for part in groups], 0
    if not code.pads and size > 1:
        raise InputError(
            f"the tokenizer of {loaded.source} has no padding token, so sentences of different lengths do not fit into "
            "one batch: say --batch_size 1, or name another with --tokenizer."
        )
    room = min((limit for limit in (code.limit, setup.length) if limit), default=CONTEXT)
    ids = [code.ids(text) for text in texts]
    empty = next((i for i, found in enumerate(ids) if not found and not code.specials), None)
    if empty is not None:
        raise InputError(f"the tokenizer of {loaded.source} makes nothing of the sentence {sentences[empty][:60]!r}.")
    windows = [code.window(found[: room - code.specials]) for found in ids]
    skipped = 0
    if setup.prompt and not setup.counts_prompt:
        skipped = len(code.prefix) + len(code.ids(setup.prepare("")))
    order = iter(sorted(range(len(windows)), key=lambda i: -len(windows[i])))
    made = [Batch(part, pad([windows[i] for i in part], code.pad), skipped) for part in chunks(order, size)]
    return made, sum(len(found) > room - code.specials for found in ids)


def collect(
    loaded: Loaded,
    parts: Sequence[Batch],
    setup: Setup,
    suite: Suite | None,
    key: Key,
    corpus: str = "",
    tick: Callable[[float], None] = lambda share: None,
) -> Collected:
    """Run the model over the batches.

    Args:
        suite: metrics of the sites `sentence` (the model's own pooling) and `token`; the other poolings get their
            mean cosine. None measures nothing and keeps vectors alone.
        key: of the rows.
        corpus: named in their condition.
        tick: told the share that is done.
    """
    with exact(loaded.model, None) as network:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        gather = _Gatherer(suite, setup, device, sum(len(part.numbers) for part in parts))
        done = 0
        with capture(network, {"residual", "output"}, gather.on_states):
            for part in parts:
                gather.begin(part)
                network(**{name: value.to(device) for name, value in part.inputs.items()})
                done += len(part.numbers)
                tick(done / gather.count)
    return gather.finish(key, corpus)


class _Gatherer:
    """Pools states as they pass, keeps the vectors and feeds the meters."""

    def __init__(self, suite: Suite | None, setup: Setup, device: torch.device, count: int) -> None:
        mode = setup.mode
        self._suite, self._mode, self._device, self.count = suite, mode, device, count
        self._dense = setup.dense
        others = Suite.parse({"mean_cosine": {"sites": ["sentence"]}})
        self._suites = {mode: suite} if suite else {}
        self._suites |= {other: others for other in MODES if other != mode and suite}
        self._meters: dict[tuple[str, str], Meter] = {}
        self._vectors: dict[Depth, np.ndarray] = {}
        self._sums: dict[Depth, np.ndarray] = {}
        self._counts = np.zeros(count)
        self._numbers: list[int] = []
        self._skipped = 0

    def begin(self, part: Batch) -> None:
        """A batch follows."""
        self._numbers, self._skipped = part.numbers, part.skipped

    def on_states(self, site: str, layer: int, x: Tensor, valid: Tensor) -> None:
        """Token states x (B, T, d), valid (B, T)."""
        depth, x = Depth(layer, OUTPUT if site == "output" else ""), x.float()
        numbers = torch.tensor(self._numbers, device=x.device)
        kept = valid
        if self._skipped:
            kept = valid & (valid.cumsum(1) > self._skipped)
            kept = torch.where(kept.any(1, keepdim=True), kept, valid)
        own = self._pooled(self._mode, depth, x, kept)
        self._put(self._vectors, depth, own)
        if not self._suite:
            return
        directions = torch.nn.functional.normalize(x.double(), dim=-1, eps=1e-300)
        self._put(self._sums, depth, (directions * kept[..., None]).sum(1))
        self._counts[self._numbers] = kept.sum(1).cpu().numpy()
        for mode in self._suites:
            vectors = own if mode == self._mode else self._pooled(mode, depth, x, kept)
            self._feed(mode, depth, "sentence", States(vectors.float()[:, None], numbers))
        windows = numbers[:, None].expand(kept.shape)[kept]
        self._feed(self._mode, depth, "token", States(x[kept][:, None], windows))

    def _pooled(self, mode: str, depth: Depth, x: Tensor, kept: Tensor) -> Tensor:
        vectors = MODES[mode](x.double(), kept)
        return dense.apply(self._dense, vectors) if depth.state else vectors

    def _put(self, kept: dict[Depth, np.ndarray], depth: Depth, values: Tensor) -> None:
        if depth not in kept:
            kept[depth] = np.zeros((self.count, values.shape[-1]), dtype=np.float32)
        kept[depth][self._numbers] = values.cpu().numpy()

    def _feed(self, mode: str, depth: Depth, site: str, states: States) -> None:
        meter = self._meters.setdefault((mode, depth.state), Meter(self._suites[mode], self._device))
        if site in self._suites[mode].sites:
            meter.feed(site, depth.layer, states)

    def finish(self, key: Key, corpus: str) -> Collected:
        """Rows and vectors. Where the output is the last layer, it stands there alone."""
        made = Collected(self._vectors, self._sums, self._counts)
        for depth in [depth for depth in made.vectors if depth.state]:
            if np.array_equal(made.vectors[depth], made.vectors[Depth(depth.layer)]):
                made.vectors.pop(depth)
                made.token_sums.pop(depth, None)
        run, subject, step = key
        states = {depth.state for depth in made.vectors}
        for (mode, state), meter in self._meters.items():
            if state in states:
                settings = {"corpus": corpus, "pooling": "" if mode == self._mode else mode}
                where = Depth(0, state).where(**settings)
                result = meter.compute(run, subject, where, step)
                made.rows += result.rows
                made.arrays += result.arrays
        return made


def depths(collected: Collected) -> Iterator[Depth]:
    """The embeddings first, the output last."""
    yield from sorted(collected.vectors)
