"""`measure()`: a model and batches in, rows out; the common use of a `Meter`."""

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dynamics.capture import ATTENTION_SITES, capture, input_device
from dynamics.capture.weights import find_weights
from dynamics.errors import InputError
from dynamics.measure.batches import Batches, arguments, to_device
from dynamics.measure.identity import of_states
from dynamics.measure.meter import Meter
from dynamics.measure.result import Measurement
from dynamics.measure.share import PAIR, Share
from dynamics.measure.suite import Metrics, Suite
from dynamics.measure.unfinished import Unfinished
from dynamics.metrics.streaming import Weights
from dynamics.metrics.streaming.arithmetic import WITHOUT_FLOAT64, full_precision

CAPTURED = {"residual", "output", "query", "key", "value", "attention"}  # the sites that a forward pass fills
MEASURED = (*sorted(CAPTURED), PAIR, "weight")  # all that there are in a model; sentences are the cone's


@contextmanager
def exact(model: nn.Module, dtype: torch.dtype | None) -> Iterator[nn.Module]:
    """Hold the model in `dtype` (a copy if it is in another; None keeps its own), without autocast and TF32.

    One on a device without float64 is copied to the CPU.

    Raises:
        InputError: the model is in another precision and partly offloaded: what is not there cannot be converted.
    """
    kinds = {p.device.type for p in model.parameters()}
    floating = {p.dtype for p in model.parameters() if p.is_floating_point()}
    is_other = dtype is not None and bool(floating - {dtype})
    if is_other and "meta" in kinds:
        raise InputError(
            f"weights of {type(model).__name__} are offloaded and not in {dtype}: load it in that precision, or "
            "measure it in its own with dtype=None."
        )
    lacks_float64 = bool(kinds & WITHOUT_FLOAT64)
    if is_other or lacks_float64:
        place, kinds = (torch.device("cpu"), set()) if lacks_float64 else (None, kinds)
        model = copy.deepcopy(model).to(device=place, dtype=dtype)
    with ExitStack() as stack:
        stack.enter_context(full_precision())
        stack.enter_context(torch.no_grad())
        for kind in kinds - {"meta"} | {"cpu"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield model


def measure(
    model: nn.Module,
    batches: Batches,
    metrics: Suite | Metrics | None = None,
    *,
    run: str = "",
    subject: str = "",
    condition: str = "",
    step: int = 0,
    references: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = torch.float32,
    share: Share | None = None,
    mask: str | None = None,
    unfinished: Path | None = None,
) -> Measurement:
    """Measure a model on batches.

    The model is run in eval mode, in float32 without autocast and TF32, whatever it is trained in, and put back as it
    was. Every non-padding token counts; windows (rows of a batch) are the independent units of intervals.

    Args:
        model: any transformer; it may be compiled (the original is measured).
        batches: keyword arguments of the model's forward, `input_ids` (B, T) and the like, on any device; `arguments`
            says which other forms are taken.
        metrics: a parsed suite, names, or names with options; the default suite when None.
        run, subject, condition, step: the first columns of the rows.
        references: as in `Meter.compute`.
        dtype: precision to measure in; None keeps the model's own.
        share: of several ranks that run the same batches, the part that this one measures; `united` puts the parts
            together. None: every rank of a distributed run measures batches of its own, and all return the same rows.
        mask: the argument of the model that is true at real tokens, as in `mask="keep"`, or at padding, `mask="~hide"`.
            Known without it are, true at real tokens, `attention_mask` (per query too, 4-D), `input_mask`, `valid_mask`
            and `token_mask`; true at padding `key_padding_mask`, `src_key_padding_mask`, `tgt_key_padding_mask`,
            `padding_mask` (in models of transformers: at real tokens), `encoder_padding_mask` and `pad_mask`.
        unfinished: a file in which the states are saved every so often, from a minute on, and from which the same
            measurement goes on where it was stopped; `batches` are then read again. Delete it once the rows are safe.

    Raises:
        InputError: the model captures nothing of what the metrics need, there is no batch, or one is unusable; a metric
            is asked for at sites that no model has.
    """
    suite = metrics if isinstance(metrics, Suite) else Suite.parse(metrics)
    elsewhere = suite.names - {entry.name for site in MEASURED for entry in suite.sites.get(site, ())}
    if elsewhere:
        names = ", ".join(sorted(elsewhere))
        raise InputError(
            f"{names}: asked for at the sites sentence or token alone, which only `dynamics cone` measures."
        )
    with exact(model, dtype) as network:
        device = input_device(network)
        alone = share is not None or not (torch.distributed.is_available() and torch.distributed.is_initialized())
        meter = Meter(suite, device, batched=device.type == "cuda" and alone, share=share)
        sites = CAPTURED & set(suite.sites) | ({"residual"} if PAIR in suite.sites else set())
        started, batch = time.perf_counter(), None
        read, kept = partial(arguments, network, batches), None
        if unfinished is not None and isinstance(batches, Iterator):
            raise InputError("batches that can be read only once cannot be gone on with: give a list of them.")
        if unfinished is not None and sites and alone:
            size, of = sum(x.nbytes for x in network.parameters()), partial(of_states, network, suite, device, mask)
            kept = Unfinished(unfinished, subject or type(network).__name__, meter, size, of)
        # Weights alone need no forward pass over the batches, only one to learn where they lie.
        hear = meter.on_states, meter.on_attention, meter.on_stack
        with capture(network, sites, *hear, mask=mask) if sites else nullcontext() as tap:
            for batch in read() if kept is None else kept.left(read):
                if sites:
                    meter.begin_batch(batch, mask)
                    network(**to_device(batch, device))
            if batch is None:
                raise InputError("nothing was measured: there is no batch.")
        if "weight" in suite.sites:
            # Of the model itself, not of its copy: where its weights lie is learnt once an instance.
            projections, absent = find_weights(model, batch)
            for (stack, layer), pair in projections.items():
                meter.on_stack(stack)
                meter.feed("weight", layer, Weights(*(x.to(device) for x in pair)))
            for (stack, layer), reason in absent.items():
                meter.on_stack(stack)
                meter.note_absent("weight", layer, reason)
        for (stack, layer), reason in tap.unheard.items() if tap else ():
            meter.on_stack(stack)
            for site in ATTENTION_SITES:
                meter.note_absent(site, layer, reason)
        if not meter.fed:
            reasons = "; ".join(sorted({entry.reason for entry in meter.missing}))
            missing = f"has nothing that these metrics are measured on ({', '.join(suite.sites)})"
            because = f" ({reasons})" if reasons else ""
            raise InputError(f"{type(model).__name__} {missing}{because}: choose metrics of the residual stream.")
        meter.on_stack("")
        for site in MEASURED:
            meter.note_absent(site, -1, "nothing of the kind passed through the model")
        if share is not None:
            for *_, group in meter.groups:
                group.states.distributed_available_fn = lambda: False
        result = meter.compute(run, subject, condition, step, references)
        spent = time.perf_counter() - started + (kept.before if kept else 0)
        forward = spent - sum(result.seconds.values())
    return result._replace(seconds={"forward": forward, **result.seconds})
