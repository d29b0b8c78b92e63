"""Checks what is captured of a model against what the model itself says, on a slice of a batch.

The model's own hidden states, attention weights (on its eager path) and output (without any hook) are compared with
what was captured: shapes, token counts, and values relative to the greatest of each tensor. B rows, T tokens, D width.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynamics.capture.attention import AttentionCall
from dynamics.capture.reference import (
    LARGEST,
    Kernels,
    difference,
    eager_output,
    final,
    listed,
    nearest,
    options_of,
    removing_recorders,
    tolerance,
)
from dynamics.capture.state import held_still
from dynamics.capture.states import first_states
from dynamics.capture.tap import capture, layout_of
from dynamics.errors import InputError

ROWS, TOKENS = 2, 128  # of the slice
ATTENTION = "queries, keys, attention"
VERIFIED, UNVERIFIED, REFUSED = "verified", "unverified", "refused"


class Comparison(NamedTuple):
    """A comparison of something captured with something `against` it; `difference` is NaN where there is nothing."""

    what: str
    against: str
    difference: float
    verdict: str
    why: str = ""


class Verdict(NamedTuple):
    """The result of a check."""

    comparisons: tuple[Comparison, ...]

    @property
    def word(self) -> str:
        """`verified`, `unverified` or `refused`: the worst of its comparisons."""
        words = {comparison.verdict for comparison in self.comparisons}
        return next((word for word in (REFUSED, UNVERIFIED) if word in words), VERIFIED)

    def __str__(self) -> str:
        why = dict.fromkeys(f"{x.what}: {x.why}" for x in self.comparisons if x.verdict == self.word and x.why)
        return f"{self.word}: {'; '.join(why)}" if why else self.word

    def refuse(self, name: str) -> None:
        """Raise an `InputError` if anything disagrees."""
        if self.word == REFUSED:
            why = str(self).removeprefix(f"{REFUSED}: ")
            raise InputError(
                f"what is captured of {name} is not what the model computes ({why}): it cannot be measured."
            )


class _Stack:
    """What was captured of one stack of layers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.states: list[tuple[Tensor, Tensor]] = []  # of layers 0..L, with what is no padding in them
        self.lists: list[str] = []  # where layers 1..L stand
        self.following: dict[int, Tensor] = {}  # what entered the next layer, by layer
        self.between: dict[int, list[Tensor]] = {}  # what entered modules outside of the layers after it, by layer
        self.output: Tensor | None = None
        self.unheard: dict[int, str] = {}  # why attention is not captured, by layer
        self.calls: list[tuple[int, AttentionCall]] = []  # numbered over all stacks

    def label(self, what: str) -> str:
        return f"{self.name} {what}".strip()


