"""Two models on the same tokens: how much of the geometry of one is left in the other."""

import torch
from torch import Tensor, nn

from dynamics.capture import capture, input_device
from dynamics.errors import InputError
from dynamics.measure.batches import Batches, arguments, to_device
from dynamics.measure.measurement import exact
from dynamics.measure.meter import Meter
from dynamics.measure.share import PAIR
from dynamics.measure.suite import Metrics, Suite
from dynamics.metrics.streaming import Pair
from dynamics.record import Row

METRICS = ("linear_cka", "procrustes_linearity")


def compare(
    model: nn.Module,
    other: nn.Module,
    batches: Batches,
    metrics: Metrics = METRICS,
    *,
    run: str = "",
    subject: str = "",
    condition: str = "",
    step: int = 0,
    mask: str | None = None,
) -> list[Row]:
    """Measure metrics of pairs between each layer of `model` and the same layer of `other`, say an earlier checkpoint.

    Both are measured as `measure` does, in float32 and eval mode, on `batches` (in the same forms) that both take. The
    rows are of site `residual`, layers 0..L, and begin with `run`, `subject`, `condition` (let it name what `other` is)
    and `step`; `mask` is that of `measure`. `procrustes_linearity` asks how well the states of `other` predict those of
    `model`.

    Raises:
        InputError: the models have different depths, or see different tokens.
    """
    suite = Suite.parse(metrics)
    if set(suite.sites) != {PAIR}:
        raise InputError(f"compare takes metrics of pairs alone, such as {' and '.join(METRICS)}.")
    with exact(model, torch.float32) as network, exact(other, torch.float32) as reference:
        meter = Meter(suite, input_device(network))
        reference_states: dict[int, Tensor] = {}

        def keep(site: str, layer: int, x: Tensor, valid: Tensor) -> None:
            reference_states[layer] = x[valid]

        def pair(site: str, layer: int, x: Tensor, valid: Tensor) -> None:
            states, before = x[valid], reference_states.pop(layer, None)
            if before is None or len(before) != len(states):
                raise InputError(f"the two models differ in depth or tokens at layer {layer}: they cannot be compared.")
            windows = meter.windows(len(x), x.device)[:, None].expand(valid.shape)[valid]
            meter.feed(PAIR, layer, Pair(before.unsqueeze(1).to(x.device), states.unsqueeze(1), windows))

        with (
            capture(reference, {"residual"}, keep, mask=mask) as first,
            capture(network, {"residual"}, pair, mask=mask) as second,
        ):
            for batch in arguments(network, batches):
                meter.begin_batch(batch, mask)
                for part in (reference, network):
                    part(**to_device(batch, input_device(part)))
        if first.layers != second.layers:
            raise InputError(f"the models have {second.layers} and {first.layers} layers: they cannot be compared.")
        return meter.compute(run, subject, condition, step).rows
