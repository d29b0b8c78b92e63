"""One pass over sentences: a vector for each at every depth, and the metrics of vectors and of their tokens.

B sentences of a batch, T tokens, n sentences, d width.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynamics.capture import capture
from dynamics.errors import InputError
from dynamics.experiments.cone.pooling import MODES
from dynamics.experiments.cone.sentences import label
from dynamics.experiments.cone.setup import Setup
from dynamics.loading.encoder import Encoder
from dynamics.loading.inputs import Batch, chunks
from dynamics.loading.models import Loaded
from dynamics.loading.text import CONTEXT, pad
from dynamics.measure.measurement import exact
from dynamics.measure.meter import Meter
from dynamics.measure.suite import Suite
from dynamics.metrics.streaming import States
from dynamics.record import Array, Row, condition

Key = tuple[str, str, int]
"""Run, subject and step of rows."""


class Depth(NamedTuple):
    """A layer of the residual stream, or (`state` is "output") what follows the last one.

    That is a final norm and, for sentences, the dense layers after the pooling.
    """

    layer: int
    state: str = ""

    def where(self, **settings: str) -> str:
        """Return the condition of rows at this depth; empty settings are left out."""
        return condition(**{key: value for key, value in {"state": self.state, **settings}.items() if value})


class SentenceBatch(NamedTuple):
    """Sentences by their numbers, the model's arguments, and how many tokens in front are not pooled."""

    numbers: list[int]
    inputs: Batch
    skipped: int = 0


def batches(
    sentences: Sequence[str], loaded: Loaded, code: Encoder | None, setup: Setup, size: int
) -> tuple[list[SentenceBatch], int]:
    """Return batches of `size`, longest sentences first, and how many sentences were too long.

    Args:
        code: None where the model encodes by itself.

    Raises:
        InputError: the tokenizer cannot pad, or makes no token of a sentence.
    """
    texts = [setup.prepare(sentence) for sentence in sentences]
    if code is None:
        assert loaded.encode is not None
        groups = chunks(iter(range(len(texts))), size)
        return [SentenceBatch(part, dict(loaded.encode([texts[i] for i in part]))) for part in groups], 0
    if not code.pads and size > 1:
        raise InputError(
            f"the tokenizer of {loaded.source} has no padding token, so sentences of different lengths do not fit into "
            "one batch: add --batch_size 1, or name another with --tokenizer."
        )
    room = min((limit for limit in (code.limit, setup.length) if limit), default=CONTEXT) - code.specials
    ids = [code.ids(text) for text in texts]
    if not code.specials and [] in ids:
        empty = sentences[ids.index([])][:60]
        raise InputError(f"the tokenizer of {loaded.source} makes no token of the sentence {empty!r}.")
    windows = [code.window(numbers[:room]) for numbers in ids]
    is_skipped = setup.prompt and not setup.counts_prompt
    skipped = len(code.prefix) + len(code.ids(setup.prepare(""))) if is_skipped else 0
    order = iter(sorted(range(len(windows)), key=lambda i: -len(windows[i])))
    parts = [SentenceBatch(part, pad([windows[i] for i in part], code.pad), skipped) for part in chunks(order, size)]
    return parts, sum(len(numbers) > room for numbers in ids)