class _Pass:
    """One captured forward pass."""

    def __init__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> None:
        self.stacks: dict[str, _Stack] = {}
        self._current, self._place, self._calls = _Stack(""), "", 0
        options = options_of(model, "output_hidden_states")
        with held_still(model):
            layout = layout_of(model, lambda: model(**batch))
        sites = ["residual", "output", "query", "key", "attention"]
        inside = tuple(f"{name}." for name in layout.blocks)
        with ExitStack() as stack, Kernels(lambda: self._calls) as kernels:
            for name, module in model.named_modules():
                enter: Callable[..., None]
                if name in layout.blocks:
                    enter = partial(self._enter_layer, name.rpartition(".")[0])
                elif name and not name.startswith(inside):
                    enter = self._enter_other
                else:
                    continue
                stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            capturing = capture(model, sites, self._on_states, self._on_attention, self._on_stack)
            tap = stack.enter_context(capturing)
            self.output = model(**batch, **options)
            for (name, layer), reason in tap.unheard.items():
                self.stacks[name].unheard[layer] = reason
        self.weights = kernels.weights

    def _enter_layer(self, place: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._place = place
        if (x := first_states((kwargs.get("hidden_states"), *args, *kwargs.values()))) is not None:
            self._current.following[len(self._current.states) - 1] = x.clone()

    def _enter_other(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (x := first_states((*args, *kwargs.values()))) is not None:
            self._current.between.setdefault(len(self._current.states) - 1, []).append(x.clone())

    def _on_stack(self, name: str) -> None:
        self._current = self.stacks.setdefault(name, _Stack(name))
        self._current.lists.append(self._place)

    def _on_states(self, site: str, layer: int, x: Tensor, valid: Tensor) -> None:
        if site == "output":
            self._current.output = x.clone()
        else:
            self._current.states.append((x.clone(), valid))

    def _on_attention(self, call: AttentionCall) -> None:
        self._current.calls.append((self._calls, call))
        self._calls += 1


def check(model: nn.Module, batch: Mapping[str, Tensor]) -> Verdict:
    """Compare what is captured of a model with its own outputs, on a slice of a batch; the model is left as it was.

    Raises:
        InputError: the capture itself refuses the model.
    """
    model = getattr(model, "_orig_mod", model)
    with removing_recorders(model):
        return _check(model, sliced(batch))


def _check(model: nn.Module, batch: Mapping[str, Tensor]) -> Verdict:
    with held_still(model, show_scores=False):
        plain = final(model(**batch))
    captured = _Pass(model, batch)
    comparisons = [_compare_output(plain, final(captured.output))]
    calls = [call for stack in captured.stacks.values() for _, call in stack.calls]
    weights = sum(call.query[..., 0].numel() * call.key.shape[2] for call in calls)
    eager = eager_output(model, batch) if weights < LARGEST else None
    is_same = plain is not None and (own := final(eager)) is not None and difference(own, plain) <= tolerance(plain)
    for stack in captured.stacks.values():
        comparisons += _compare_tokens(stack, batch)
        comparisons.append(_compare_states(stack, *_own_states(captured.output, stack.name)))
        own_weights = listed(eager, stack.name, "attentions")
        if stack.calls or own_weights:
            comparisons.append(_compare_attention(stack, own_weights if is_same else [], captured.weights))
    return Verdict(tuple(comparisons))


def sliced(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the rows of a batch with the most and the least padding, and the first tokens of text."""
    rows, *others = {len(x) if x.ndim else 0 for x in batch.values()}
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    order = torch.arange(rows) if mask is None else mask.flatten(1).sum(1).argsort()
    chosen = order[[0, -1]] if rows > ROWS and not others else slice(None)  # what is packed into one row stays whole
    part = {name: x[chosen] for name, x in batch.items()}
    if ids is None or ids.ndim != 2 or ids.shape[1] <= TOKENS:
        return part
    return {name: x[:, :TOKENS] if x.ndim == 2 and x.shape[1] == ids.shape[1] else x for name, x in part.items()}


def _compare_output(plain: Tensor | None, hooked: Tensor | None) -> Comparison:
    what, against = "output", "the model without hooks"
    if plain is None or hooked is None:
        return Comparison(what, against, math.nan, UNVERIFIED, "the model returns no tensor")
    apart = difference(hooked, plain)
    if apart <= tolerance(plain):
        return Comparison(what, against, apart, VERIFIED)
    return Comparison(what, against, apart, REFUSED, f"it differs by {apart:.2g} while it is captured")


def _compare_tokens(stack: _Stack, batch: Mapping[str, Tensor]) -> Iterator[Comparison]:
    """Compare the tokens that count with the batch's mask, where a layer has as many states as the batch has tokens."""
    mask = batch.get("attention_mask")
    marked = [valid for _, valid in stack.states if mask is not None and valid.shape == mask.shape]
    if mask is not None and marked:
        wrong = max(int((valid.cpu() != mask.bool().cpu()).sum()) for valid in marked)
        why = f"{wrong} are not marked as by attention_mask" if wrong else ""
        yield Comparison(stack.label("tokens"), "attention_mask", wrong, REFUSED if wrong else VERIFIED, why)


def _own_states(output: Any, stack: str) -> tuple[list[Tensor], bool]:
    """Return the states that a model lists, and whether they are of this stack alone."""
    own = listed(output, stack, "hidden_states")
    return (own, True) if own or not stack else (listed(output, "", "hidden_states"), False)


def _compare_states(stack: _Stack, own: list[Tensor], is_own: bool) -> Comparison:
    """Compare states with the model's list, if it has one for each layer.

    Else each state must be listed (as the end of a stage), or be what enters the next layer or what ends its stage.
    """
    depth, worst = len(stack.states) - 1, 0.0
    what, by_layer = stack.label(f"states of layers 0 to {depth}"), is_own and len(own) == depth + 1
    against = "its hidden states" if own else "what enters the next layer"
    if by_layer and nearest(*stack.states[0], own[0]) > tolerance(own[0]) >= nearest(*stack.states[1], own[0]):
        own = [stack.states[0][0], *own]  # a list without what enters the first layer
    for layer, (x, valid) in enumerate(stack.states):
        forms = [x] if layer < depth or stack.output is None else [x, stack.output]
        others = own[layer : layer + 1] if by_layer else [*own, *_followers(stack, layer, depth)]
        closest = min((nearest(form, valid, other) for form in forms for other in others), default=math.inf)
        if closest <= tolerance(x):
            worst = max(worst, closest)
        elif by_layer:
            shapes = f"has shape {tuple(x.shape)}, the model lists {tuple(own[layer].shape)}"
            why = f"layer {layer} {shapes if closest == math.inf else f'differs by {closest:.2g}'}"
            return Comparison(what, against, closest, REFUSED, why)
        elif layer:
            why = f"the model lists {len(own)} for {depth} layers, and nothing confirms layer {layer}"
            return Comparison(what, against, math.nan, UNVERIFIED, why)
    return Comparison(what, against, worst, VERIFIED)


def _followers(stack: _Stack, layer: int, depth: int) -> list[Tensor]:
    """Return what a layer's states should enter next: a layer of the same list, at the end of a list any module.

    A list of one tells nothing: what is taken for a layer might be a part of one.
    """
    following = [stack.following[layer]] if layer in stack.following else []
    output = [stack.output] if layer == depth and stack.output is not None else []
    is_last = layer == depth or (layer > 0 and stack.lists[layer - 1] != stack.lists[layer])
    ends = stack.between.get(layer, []) if is_last and len(set(stack.lists)) < depth else []
    return following + output + ends


def _compare_attention(stack: _Stack, own: list[Tensor], kernels: Mapping[int, Tensor]) -> Comparison:
    """Compare attention weights with those that the model lists, else (or where they differ) with its kernels' own.

    Some models list other things than the weights of each head: their logits, or the mean over heads.
    """
    if not stack.calls or len(own) > len(stack.calls):
        layers = ", ".join(str(layer) for layer in stack.unheard) or f"1 to {len(stack.states) - 1}"
        reasons = "; ".join(dict.fromkeys(stack.unheard.values())) or "it is computed in no way that is followed"
        why = f"that of layers {layers} is not captured ({reasons})"
        return Comparison(stack.label(ATTENTION), "its attention weights", math.nan, UNVERIFIED, why)
    computed = _compare_weights(stack, "the weights of its kernels", [kernels.get(number) for number, _ in stack.calls])
    if len(own) != len(stack.calls):
        return computed
    shown = _compare_weights(stack, "its attention weights (eager)", own)
    return computed if shown.verdict != VERIFIED and computed.verdict == VERIFIED else shown


def _compare_weights(stack: _Stack, against: str, own: Sequence[Tensor | None]) -> Comparison:
    what, worst = stack.label(ATTENTION), 0.0
    for (_, call), wanted in zip(stack.calls, own, strict=True):
        if wanted is None:
            return Comparison(what, against, math.nan, UNVERIFIED, f"layer {call.layer} does not say its weights")
        weights, valid = _weights(call), call.valid
        wanted = wanted.to(weights.device)[..., : weights.shape[-1]]  # what follows are sinks
        if wanted.ndim == 4 and len(wanted) == len(weights):  # they may be listed without prompts in front
            weights, valid = weights[..., -wanted.shape[2] :, -wanted.shape[3] :], valid[:, -wanted.shape[2] :]
        if wanted.numel() != weights.numel() or wanted.shape[-2:] != weights.shape[-2:]:
            why = f"layer {call.layer} has shape {tuple(weights.shape)}, the model's own {tuple(wanted.shape)}"
            return Comparison(what, against, math.inf, REFUSED, why)
        apart = float((weights - wanted.reshape(weights.shape)).abs().amax((1, 3))[valid].max())
        if not apart <= tolerance(wanted):
            return Comparison(what, against, apart, REFUSED, f"layer {call.layer} differs by {apart:.2g}")
        worst = max(worst, apart)
    return Comparison(what, against, worst, VERIFIED)


def _weights(call: AttentionCall) -> Tensor:
    """Return the attention weights of a call; what takes probability and is no key (sinks) is left out of them."""
    logits = call.logits(0, call.query.shape[2])
    if not call.is_softmax:
        return logits.sigmoid()
    sinks = logits[..., :0] if call.sinks is None else call.sinks.to(logits.dtype)
    return torch.cat([logits, sinks], -1).softmax(-1)[..., : logits.shape[-1]]
