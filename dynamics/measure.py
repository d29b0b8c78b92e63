"""`measure()`: a model and batches in, rows out. Every verb arrives here.

Shapes: B windows of a batch, T tokens, D width, H heads, K head width.
"""

import copy
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynamics import metrics as registry
from dynamics.capture import AttentionCall, capture
from dynamics.errors import Refusal
from dynamics.metrics.base import Attention, Estimate, Group, Metric, States, groups
from dynamics.record import Array, Row

log = logging.getLogger(__name__)

Settings = Mapping[str, Any]

CAPTURED = {"residual", "output", "query", "key", "attention"}
"""Sites that a forward pass fills."""


class Suite(NamedTuple):
    """What to measure: for each site the metrics to build, by name and options."""

    sites: dict[str, list[tuple[str, Settings]]]

    @classmethod
    def parse(cls, metrics: Mapping[str, Settings | None] | Sequence[str] | None = None) -> "Suite":
        """Read the `metrics:` block: names (or class paths), each with its options.

        `sites` among the options cuts the metric to some of its sites; the rest goes to the metric. The default
        suite when None.

        Raises:
            Refusal: an unknown metric, option or site.
        """
        if metrics is None:
            return cls({site: [(name, {}) for name in names] for site, names in registry.DEFAULT.items()})
        chosen = metrics if isinstance(metrics, Mapping) else dict.fromkeys(metrics)
        if not chosen:
            raise Refusal("metrics is empty: name at least one, or leave the block out for the default suite.")
        sites: dict[str, list[tuple[str, Settings]]] = defaultdict(list)
        for name, settings in chosen.items():
            options = dict(settings or {})
            wanted = options.pop("sites", None)
            possible = registry.resolve(name, **options).sites
            for site in wanted or possible:
                if site not in possible:
                    raise Refusal(f"metrics.{name}.sites: {site} is not one of {', '.join(possible)}.")
                sites[site].append((name, options))
        return cls(dict(sites))

    def describe(self) -> dict[str, dict[str, Settings]]:
        """Sites, names and options, for the record."""
        return {site: dict(members) for site, members in self.sites.items()}

    def build(self, site: str) -> list[Group]:
        """Fresh metrics for one layer of a site."""
        return groups(registry.resolve(name, **options) for name, options in self.sites[site])


class Measurement(NamedTuple):
    """What one measurement gives.

    `references` are the tensors that later measurements of the same model compare with (drift), by site, layer
    and metric. `seconds` is the time spent on each metric (metrics that share an accumulator share its time
    evenly) and on the `forward` passes.
    """

    rows: list[Row]
    arrays: list[Array]
    references: dict[str, Tensor]
    seconds: dict[str, float]


@contextmanager
def exact(model: nn.Module, dtype: torch.dtype | None) -> Iterator[nn.Module]:
    """The model in `dtype` (a copy if it is not in it already; None leaves it), without autocast and TF32."""
    floating = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if dtype is not None and floating - {dtype}:
        model = copy.deepcopy(model).to(dtype)
    device = next((p.device.type for p in model.parameters()), "cpu")
    precision = torch.get_float32_matmul_precision()
    tf32 = torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        with torch.no_grad(), torch.autocast(device, enabled=False):
            yield model
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = tf32


class _Meter:
    """Groups of metrics for every site and layer, fed as the capture hands tensors over."""

    def __init__(self, suite: Suite, device: torch.device) -> None:
        self._suite, self._device = suite, device
        self.groups: dict[tuple[str, int], list[Group]] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        self._windows = 0
        self._batch = 0

    @property
    def spent(self) -> float:
        return sum(self.seconds.values())

    def on_states(self, site: str, layer: int, x: Tensor, valid: Tensor) -> None:
        """Token states x (B, T, D), valid (B, T)."""
        self._update(site, layer, self._states(x.unsqueeze(2), valid))

    def on_attention(self, call: AttentionCall) -> None:
        """One attention call: queries, keys and the attention itself are three sites."""
        if call.cross:
            return
        if "query" in self._suite.sites:
            self._update("query", call.layer, self._states(call.query.transpose(1, 2), call.valid))
        if "key" in self._suite.sites:
            key = call.key.transpose(1, 2)
            same = key.shape[:2] == call.valid.shape
            valid = call.valid if same else call.valid.new_ones(key.shape[:2])
            self._update("key", call.layer, self._states(key, valid))
        if "attention" in self._suite.sites:
            self._update("attention", call.layer, Attention(call, self._window_ids(len(call.query))))

    def next_batch(self) -> None:
        """Windows get numbers that are unique over the stream."""
        self._windows += self._batch
        self._batch = 0

    def _window_ids(self, count: int) -> Tensor:
        self._batch = max(self._batch, count)
        return torch.arange(self._windows, self._windows + count, device=self._device)

    def _states(self, x: Tensor, valid: Tensor) -> States:
        windows = self._window_ids(len(x))[:, None].expand(x.shape[:2])
        if bool(valid.all()):
            return States(x.flatten(0, 1), windows.flatten())
        return States(x[valid], windows[valid])

    def _update(self, site: str, layer: int, batch: States | Attention) -> None:
        key = (site, layer)
        if key not in self.groups:
            self.groups[key] = self._suite.build(site)
        for group in self.groups[key]:
            with self.timed(group.metrics):
                group.update(batch)

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


