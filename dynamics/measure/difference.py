"""How far a quantity differs between two steps, twins or layers that saw the same windows, with a paired interval."""

from collections.abc import Iterator

import torch
from torch import nn

from dynamics.capture import capture, input_device
from dynamics.errors import InputError
from dynamics.measure.batches import Batches, arguments, to_device
from dynamics.measure.measurement import CAPTURED, exact
from dynamics.measure.meter import Meter, with_stack
from dynamics.measure.suite import Metrics, Suite
from dynamics.metrics.streaming import Group, Metric, Windowed
from dynamics.record import Row

Place = tuple[str, str, int, str]  # stack, site, layer, metric


def differences(
    model: nn.Module,
    other: nn.Module | None,
    batches: Batches,
    metrics: Metrics,
    *,
    run: str = "",
    subject: str = "",
    condition: str = "",
    step: int = 0,
) -> list[Row]:
    """Measure metrics of `model` less those of `other`, at the same site and layer; None: less the layer before.

    A window moves both values alike, so their difference is known better than either: the interval is that of the
    difference of the windows' influences. Both models are measured as `measure` does, on the same `batches`. The rows
    begin with `run`, `subject`, `condition` (let it name the difference: `less=step-0`) and `step`.

    Raises:
        InputError: a metric without an interval from windows, or models that share no layer.
    """
    suite = Suite.parse(metrics)
    batches = list(batches) if isinstance(batches, Iterator) else batches
    first = _groups(model, batches, suite)
    second = _groups(other, batches, suite) if other is not None else first
    rows = []
    for (stack, site, layer, name), (metric, group) in first.items():
        before = second.get((stack, site, layer if other is not None else layer - 1, name))
        if before is None:
            continue
        estimate = metric.difference(group.states, before[1].states)
        heads = [*range(len(estimate.value) - 1), -1]
        facts = (estimate.n, estimate.windows, estimate.n_effective, estimate.reason)
        key = (run, subject, with_stack(condition, stack), step, site, layer)
        for head in heads:
            value, low, high = (float(part[head]) for part in (estimate.value, estimate.low, estimate.high))
            rows.append(Row(*key, head, name, value, low, high, *facts))
    if not rows:
        raise InputError("there is no difference to take: the models share no site and layer that was measured.")
    return rows


def _groups(model: nn.Module, batches: Batches, suite: Suite) -> dict[Place, tuple[Windowed, Group]]:
    """Return every metric with the group that holds what a model's pass over the batches left."""
    with exact(model, torch.float32) as network:
        device = input_device(network)
        meter = Meter(suite, device)
        with capture(network, CAPTURED & set(suite.sites), meter.on_states, meter.on_attention):
            for batch in arguments(network, batches):
                meter.begin_batch(batch)
                network(**to_device(batch, device))
    places = [(*place, metric) for place in meter.groups for metric in place[-1].metrics]
    return {
        (stack, site, layer, metric.name): (_windowed(metric), group) for stack, site, layer, group, metric in places
    }


def _windowed(metric: Metric) -> Windowed:
    if not isinstance(metric, Windowed) or type(metric).value_and_influence is Windowed.value_and_influence:
        raise InputError(f"{metric.name} has no paired interval: leave it out of a difference.")
    return metric
