"""Metrics for every site and layer, fed as the capture hands tensors over.

Shapes: B rows of a batch, T tokens, D width, H heads, K head width.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
from torch import Tensor

from dynamics.capture import AttentionCall
from dynamics.measure.suite import Suite
from dynamics.metrics.streaming.base import Attention, Group, Metric, Pair, States, Weights

PAIR = "pair"
"""Metrics of two representations of the same tokens. Their rows stand at `residual`."""

MASK = "attention_mask"


@dataclass
class _Budgeted:
    """A group that takes tokens up to its budget, in whole windows."""

    group: Group
    budget: int | None
    seen: int = 0

    def take(self, batch: States | Pair | Attention) -> States | Pair | Attention | None:
        """What of the batch the group still has room for."""
        if self.budget is None:
            return batch
        room = self.budget - self.seen
        if room <= 0:
            return None
        if isinstance(batch, Attention):
            tokens = batch.call.valid.sum(1).cumsum(0)
            rows = _behind(batch.windows, int((tokens < room).sum()))
            self.seen += int(tokens[rows - 1])
            return Attention(_rows(batch.call, rows), batch.windows[:rows])
        stop = _behind(batch.windows, room - 1)
        self.seen += stop
        return type(batch)(*(part[:stop] for part in batch))


def _behind(windows: Tensor, place: int) -> int:
    """Where the window at `place` ends, or all of them: what is of one window stands together.

    >>> _behind(torch.tensor([7, 7, 3, 3, 5]), 2)
    4
    """
    return int((windows == windows[min(place, len(windows) - 1)]).nonzero()[-1]) + 1


def _rows(call: AttentionCall, rows: int) -> AttentionCall:
    def cut(x: Tensor | None) -> Tensor | None:
        return x if x is None or x.ndim < 4 or x.shape[0] == 1 else x[:rows]

    return replace(
        call,
        query=call.query[:rows],
        key=call.key[:rows],
        valid=call.valid[:rows],
        mask=cut(call.mask),
        scores=cut(call.scores),
    )


class Meter:
    """Builds the metrics of a suite where tensors arrive, feeds them, and books the time of each."""

    def __init__(self, suite: Suite, device: torch.device) -> None:
        self._suite, self._device = suite, device
        self._members: dict[tuple[str, int], list[_Budgeted]] = {}
        self._previous: Tensor | None = None
        self._numbers = torch.zeros(0, dtype=torch.int64)
        self._copies: Counter[int] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)

    @property
    def spent(self) -> float:
        """Seconds spent in metrics so far."""
        return sum(self.seconds.values())

    @property
    def groups(self) -> Iterator[tuple[str, int, Group]]:
        """Site, layer and group of everything that was fed, in order."""
        for (site, layer), members in sorted(self._members.items()):
            for member in members:
                yield site, layer, member.group

    def begin_batch(self, batch: Mapping[str, Tensor]) -> None:
        """A batch follows: its windows (rows) get numbers.

        A window's number is a hash of its content without padding, so that neither batching, nor the order of
        batches, nor the ranks change which windows a sample keeps. A window that was there before is another unit.
        """
        x, mask = next(x for name, x in batch.items() if name != MASK), batch.get(MASK)
        rows = x.detach().cpu()
        if mask is not None and mask.shape == rows.shape[: mask.ndim]:
            rows = [row[kept] for row, kept in zip(rows, mask.bool().cpu(), strict=True)]
        digests = [blake2b(row.contiguous().view(-1).view(torch.uint8).numpy(), digest_size=8) for row in rows]
        numbers = [int.from_bytes(digest.digest(), "little") >> 1 for digest in digests]
        for place, number in enumerate(numbers):
            numbers[place] = (number + self._copies[number]) % 2**63
            self._copies[number] += 1
        self._numbers = torch.tensor(numbers, dtype=torch.int64, device=self._device)

    def on_states(self, site: str, layer: int, x: Tensor, valid: Tensor) -> None:
        """Token states x (B, T, D), valid (B, T)."""
        states = self._states(x.unsqueeze(2), valid)
        if site in self._suite.sites:
            self.feed(site, layer, states)
        if site == "residual" and PAIR in self._suite.sites:
            if layer > 0 and self._previous is not None and len(self._previous) == len(states.x):
                self.feed(PAIR, layer, Pair(self._previous, states.x, states.windows))
            self._previous = states.x

    def on_attention(self, call: AttentionCall) -> None:
        """One attention call: queries, keys and the attention itself are three sites."""
        if "query" in self._suite.sites:
            self.feed("query", call.layer, self._states(call.query.transpose(1, 2), call.valid))
        if "key" in self._suite.sites:
            self.feed("key", call.layer, self._states(call.key.transpose(1, 2), call.key_valid))
        if "attention" in self._suite.sites:
            self.feed("attention", call.layer, Attention(call, self.windows(len(call.query))))

    def feed(self, site: str, layer: int, batch: States | Pair | Attention | Weights) -> None:
        """Update every metric of a site and layer; a batch of padding alone holds nothing."""
        if isinstance(batch, States | Pair) and not len(batch.windows):
            return
        key = (site, layer)
        if key not in self._members:
            self._members[key] = [_Budgeted(group, budget) for group, budget in self._suite.build(site)]
        for member in self._members[key]:
            with self.timed(member.group.metrics):
                taken = batch if isinstance(batch, Weights) else member.take(batch)
                if taken is not None:
                    member.group.update(taken)

    def windows(self, rows: int) -> Tensor:
        """Numbers (rows,) of the windows: an image's local windows (Swin) count as the one image."""
        size = len(self._numbers)
        return self._numbers.repeat_interleave(rows // size) if rows % size == 0 else self._numbers[:rows]

    @contextmanager
    def timed(self, metrics: Sequence[Metric]) -> Iterator[None]:
        """Book the time of the block on these metrics, evenly."""
        started = self._now()
        yield
        spent = (self._now() - started) / len(metrics)
        for metric in metrics:
            self.seconds[metric.name] += spent

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _states(self, x: Tensor, valid: Tensor) -> States:
        """x (B, T, heads, d) to its valid tokens."""
        windows = self.windows(len(x))[:, None].expand(x.shape[:2])
        if bool(valid.all()):
            return States(x.flatten(0, 1), windows.flatten())
        return States(x[valid], windows[valid])