def measure(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    metrics: Suite | Mapping[str, Settings | None] | Sequence[str] | None = None,
    *,
    run: str = "",
    subject: str = "",
    condition: str = "",
    step: int = 0,
    references: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> Measurement:
    """Measure a model on batches.

    The model is run in eval mode, in float32 without autocast and TF32, whatever it is trained in, and put back
    as it was. Every non-padding token counts; windows (rows of a batch) are the independent units of intervals.

    Args:
        model: any transformer; it may be compiled (the original is measured).
        batches: keyword arguments of the model's forward, `input_ids` (B, T) and the like, on any device.
        metrics: a parsed suite, names, or names with options; the default suite when None.
        run, subject, condition, step: the first columns of the rows.
        references: what the measurement at step 0 returned, for metrics that compare with it; an empty mapping
            at step 0 makes this measurement the reference. Without one such metrics are NaN.
        dtype: precision to measure in; None keeps the model's own.

    Returns:
        Rows, arrays, references for later measurements, and the time spent on each metric.

    Raises:
        Refusal: the model captures nothing of what the metrics need, or there is no batch.
    """
    suite = metrics if isinstance(metrics, Suite) else Suite.parse(metrics)
    is_reference = step == 0 and references is not None and not references
    references = references or {}
    with exact(model, dtype) as network:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        meter = _Meter(suite, device)
        started = time.perf_counter()
        with capture(network, CAPTURED & set(suite.sites), meter.on_states, meter.on_attention):
            for batch in batches:
                network(**{key: value.to(device) for key, value in batch.items()})
                meter.next_batch()
        if not meter.groups:
            raise Refusal("nothing was measured: there is no batch.")
        seconds = {"forward": time.perf_counter() - started - meter.spent}
        rows, arrays, new_references = [], [], {}
        for (site, layer), members in sorted(meter.groups.items()):
            for group in members:
                for metric in group.metrics:
                    if hasattr(metric, "reference"):
                        name = f"{site}/{layer}/{metric.name}"
                        if is_reference:
                            new_references[name] = metric.reference_state(group.states)
                        metric.reference = references.get(name, new_references.get(name))
                with meter.timed(group.metrics):
                    estimates = group.compute()
                for metric_name, estimate in estimates.items():
                    key = (run, subject, condition, step, site, layer)
                    if estimate.reason:
                        log.warning("%s at %s layer %d: %s", metric_name, site, layer, estimate.reason)
                    rows += _rows(key, metric_name, estimate)
                    arrays += _arrays(key, metric_name, estimate)
    return Measurement(rows, arrays, new_references, seconds | dict(meter.seconds))


def _heads(estimate: Estimate) -> range:
    """Head numbers of an estimate's entries: the last one, -1, is the layer's."""
    return range(len(estimate.value) - 1)


def _rows(key: tuple, name: str, estimate: Estimate) -> list[Row]:
    return [
        Row(
            *key,
            head,
            name,
            float(estimate.value[head]),
            float(estimate.low[head]),
            float(estimate.high[head]),
            estimate.n,
        )
        for head in (*_heads(estimate), -1)
    ]


def _arrays(key: tuple, name: str, estimate: Estimate) -> list[Array]:
    return [
        Array(*key, head, f"{name}/{array}" if array else name, values[head])
        for array, values in estimate.arrays.items()
        for head in (*_heads(estimate), -1)
    ]
