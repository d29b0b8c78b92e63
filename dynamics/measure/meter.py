"""The hinge: metrics for every site and layer, fed as tensors arrive, computed into rows at the end.

Whatever runs a model hands what passes to a `Meter`: `measure()` feeds one from a capture, a probe or a cone feeds one
for each of its cells itself. Shapes: B rows of a batch, T tokens, D width, H heads, K head width.
"""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynamics.capture import AttentionCall
from dynamics.capture.padding import PADDED, REAL, real_tokens
from dynamics.measure.budget import Budgeted
from dynamics.measure.clock import Clock
from dynamics.measure.layer_batches import LayerBatches
from dynamics.measure.result import Measurement, Missing
from dynamics.measure.share import PAIR, Share
from dynamics.measure.suite import Suite
from dynamics.metrics.streaming import Attention, Group, Pair, Referenced, States, Weights
from dynamics.metrics.streaming.transfer import sent
from dynamics.record import Array, Row, parse_condition
from dynamics.record import condition as join

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
OWN_PRODUCT = "the model sums its values in a product of its own, which is not followed"


class Meter:
    """Builds the metrics of a suite where tensors arrive, feeds them, and computes their rows.

    >>> meter = Meter(Suite.parse(["mean_norm"]))
    >>> meter.feed("residual", 2, States(torch.full((8, 1, 4), 3.0), windows=torch.arange(8)))
    >>> [[row.layer, row.value] for row in meter.compute(run="cell").rows]
    [[2, 6.0]]

    `batched` feeds layers together where they agree: faster on a GPU. What was fed is then computed once. Of several
    ranks that are handed the same, each takes what its `share` holds.
    """

    def __init__(
        self, suite: Suite, device: torch.device | str = "cpu", batched: bool = False, share: Share | None = None
    ) -> None:
        self._suite, self._device, self._share = suite, torch.device(device), share or Share()
        self._batches = LayerBatches(suite, self._update) if batched else None
        self._stack = ""
        self._members: dict[tuple[str, str, int], list[Budgeted]] = {}
        self._elsewhere: set[tuple[str, str, int]] = set()  # what other ranks take
        self._previous: Tensor | None = None
        self._numbers: dict[torch.device, Tensor] = {}  # of the windows of this batch, by the device that holds them
        self._windows: dict[tuple[int, torch.device], Tensor] = {}  # of its rows, by their number and device
        self._copies: Counter[int] = Counter()
        self._absent: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)  # by site and stack
        self._tokens: dict[Any, tuple[Tensor, Tensor, tuple[Tensor, ...] | None]] = {}  # of this batch, by their mask
        self._clock = Clock(self._device)

    @property
    def groups(self) -> list[tuple[str, str, int, Group]]:
        """Stack, site, layer and group of everything that was fed, in order."""
        return [(*place, member.group) for place, members in sorted(self._members.items()) for member in members]

    def begin_batch(self, batch: Mapping[str, Tensor], mask: str | None = None) -> None:
        """Number the windows (rows) of the batch that follows.

        A window's number is a hash of its content without padding, so that neither batching, nor the order of
        batches, nor the ranks change which windows a sample keeps. A window that was there before is another unit.
        """
        real = real_tokens(batch, mask)
        x = next(x for name, x in batch.items() if name not in (*REAL, *PADDED, (mask or "").lstrip("~")))
        rows = list(x.detach().cpu())
        if real is not None and real.shape == x.shape[: real.ndim]:
            rows = [row[kept] for row, kept in zip(rows, real.cpu(), strict=True)]
        digests = [blake2b(row.contiguous().view(-1).view(torch.uint8).numpy(), digest_size=8) for row in rows]
        numbers = [int.from_bytes(digest.digest(), "little") >> 1 for digest in digests]
        for place, number in enumerate(numbers):
            numbers[place] = (number + self._copies[number]) % 2**63
            self._copies[number] += 1
        if self._batches is not None:
            self._batches.flush()
        self._numbers = {CPU: torch.tensor(numbers, dtype=torch.int64)}
        self._windows, self._tokens, self._previous = {}, {}, None

    def on_stack(self, name: str) -> None:
        """Note which of several stacks of layers the tensors that follow belong to; "" where there is one."""
        self._stack = name

    def on_states(self, site: str, layer: int, x: Float[Tensor, "B T D"], valid: Bool[Tensor, "B T"]) -> None:
        """Take token states, as `capture` hands them over."""
        states = self._states(x.unsqueeze(2), valid)
        if site in self._suite.sites:
            self.feed(site, layer, states)
        if site == "residual" and PAIR in self._suite.sites:
            if layer > 0 and self._previous is not None:
                if len(self._previous) == len(states.x):
                    self.feed(PAIR, layer, Pair(self._previous.to(states.x.device), states.x, states.windows))
                else:
                    self.note_absent(PAIR, layer, "it holds other tokens than the layer before")
            self._previous = states.x

    def on_attention(self, call: AttentionCall) -> None:
        """Take one attention call, as `capture` hands it over: queries, keys, values and attention are sites."""
        keys = call.key_valid
        for site, x, valid in (("query", call.query, call.valid), ("key", call.key, keys), ("value", call.value, keys)):
            if x is None:
                self.note_absent(site, call.layer, OWN_PRODUCT)
            elif site in self._suite.sites:
                self.feed(site, call.layer, self._states(x.transpose(1, 2), valid))
        if "attention" in self._suite.sites:
            weights = replace(call, value=None)  # which need no values: none are held
            self.feed("attention", call.layer, Attention(weights, self.windows(len(call.query), call.query.device)))

    def feed(self, site: str, layer: int, batch: States | Pair | Attention | Weights) -> None:
        """Update every metric of a site and layer; a batch of padding alone holds nothing."""
        if isinstance(batch, States | Pair) and not len(batch.windows):
            return
        place = self._stack, site, layer
        if not self._share.holds(site, layer):
            self._elsewhere.add(place)
            return
        if place not in self._members:
            self._members[place] = self._build(site)
        members = self._members[place]
        for member in members if self._batches is None else self._batches.hold(place, batch, members):
            self._update(member, batch)

    def _build(self, site: str) -> list[Budgeted]:
        return [Budgeted(group, budget) for group, budget in self._suite.build(site)]

    def states(self) -> dict[str, Any]:
        """Return what was made of all batches so far, for `load`: plain values, and tensors as they lie."""
        if self._batches is not None:
            self._batches.flush()
        return {
            "common": self._batches and self._batches.states(),
            "own": [(place, [member.states() for member in members]) for place, members in self._members.items()],
            "copies": torch.tensor([*self._copies.items()]),
            "absent": dict(self._absent),
            "seconds": self._clock.seconds(),
        }

    def load(self, states: dict[str, Any]) -> None:
        """Go on from what `states` returned, instead of what was fed since this meter was made."""
        members = {place: self._build(place[1]) for place, _ in states["own"]}
        for place, own in states["own"]:
            for member, kept in zip(members[place], own, strict=True):
                member.load(kept)
        if self._batches is not None:
            batches = LayerBatches(self._suite, self._update)
            batches.load(states["common"], members)
            self._batches = batches
        self._copies, self._absent = Counter(dict(states["copies"].tolist())), defaultdict(dict, states["absent"])
        self._members, self._clock = members, Clock(self._device, states["seconds"])

    def _update(self, member: Budgeted, batch: States | Pair | Attention | Weights) -> None:
        with self._clock.booked(names_of(member.group)):
            member.update(batch)

    def note_absent(self, site: str, layer: int, reason: str) -> None:
        """Say why nothing arrives at a site in a layer (-1: in any); it does not count where something was fed."""
        self._absent[site, self._stack].setdefault(layer, reason)

    @property
    def fed(self) -> set[tuple[str, str, int]]:
        """Stack, site and layer of everything that was fed, on this rank or another."""
        return self._members.keys() | self._elsewhere

    @property
    def missing(self) -> list[Missing]:
        """The metrics of every absence that was noted and holds, by site."""
        missing, fed = [], self.fed
        for (site, stack), reasons in sorted(self._absent.items()):
            layers: dict[str, list[int]] = defaultdict(list)
            for layer, reason in sorted(reasons.items()):
                if layer >= 0 and (stack, site, layer) not in fed:
                    layers[reason].append(layer)
            is_known = any(place == site for _, place, _ in fed) or any(layers.values())
            if -1 in reasons and not is_known:
                layers[reasons[-1]] = []
            for reason, places in layers.items():
                entries = self._suite.sites.get(site, ())
                missing += [Missing(entry.name, _of_rows(site), tuple(places), reason, stack) for entry in entries]
        return missing

    def windows(self, rows: int, device: torch.device) -> Int[Tensor, " rows"]:
        """Return the numbers of the windows of `rows` rows, on the device of these rows: layers may lie apart.

        An image's local windows (Swin) count as the one image. One tensor for all layers: a device is asked once.
        """
        if device not in self._numbers:
            self._numbers[device] = sent(self._numbers[CPU], device)
        if (rows, device) not in self._windows:
            whole = self._numbers[device]
            numbers = whole.repeat_interleave(rows // len(whole)) if rows % len(whole) == 0 else whole[:rows]
            self._windows[rows, device] = numbers
        return self._windows[rows, device]

    def compute(
        self,
        run: str = "",
        subject: str = "",
        condition: str = "",
        step: int = 0,
        references: Mapping[str, Tensor] | None = None,
    ) -> Measurement:
        """Compute rows and arrays of everything that was fed; they begin with run, subject, condition and step.

        `references` is what the measurement at step 0 returned, for metrics that compare with it; an empty mapping at
        step 0 makes this measurement the reference. Without one such metrics are NaN.
        """
        if self._batches is not None:
            self._batches.flush()
            with self._clock.booked([name for *_, group in self.groups for name in names_of(group)]):
                self._batches.settle()
        self._previous, missing = None, list[Missing]()
        result = Measurement([], [], dict(references or {}), {}, missing)
        is_reference = step == 0 and references is not None and not references
        for stack, site, layer, group in self.groups:
            where = with_stack(condition, stack)
            for metric in group.metrics:
                if isinstance(metric, Referenced):
                    name = "/".join(filter(None, (stack, site, str(layer), metric.name)))
                    if is_reference and (state := metric.reference_state(group.states)) is not None:
                        result.references[name] = state
                    metric.reference = result.references.get(name)
            with self._clock.booked(names_of(group)):
                estimates = group.compute()
            key = (run, subject, where, step, _of_rows(site), layer)
            for name, estimate in estimates.items():
                if estimate.reason:
                    level = logging.INFO if all(map(math.isfinite, estimate.value)) else logging.WARNING
                    log.log(level, "%s at %s layer %d: %s", name, site, layer, estimate.reason)
                heads = [*range(len(estimate.value) - 1), -1]  # the last value is the layer's
                for head in heads:
                    value, low, high = (float(x[head]) for x in (estimate.value, estimate.low, estimate.high))
                    facts = (estimate.n, estimate.windows, estimate.n_effective, estimate.reason)
                    result.rows.append(Row(*key, head, name, value, low, high, *facts))
                for array, values in estimate.arrays.items():
                    result.arrays.extend(Array(*key, head, f"{name}/{array}", values[head]) for head in heads)
        for entry in self.missing:
            start = run, subject, with_stack(condition, entry.stack), step, entry.site
            nan = (Row(*start, at, -1, entry.metric, math.nan, reason=entry.reason) for at in entry.layers or (-1,))
            missing.append(entry._replace(rows=tuple(nan)))
        told = self.missing if self._share.rank == 0 else []
        for (site, layers, reason, stack, _), same in groupby(told, key=lambda entry: entry[1:]):
            place = f"layer {', '.join(map(str, layers))}" if layers else "any layer"
            names = ", ".join(entry.metric for entry in same)
            log.warning("%s at %s, %s%s, not measured: %s", names, site, f"{stack} " if stack else "", place, reason)
        result.seconds.update(self._clock.seconds())
        return result

    def _states(self, x: Float[Tensor, "B T heads d"], valid: Bool[Tensor, "B T"]) -> States:
        """Return the valid tokens of x with their windows."""
        key = valid.data_ptr(), valid.shape, valid.stride(), x.device
        if key not in self._tokens:  # of every layer with the same mask: a device is asked once
            windows = self.windows(len(x), x.device)[:, None].expand(x.shape[:2])
            at = None if valid.all() else valid.nonzero(as_tuple=True)
            self._tokens[key] = valid, windows.flatten() if at is None else windows[at], at
        _, windows, at = self._tokens[key]
        return States(x.flatten(0, 1) if at is None else x[at], windows)


def names_of(group: Group) -> list[str]:
    """Return the names of a group's metrics."""
    return [metric.name for metric in group.metrics]


def _of_rows(site: str) -> str:
    """Return the site of the rows of a site."""
    return "residual" if site == PAIR else site


def with_stack(where: str, stack: str) -> str:
    """Return a condition that names the stack, where there are several."""
    return join(**parse_condition(where), stack=stack) if stack else where
