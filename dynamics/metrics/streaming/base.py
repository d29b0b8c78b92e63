"""The contract of a metric: what it takes, what it returns, how it streams and what it says of itself.

A quantity is a pure function on tensors; the `Metric` in the same file streams it. A metric is an accumulator (sums,
moments or a sample of the states) and an `estimate` computed from it. Metrics whose accumulators keep the same states
form one `Group`: updated once, synchronised once, read many times.

>>> from dynamics.metrics.anisotropy import Anisotropy
>>> from dynamics.metrics.effective_rank import EffectiveRank
>>> (group,) = groups([Anisotropy(), EffectiveRank()])
>>> group.update(States(torch.eye(3)[:, None], torch.arange(3)))
>>> sorted(group.compute())
['anisotropy', 'effective_rank']
"""

import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
import torchmetrics
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from dynamics.metrics.streaming.transfer import to_host

STATE_SITES: tuple[str, ...] = ("residual", "output", "sentence", "token")
HEAD_SITES: tuple[str, ...] = ("query", "key")
SITES: tuple[str, ...] = (*STATE_SITES, *HEAD_SITES, "value", "attention", "weight")  # in the order of measuring
S = TypeVar("S")
T = TypeVar("T")


class States(NamedTuple):
    """Token states of one batch at one site and layer, padding already dropped.

    heads = 1 except at the query, key and value sites; `windows` is the window (the independent unit) of each token,
    unique over the whole stream. A window comes whole, in one batch, its tokens in their order.
    """

    x: Float[Tensor, "n heads d"]
    windows: Int[Tensor, " n"]


@runtime_checkable
class AttentionInputs(Protocol):
    """One call of an attention layer, H a multiple of H_kv; `valid` is False at padding.

    `query` and `key` are as they enter the dot product; `scaling` is the factor of their product.
    """

    @property
    def query(self) -> Float[Tensor, "B H T d_h"]: ...
    @property
    def key(self) -> Float[Tensor, "B H_kv S d_h"]: ...
    @property
    def scaling(self) -> float: ...
    @property
    def valid(self) -> Bool[Tensor, "B T"]: ...

    def logits(self, start: int, stop: int, keys: int | None = None) -> Float[Tensor, "B H queries keys"]:
        """Return a new tensor of what enters the softmax (masked: -inf or far below): queries start..stop, first keys.

        Where the softmax has further columns that are no keys, they are the attribute `sinks`, (B, H, T, columns).
        """

    def reach(self, stop: int) -> int:
        """Return how many of the first keys are enough for the queries before `stop`."""


class Attention(NamedTuple):
    """An attention call with the window (the independent unit) of each of its rows."""

    call: AttentionInputs
    windows: Int[Tensor, " B"]


class Pair(NamedTuple):
    """Two representations of the same tokens, and the tokens' windows."""

    x: Float[Tensor, "n heads d"]
    y: Float[Tensor, "n heads e"]
    windows: Int[Tensor, " n"]


class Weights(NamedTuple):
    """The projections of one layer, W_q and W_k, H a multiple of H_kv."""

    query: Float[Tensor, "H d_h d"]
    key: Float[Tensor, "H_kv d_h d"]


class Estimate(NamedTuple):
    """A value with the 95 % interval of its sampling error, on the host.

    `value`, `low` and `high` have one entry where there is one head, else heads + 1, the last the layer's (the mean
    over heads unless the metric says otherwise). NaN bounds mean that no interval is known.
    """

    value: Float[np.ndarray, " entries"]
    low: Float[np.ndarray, " entries"]
    high: Float[np.ndarray, " entries"]
    n: int  # points that the value is of
    reason: str = ""  # why a value is NaN, or has no interval
    arrays: dict[str, np.ndarray] = {}  # kept beside the rows, by name; their first axis is that of `value`
    windows: int = 0  # independent windows behind the interval
    n_effective: float = float("nan")  # independent points that would say as much as the `n` dependent ones


def undefined(heads: int, n: int, reason: str) -> Estimate:
    """Return the estimate of what cannot be estimated: NaN and the reason."""
    nan = np.full(heads + 1 if heads > 1 else 1, np.nan)
    return Estimate(nan, nan, nan, n, reason)