class Collected:
    """What a pass over `count` sentences collects, in their order: states are pooled and measured as they pass."""

    def __init__(self, suite: Suite | None, setup: Setup, device: torch.device, count: int) -> None:
        self.part = SentenceBatch([], {})  # the batch that the model reads
        self.vectors: dict[Depth, np.ndarray] = {}  # (n, d) at every depth, pooled as the model does it
        self.token_sums: dict[Depth, np.ndarray] = {}  # (n, d): the sum of the directions of each sentence's tokens
        self.token_counts = np.zeros(count)
        self.rows: list[Row] = []
        self.arrays: list[Array] = []
        self._setup, self._device = setup, device
        others = Suite.parse({"mean_cosine": {"sites": ["sentence"]}})
        self._suites = {setup.mode: suite} | {mode: others for mode in MODES if mode != setup.mode} if suite else {}
        self._meters: dict[tuple[str, str], Meter] = {}

    @property
    def final(self) -> Depth:
        """The depth of the model's own vectors: the output, where it differs from the last layer."""
        return max(self.vectors)

    def on_states(self, site: str, layer: int, x: Tensor, valid: Tensor) -> None:
        """Take token states x (B, T, d), valid (B, T)."""
        depth, x = Depth(layer, "output" if site == "output" else ""), x.float()
        numbers = torch.tensor(self.part.numbers, device=x.device)
        pooled = valid
        if self.part.skipped:
            pooled = valid & (valid.cumsum(1) > self.part.skipped)
            pooled = torch.where(pooled.any(1, keepdim=True), pooled, valid)
        vectors = self._pool(self._setup.mode, depth, x, pooled)
        self._put(self.vectors, depth, vectors)
        if not self._suites:
            return
        directions = torch.nn.functional.normalize(x.double(), dim=-1, eps=1e-300)
        self._put(self.token_sums, depth, (directions * pooled[..., None]).sum(1))
        self.token_counts[self.part.numbers] = pooled.sum(1).cpu().numpy()
        for mode in self._suites:
            by_mode = vectors if mode == self._setup.mode else self._pool(mode, depth, x, pooled)
            self._feed(mode, depth, "sentence", States(by_mode.float()[:, None], numbers))
        windows = numbers[:, None].expand(pooled.shape)[pooled]
        self._feed(self._setup.mode, depth, "token", States(x[pooled][:, None], windows))

    def _pool(self, mode: str, depth: Depth, x: Tensor, pooled: Tensor) -> Tensor:
        vectors = MODES[mode](x.double(), pooled)
        for layer in self._setup.dense if depth.state else ():
            vectors = layer(vectors)
        return vectors

    def _put(self, arrays: dict[Depth, np.ndarray], depth: Depth, values: Tensor) -> None:
        if depth not in arrays:
            arrays[depth] = np.zeros((len(self.token_counts), values.shape[-1]), dtype=np.float32)
        arrays[depth][self.part.numbers] = values.cpu().numpy()

    def _feed(self, mode: str, depth: Depth, site: str, states: States) -> None:
        meter = self._meters.setdefault((mode, depth.state), Meter(self._suites[mode], self._device))
        if site in self._suites[mode].sites:
            meter.feed(site, depth.layer, states)

    def finish(self, key: Key, corpus: str) -> None:
        """Sort by depth, leave out an output that equals the last layer, and take the rows of the meters."""
        vectors = self.vectors
        self.vectors = {
            depth: x
            for depth, x in sorted(vectors.items())
            if not (depth.state and np.array_equal(x, vectors[Depth(depth.layer)]))
        }
        run, subject, step = key
        states = {depth.state for depth in self.vectors}
        for (mode, state), meter in self._meters.items():
            if state in states:
                where = Depth(0, state).where(corpus=label(corpus), pooling=mode if mode != self._setup.mode else "")
                result = meter.compute(run, subject, where, step)
                self.rows += result.rows
                self.arrays += result.arrays


def collect(
    loaded: Loaded,
    parts: Sequence[SentenceBatch],
    setup: Setup,
    suite: Suite | None,
    key: Key,
    corpus: str,
    on_sentences: Callable[[int], None] = lambda count: None,
) -> Collected:
    """Run the model over the batches.

    Args:
        suite: metrics of the sites `sentence` (the model's own pooling) and `token`; the other poolings get their
            mean cosine. None measures nothing and keeps vectors alone.
        corpus: named in the condition of the rows.
        on_sentences: called after each batch with its number of sentences.
    """
    collected = Collected(suite, setup, loaded.device, sum(len(part.numbers) for part in parts))
    with exact(loaded.model, None) as network, capture(network, {"residual", "output"}, collected.on_states):
        for part in parts:
            collected.part = part
            network(**{name: value.to(loaded.device) for name, value in part.inputs.items()})
            on_sentences(len(part.numbers))
    collected.finish(key, corpus)
    return collected
