"""Captures the residual stream of a model while it trains: with gradients, compiled or not, in any mode."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dynamics.capture.state import held_still
from dynamics.capture.states import InputShape
from dynamics.capture.tap import layout_of
from dynamics.errors import InputError


class Listener:
    """Residual states of layers 1..L as they pass, for use in a loss.

    The layers are those of `capture`; to find them `forward` is run once, in eval mode and without a trace, unless the
    model was captured before.

    >>> import torch
    >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    >>> x = torch.randn(1, 5, 8)
    >>> listener = Listener(model, lambda: model(x))
    >>> with listener.open() as take:
    ...     _ = model(x)
    >>> states = take()
    >>> len(states), states[-1].shape, states[-1].requires_grad
    (2, torch.Size([1, 5, 8]), True)
    """

    def __init__(self, model: nn.Module, forward: Callable[[], Any]) -> None:
        model = getattr(model, "_orig_mod", model)
        self._name = type(model).__name__
        with held_still(model):
            layout = layout_of(model, forward)
        if len(layout.depths) > 1:
            raise InputError(
                f"{self._name} runs several stacks of layers ({', '.join(layout.depths)}): choose one of them."
            )
        self._blocks = [model.get_submodule(name) for name in layout.exits]
        self._states = layout.states
        self._outputs: list[Any] = []
        self._hook = self._leave
        self.layers = layout.layers

    def _leave(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._outputs.append(output)

    @contextmanager
    def open(self) -> Iterator[Callable[[], list[Float[Tensor, "B T D"]]]]:
        """Run the model once inside this block; the function it yields then returns the states of layers 1..L, once."""
        self._outputs.clear()
        with ExitStack() as hooks:
            for block in self._blocks:
                hooks.callback(block.register_forward_hook(self._hook).remove)
            yield self._take

    def _take(self) -> list[Float[Tensor, "B T D"]]:
        read, last = self._states.read, self._blocks[-1]
        states = [
            read(output, last, InputShape(), f"{self._name}: layer {i}") for i, output in enumerate(self._outputs, 1)
        ]
        self._outputs.clear()
        if len(states) != self.layers:
            raise InputError(f"{len(states)} layers of {self._name} ran where {self.layers} were expected.")
        return states