class Metric(torchmetrics.Metric):
    """Base of every metric: a streamed quantity that describes itself, with a reduction for each of its states.

    The first paragraph of a class's docstring is its meaning: a line for readers of a page.
    """

    name: str  # that of its rows; by default the name of the class, `MeanNorm` -> `mean_norm`
    sites: ClassVar[tuple[str, ...]]  # where it can be measured
    default_sites: ClassVar[dict[str, int]] = {}  # where the default suite measures it, with its place in the order
    default_variants: ClassVar[tuple[str, ...]] = ()  # suffixes of those that the default suite measures right after it
    variants: ClassVar[dict[str, dict[str, Any]]] = {}  # their options, by the suffix of their names
    title = ""  # of its axis; where empty, the name in words
    unit = ""  # of its axis
    range: tuple[float | None, float | None] = (None, None)  # least and greatest value, None where there is none
    wide = False  # whether it is positive and may span decades, so that its axis is logarithmic
    estimator = ""  # how the number is made, and whether the states are centred
    source = ""  # the papers
    heads_at: ClassVar[dict[str, int]] = {}  # of an accumulator that layers may share: its states' axes of heads
    stays: ClassVar[tuple[str, ...]] = ()  # those that are read where they are: too large for the host
    full_state_update = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=.)(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self) -> None:
        super().__init__()
        self._results: dict[str, Any] = {}
        self.layers = 1  # whose heads stand one layer after the other
        self.whole: tuple[Metric, int] | None = None  # the accumulator of several layers that this is one of, and which

    def sync(self, dist_sync_fn: Callable[..., Any] | None = None, *arguments: Any, **options: Any) -> None:
        super().sync(dist_sync_fn or gathered, *arguments, **options)

    @property
    def meaning(self) -> str:
        """What it means, in a line."""
        return " ".join((type(self).__doc__ or "").partition("\n\n")[0].split())

    @classmethod
    def variant(cls, suffix: str) -> dict[str, Any] | None:
        """Return the options that `<name>_<suffix>` stands for; None where the metric has no such variant."""
        return cls.variants.get(suffix)

    def description(self) -> dict[str, Any]:
        """Return what a page says of the metric, as plain JSON."""
        low = self.range[0]
        return {
            "title": self.title or self.name.replace("_", " "),
            "unit": self.unit,
            "range": list(self.range),
            "signed": low is None or low < 0,  # whether values lie on both sides of zero
        } | {key: getattr(self, key) for key in ("wide", "meaning", "estimator", "source")}

    @property
    def accumulator(self) -> Hashable:
        """What two metrics have in common when they may share their states."""
        raise NotImplementedError

    def update(self, batch: Any) -> None:
        """Add one batch: `States`, `Attention`, `Pair` or `Weights`, by the metric's sites."""
        raise NotImplementedError

    def estimate(self, states: Any) -> Estimate:
        """Estimate the quantity from an accumulator of the metric's kind (its own states or another's)."""
        raise NotImplementedError

    def take(self, whole: "Metric", number: int) -> None:
        """Take the states of one layer from those of several."""
        for name in whole._defaults:
            value, axis = getattr(whole, name), self.heads_at.get(name)
            parts = value if isinstance(value, list) else [value]
            if axis is not None:
                parts = [x.chunk(whole.layers, axis)[number] if x.ndim else x for x in parts]
            setattr(self, name, parts if isinstance(value, list) else parts[0])

    def by_layer(self, name: str, compute: Callable[[], Any], axes: tuple[int | None, ...]) -> list[Any]:
        """Return for each layer, on the host, what is computed once for all: a tensor or several, by axes of heads."""
        if (key := f"{name} by layer") not in self._results:
            result = compute()
            parts = to_host(result if isinstance(result, tuple) else (result,))
            of_part = [
                [x] * self.layers if axis is None else x.chunk(self.layers, axis)
                for x, axis in zip(parts, axes, strict=True)
            ]
            self._results[key] = list(zip(*of_part, strict=True)) if isinstance(result, tuple) else list(of_part[0])
        return self._results[key]

    def compute(self) -> Estimate:
        """Estimate the quantity over everything seen so far."""
        with self.reading():
            return self.estimate(self)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep what is computed `once` from the states inside this block alone: it may be as large as they are."""
        self._results.clear()
        try:
            yield
        finally:
            self._results.clear()


def gathered(x: Tensor, group: Any = None) -> list[Tensor]:
    """Return a tensor of every rank: through the GPU under NCCL, which takes none of the host."""
    place = _gpu() if not x.is_cuda and dist.get_backend(group) == "nccl" else x.device
    return [part.to(x.device) for part in gather_all_tensors(x.to(place), group)]


def _gpu() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


class once(Generic[T]):
    """A property of an accumulator that is computed once while it is read: all metrics of a group share it.

    With `axes`, those of the heads in what it returns (a tensor or several), one layer of an accumulator of several
    reads its part of what is computed for all of them together.
    """

    def __init__(self, method: Callable[[Any], T], axes: tuple[int | None, ...] = ()) -> None:
        self.method, self.axes, self.__doc__ = method, axes, method.__doc__

    @classmethod
    def of_heads(cls, *axes: int | None) -> "Callable[[Callable[[Any], S]], once[S]]":
        return lambda method: once(method, axes)

    def __get__(self, metric: Any, kind: type | None = None) -> T:
        name = self.method.__name__
        if name not in metric._results:
            if self.axes and metric.whole is not None:
                whole, number = metric.whole
                result = whole.by_layer(name, lambda: getattr(whole, name), self.axes)[number]
            else:
                result = self.method(metric)
            metric._results[name] = result
        return metric._results[name]


class Referenced(Metric):
    """A metric that compares with what it kept at step 0."""

    reference: Tensor | None = None  # the `reference_state` of step 0; without it the value is NaN

    def to_keep(self, states: Any) -> Tensor | None:
        """Return the reference that an accumulator makes; None where it makes no sound one."""
        raise NotImplementedError

    def reference_state(self, states: Metric | None = None) -> Tensor | None:
        """Return what to keep as the reference, on the host; None where there is no sound one."""
        states = states or self
        with states.reading(), states.sync_context():
            kept = self.to_keep(states)
            return None if kept is None else kept.cpu()


class Group:
    """Metrics that read the same states: the first one keeps them for all."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.metrics = tuple(metrics)
        self.states = self.metrics[0]

    def update(self, batch: Any) -> None:
        self.states.update(batch)

    def compute(self) -> dict[str, Estimate]:
        """Return every metric's estimate by name, over all batches and all ranks."""
        with torch.no_grad(), self.states.reading(), self.states.sync_context():
            return {metric.name: metric.estimate(self.states) for metric in self.metrics}


def groups(metrics: Iterable[Metric]) -> list[Group]:
    """Gather the metrics of one site and layer by what they accumulate."""
    members: dict[Hashable, list[Metric]] = {}
    for metric in metrics:
        members.setdefault(metric.accumulator, []).append(metric)
    return [Group(group) for group in members.values()]
