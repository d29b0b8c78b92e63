"""Captures states, queries, keys and attention of any model as they pass, layer by layer, on the spot."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from dynamics.capture.attention import AttentionCall, attention_call
from dynamics.capture.calls import Call, at_work
from dynamics.capture.function_mode import ScoreWatch
from dynamics.capture.fused import Scores
from dynamics.capture.hearing import PADDED_WINDOWS
from dynamics.capture.layers import Layout, find_layers
from dynamics.capture.padding import TORCH, Padding
from dynamics.capture.state import held_still
from dynamics.capture.states import InputShape, input_shape
from dynamics.errors import InputError

STATE_SITES = frozenset({"residual", "output"})
ATTENTION_SITES = frozenset({"query", "key", "value", "attention"})

# Called with site, layer, states and which of them are not padding.
OnStates = Callable[[str, int, Float[Tensor, "B T D"], Bool[Tensor, "B T"]], None]
OnAttention = Callable[[AttentionCall], None]
OnStack = Callable[[str], None]

_LAYOUTS: WeakKeyDictionary[nn.Module, tuple[int, Layout]] = WeakKeyDictionary()


class Tap:
    """A capture at work, and what it learns of the model at its first forward pass."""

    def __init__(
        self,
        model: nn.Module,
        sites: frozenset[str],
        on_states: OnStates | None,
        on_attention: OnAttention | None,
        on_stack: OnStack | None,
        cross: bool,
        mask: str | None,
    ) -> None:
        self.name = type(model).__name__
        self._model, self._sites, self._cross = model, sites, cross
        self._on_states, self._on_attention, self._on_stack = on_states, on_attention, on_stack
        self._padding, self._input = Padding(mask, watches=True), InputShape()
        self._layout: Layout | None = None
        self._hooks, self._attentions = ExitStack(), list[Call]()
        self._watch: ScoreWatch | None = None
        self._depths = Counter[str]()  # layers that have run or are at work in this pass, by stack
        self._layer, self._shape = 0, (0, 0)  # the layer at work in its stack, its batch and length
        self._seen: set[int] = set()
        self._padded: set[int] = set()  # layers whose local windows hold padding
        self._searching = False
        self.passes = 0  # complete forward passes so far

    @property
    def layout(self) -> Layout:
        """Where the layers are."""
        if self._layout is None:
            raise InputError(f"the layers of {self.name} are found at its first forward pass.")
        return self._layout

    @property
    def layers(self) -> int:
        """The number of layers L, counted as they run: a shared layer counts every time."""
        return self.layout.layers

    @property
    def heads(self) -> tuple[int, ...]:
        """Query heads of each layer; 0 for a layer without self-attention."""
        return self.layout.heads

    @property
    def has_attention(self) -> bool:
        """Whether any layer has self-attention; convolutional models have states only."""
        return any(self.heads)

    @property
    def unheard(self) -> dict[tuple[str, int], str]:
        """Why the attention of a layer is not captured, by stack and layer; it is in those that are not named."""
        reasons = self.layout.unheard | {layer - 1: PADDED_WINDOWS for layer in self._padded}
        return {self.layout.places[number]: reason for number, reason in reasons.items()}

    @contextmanager
    def _open(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(held_still(self._model))
            stack.callback(self._padding.close)
            stack.enter_context(self._hooks)
            self._hook(self._model.register_forward_pre_hook(self._begin, with_kwargs=True))
            yield
        if not self.passes:
            raise InputError(f"nothing was captured: {self.name} was not run inside the capture.")

    def _hook(self, handle: Any) -> None:
        self._hooks.callback(handle.remove)

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._searching:
            return
        self._input = input_shape(model, args, kwargs)
        if self._layout is None:
            self._search(model, args, kwargs)
            self._install()
        self._padding.start(model, args, kwargs)
        self._layer, self._shape, self._seen = 0, (0, 0), set()
        self._depths.clear()
        self._attentions.clear()

    def _search(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find the layers; with one row less where there are as many rows as tokens, so that shapes tell them apart."""
        rows, tokens = self._input
        if rows == tokens and rows is not None and rows > 1:
            args, kwargs = tree_map(lambda x: x[1:] if isinstance(x, Tensor) and len(x) == rows else x, (args, kwargs))
        self._searching = True
        try:
            self._layout = layout_of(model, lambda: model(*args, **kwargs))
        finally:
            self._searching = False

    def _install(self) -> None:
        layout, modules = self.layout, dict(self._model.named_modules())
        if self._on_stack is None and len(layout.depths) > 1:
            several = f"runs several stacks of layers ({', '.join(name or 'its own' for name in layout.depths)})"
            raise InputError(f"{self.name} {several}: measure one of them, or name their rows apart with on_stack.")
        if self._sites <= ATTENTION_SITES and not self.has_attention:
            why = "; ".join(sorted(set(layout.unheard.values())))
            cannot = "computes no attention that can be captured: ask for the residual or output site"
            raise InputError(f"{self.name} {cannot} ({why}).")
        for module in modules.values():
            if isinstance(module, (PreTrainedModel, *TORCH)) and module is not self._model:
                self._hook(module.register_forward_pre_hook(self._read, with_kwargs=True))
        for name, last, stack in zip(layout.blocks, layout.exits, layout.stacks, strict=True):
            enter = partial(self._enter, stack)
            self._hook(modules[name].register_forward_pre_hook(enter, with_kwargs=True))
            if "residual" in self._sites:
                self._hook(modules[last].register_forward_hook(self._leave))
        if "output" in self._sites:
            for name, stack in layout.outputs.items():
                self._hook_output(name, stack)
        if self._sites & ATTENTION_SITES and self.has_attention:
            attentions = {name: modules[name] for name in layout.attentions}
            self._hooks.enter_context(at_work(attentions, self._attentions))
            self._watch = self._hooks.enter_context(ScoreWatch(self._attentions, self._scores))
        self._hook(self._model.register_forward_hook(self._end))

    def _hook_output(self, name: str, stack: str) -> None:
        """Have the last hidden state of a model handed over: without the head that it may have, after the last norm."""
        block = self.layout.blocks[self.layout.stacks.index(stack)]
        around = [(x, m) for x, m in self._model.named_modules() if isinstance(m, PreTrainedModel) or x == name]
        held: list[Any] = []

        def leave(is_whole: bool, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            x = getattr(output, "last_hidden_state", None)  # that of the outermost model which has one
            if x is not None or (is_whole and not held and not hasattr(output, "logits")):
                held[:] = [output if x is None else x]
            if is_whole:
                last = self._model.get_submodule(self.layout.exits[-1])
                self._hand_over(
                    "output", self.layout.depths[stack], self._states(held[0] if held else (), last, "its output")
                )
                held.clear()

        for inner, module in around:
            if f"{block}.".startswith(f"{inner}.".lstrip(".")) and f"{inner}.".startswith(f"{name}.".lstrip(".")):
                self._hook(module.register_forward_hook(partial(leave, inner == name)))

    def _read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the mask of a part, and the shape of what it reads."""
        self._padding.read(module, args, kwargs)
        shape = input_shape(module, args, kwargs)
        self._input = self._input if shape.rows is None else shape

    def _enter(self, stack: str, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._padding.enter_layer()
        self._layer = self._depths[stack]
        x = self._states(
            (kwargs.get("hidden_states"), *args, *kwargs.values()), block, f"what enters layer {self._layer + 1}"
        )
        self._shape = x.shape[0], x.shape[1]
        if self._on_stack is not None:
            self._on_stack(stack)
        if self._layer == 0 and "residual" in self._sites:
            self._hand_over("residual", 0, x)
        self._depths[stack] = self._layer = self._layer + 1

    def _leave(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._hand_over("residual", self._layer, self._states(output, block, f"layer {self._layer}"))

    def _states(self, values: Any, module: nn.Module, place: str) -> Float[Tensor, "B T D"]:
        return self.layout.states.read(values, module, self._input, f"{self.name}: {place}")

    def _hand_over(self, site: str, layer: int, x: Float[Tensor, "B T D"]) -> None:
        assert self._on_states is not None
        self._on_states(site, layer, x, self._padding.valid(self._model, x.shape[0], x.shape[1], x.device))

    def _scores(self, owner: Call, scores: Scores) -> None:
        if owner.cross and not self._cross:
            return
        assert self._on_attention is not None
        layer = self._depths.total()
        if not owner.cross and (layer - 1 in self.layout.unheard or layer in self._padded):
            return
        valid = partial(self._padding.queries, self._model, owner.name, self._shape)
        call = attention_call(self._layer, owner.module, scores, self._shape, owner.cross, valid)
        if call is None:
            if self.passes:
                raise InputError(f"the local windows of {self.name} hold padding in some batches and not in others.")
            return self._padded.add(layer)
        if not owner.cross:
            self._seen.add(layer)
        self._on_attention(call)

    def _end(self, *_: Any) -> None:
        if self._searching:
            return
        self._padding.end(self.name)
        expected = {layer for layer, heads in enumerate(self.heads, start=1) if heads} - self._padded
        unclear = self._watch.unclear().items() if self._watch else ()
        new = {call.name: why for call, why in unclear if not call.cross and call.name not in self.layout.unclear}
        if new:
            names, reasons = ", ".join(sorted(new)), "; ".join(dict.fromkeys(new.values()))
            form = f"{names} of {self.name} attends in another form than in the first batch ({reasons})"
            raise InputError(f"{form}: part the batches.")
        if self._depths.total() != self.layers:
            _LAYOUTS.pop(self._model)
            raise InputError(f"{self._depths.total()} layers of {self.name} ran where {self.layers} were expected.")
        if self._sites & ATTENTION_SITES and (missing := sorted(expected - self._seen)):
            layers = ", ".join(map(str, missing))
            raise InputError(f"no attention of {self.name} was captured in layers {layers}.")
        self.passes += 1


def layout_of(model: nn.Module, forward: Callable[[], Any]) -> Layout:
    """Return where the layers are: learnt once for a model, and again when its modules have changed."""
    size = sum(1 for _ in model.modules())
    cached = _LAYOUTS.get(model)
    if cached is None or cached[0] != size:
        cached = _LAYOUTS[model] = (size, find_layers(model, forward))
    return cached[1]


@contextmanager
def capture(
    model: nn.Module,
    sites: Iterable[str],
    on_states: OnStates | None = None,
    on_attention: OnAttention | None = None,
    on_stack: OnStack | None = None,
    *,
    cross: bool = False,
    mask: str | None = None,
) -> Iterator[Tap]:
    """Hand over the tensors of `model` as they pass, while it is run inside this block; none is kept or copied.

    The model runs in eval mode, without gradients, uncompiled, on its sdpa path; precision is the caller's. Its first
    pass ever runs once more, uncaptured, to find the layers. Everything is restored, also after an exception.

    Args:
        model: any module; a compiled one is measured uncompiled.
        sites: of "residual", "output", "query", "key", "value", "attention"; only what they need is captured.
        on_states: called as (site, layer, x, valid), images flattened, valid false for padding. "residual": layer 0 is
            what enters the first layer, 1..L what leaves each, before any final norm. "output": the last hidden state.
        on_attention: called with every `AttentionCall`; with those to another sequence only if `cross`.
        on_stack: called with the name of the stack before each of its layers runs: `encoder` and `decoder`, text and
            vision towers are numbered apart. "" where there is one.
        mask: the argument of `model` that says which tokens are real, as in `measure`.

    Raises:
        InputError: unknown sites, a model without layers or (for attention sites alone) attention, a layer missed,
            states that are not (batch, tokens, width) of the batch, or several stacks without `on_stack`.

    >>> import torch
    >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    >>> shapes = []
    >>> with capture(model, ["attention"], on_attention=lambda call: shapes.append(call.query.shape)) as tap:
    ...     _ = model(torch.randn(1, 5, 8))
    >>> tap.layers, tap.heads, shapes
    (2, (2, 2), [torch.Size([1, 2, 5, 4]), torch.Size([1, 2, 5, 4])])
    """
    sites = frozenset(sites)
    unknown = sorted(sites - STATE_SITES - ATTENTION_SITES)
    if unknown or not sites:
        choices = ", ".join(sorted(STATE_SITES | ATTENTION_SITES))
        raise InputError(f"sites must be of {choices} (got {', '.join(unknown) or 'none'}).")
    if (sites & STATE_SITES and on_states is None) or (sites & ATTENTION_SITES and on_attention is None):
        raise InputError("sites residual and output need on_states; query, key, value and attention need on_attention.")
    tap = Tap(getattr(model, "_orig_mod", model), sites, on_states, on_attention, on_stack, cross, mask)
    with tap._open():
        yield tap
