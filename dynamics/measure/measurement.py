"""`measure()`: a model and batches in, rows out. Every verb arrives here."""

import copy
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynamics.capture import capture
from dynamics.capture.weights import layer_weights
from dynamics.errors import InputError
from dynamics.measure.meter import PAIR, Meter
from dynamics.measure.suite import Settings, Suite
from dynamics.metrics.streaming.base import Estimate, Weights
from dynamics.record import Array, Row

log = logging.getLogger(__name__)

CAPTURED = {"residual", "output", "query", "key", "attention"}
"""Sites that a forward pass fills."""


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
    all_ranks: bool = True,
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
        all_ranks: whether every rank of a distributed run is here, each with batches of its own; false where one
            rank measures while the others wait.

    Returns:
        Rows, arrays, references for later measurements, and the time spent on each metric.

    Raises:
        InputError: the model captures nothing of what the metrics need, or there is no batch.
    """
    suite = metrics if isinstance(metrics, Suite) else Suite.parse(metrics)
    with exact(model, dtype) as network:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        meter = Meter(suite, device)
        sites = CAPTURED & set(suite.sites) | ({"residual"} if PAIR in suite.sites else set())
        started, batch = time.perf_counter(), None
        # Weights alone need no forward pass over the batches, only one to learn where they lie.
        listening = capture(network, sites, meter.on_states, meter.on_attention) if sites else nullcontext()
        with listening:
            for batch in batches:
                if sites:
                    meter.begin_batch(batch)
                    network(**{key: value.to(device) for key, value in batch.items()})
            if batch is None:
                raise InputError("nothing was measured: there is no batch.")
        if "weight" in suite.sites:
            # Of the model itself, not of its copy: where its weights lie is learnt once an instance.
            for layer, projections in layer_weights(model, batch).items():
                meter.feed("weight", layer, Weights(*(x.to(device) for x in projections)))
        if not any(meter.groups):
            raise InputError(
                f"{type(model).__name__} has nothing that these metrics are measured on ({', '.join(suite.sites)}): "
                "choose metrics of the residual stream."
            )
        seconds = time.perf_counter() - started - meter.spent
        if not all_ranks:
            for _, _, group in meter.groups:
                group.states.distributed_available_fn = lambda: False
        is_reference = step == 0 and references is not None and not references
        result = read_off(meter, (run, subject, condition, step), references, is_reference)
    return result._replace(seconds={"forward": seconds, **result.seconds})


def read_off(
    meter: Meter,
    key: tuple[str, str, str, int],
    references: Mapping[str, Tensor] | None = None,
    is_reference: bool = False,
) -> Measurement:
    """Rows and arrays of everything that a meter was fed; `key` is their run, subject, condition and step."""
    known = dict(references or {})
    found = list(_estimates(meter, known, is_reference))
    return Measurement(
        [row for site, layer, name, estimate in found for row in _rows((*key, site, layer), name, estimate)],
        [array for site, layer, name, estimate in found for array in _arrays((*key, site, layer), name, estimate)],
        known,
        dict(meter.seconds),
    )


def _estimates(
    meter: Meter, references: dict[str, Tensor], is_reference: bool
) -> Iterator[tuple[str, int, str, Estimate]]:
    """Site, layer, name and estimate of every metric; new references are put into `references`."""
    for site, layer, group in meter.groups:
        for metric in group.metrics:
            if hasattr(metric, "reference"):
                name = f"{site}/{layer}/{metric.name}"
                if is_reference and (state := metric.reference_state(group.states)) is not None:
                    references[name] = state
                metric.reference = references.get(name)
        with meter.timed(group.metrics):
            estimates = group.compute()
        for name, estimate in estimates.items():
            if estimate.reason:
                log.warning("%s at %s layer %d: %s", name, site, layer, estimate.reason)
            yield "residual" if site == PAIR else site, layer, name, estimate


def _heads(estimate: Estimate) -> list[int]:
    """Head numbers of an estimate's entries: the last one, -1, is the layer's."""
    return [*range(len(estimate.value) - 1), -1]


def _rows(key: tuple, name: str, estimate: Estimate) -> list[Row]:
    columns = (estimate.value, estimate.low, estimate.high)
    return [
        Row(*key, head, name, *(float(column[head]) for column in columns), estimate.n) for head in _heads(estimate)
    ]


def _arrays(key: tuple, name: str, estimate: Estimate) -> list[Array]:
    return [
        Array(*key, head, f"{name}/{array}", values[head])
        for array, values in estimate.arrays.items()
        for head in _heads(estimate)
    ]
