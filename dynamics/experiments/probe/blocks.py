"""Random Transformer blocks in batches: several seeds at once, each with weights of its own.

Legend: S seeds, C cells (bias norms) of a seed, B sequences of a cell, T tokens, D width, H heads, K = D / H.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamics.capture import AttentionCall
from dynamics.experiments.probe.design import Design

OnStates = Callable[[str, int, Tensor], None]
OnAttention = Callable[[AttentionCall], None]


class Scheme(NamedTuple):
    """How weights are drawn: N(0, std^2), those that end a residual branch scaled once more.

    `std` takes fan-in and fan-out, `residual` the number of blocks; scores are divided by K ** `power`.
    """

    std: Callable[[int, int], float]
    residual: Callable[[int], float] = lambda depth: 1.0
    power: float = 0.5


def _per_branch(depth: int) -> float:
    return (2 * depth) ** -0.5


SCHEMES = {
    "gpt2": Scheme(lambda fan_in, fan_out: 0.02, _per_branch),
    "bert": Scheme(lambda fan_in, fan_out: 0.02),
    "xavier": Scheme(lambda fan_in, fan_out: (2 / (fan_in + fan_out)) ** 0.5),
    "kaiming": Scheme(lambda fan_in, fan_out: (2 / fan_in) ** 0.5),
    "lecun": Scheme(lambda fan_in, fan_out: fan_in**-0.5),
    "mup": Scheme(lambda fan_in, fan_out: fan_in**-0.5, _per_branch, power=1.0),
}
"""GPT-2 (0.02, residual projections over sqrt(2 L)); BERT (0.02); Glorot and Bengio (2010); He et al. (2015);
LeCun et al. (1998), which is 1/d within the attention; Yang et al. (2203.03466, scores over K) with the
residual branches of Yang et al. (2310.02244)."""


def ignore(*_: object) -> None:
    """Hears what passes through the blocks, and does nothing."""


def generator(seed: int, what: object) -> torch.Generator:
    """Random numbers that depend on the seed and on what they are for, and on nothing else."""
    digest = hashlib.sha256(f"{seed}/{what}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draw(kind: str, shape: Sequence[int], source: torch.Generator) -> Tensor:
    """Independent numbers of mean 0 and variance 1.

    >>> x = draw("laplace", (99999,), generator(0, "x"))
    >>> round(float(x.var()), 1)
    1.0
    """
    if kind == "normal":
        return torch.randn(shape, generator=source)
    if kind == "signs":
        return torch.randint(0, 2, shape, generator=source) * 2.0 - 1.0
    uniform = torch.rand(shape, generator=source)
    if kind == "uniform":
        return (uniform * 2 - 1) * 3**0.5
    apart = uniform - 0.5
    return -apart.sign() * torch.log1p(-2 * apart.abs()).clamp(min=-20) * 2**-0.5


def direction(shape: Sequence[int], source: torch.Generator) -> Tensor:
    """Random directions: unit vectors along the last axis."""
    return F.normalize(torch.randn(shape, generator=source), dim=-1)


class RandomBlocks:
    """Blocks of one design, drawn anew for every seed: attention and a GELU MLP of 4 D, without biases.

    Weights are a function of the seed and the block's place, so that neither the seeds nor the bias norms that
    pass together matter.
    """

    together = True

    def __init__(self, design: Design, depth: int, device: torch.device) -> None:
        self.design, self.layers, self._device = design, depth, device
        self.shape = design.length, design.width
        self._scheme = SCHEMES[design.initialization]

    def run(
        self, seeds: Sequence[int], x: Tensor, on_states: OnStates, on_attention: OnAttention, depth: int = 0
    ) -> None:
        """Pass `x` (S, C, B, T, D) through the blocks.

        Every part is handed over as it is made: (`attention`, l) the attention's output alone, (`residual`, l)
        the stream that it was added to, (`mlp`, l) the block's output, all shaped as x. The attention call has
        S * C * B rows.
        """
        norm, width = self.design.norm, x.shape[-1]
        shape, x = x.shape, x.flatten(1, -2)

        def before(x: Tensor) -> Tensor:
            return F.layer_norm(x, (width,)) if norm == "pre" else x

        def after(x: Tensor) -> Tensor:
            return F.layer_norm(x, (width,)) if norm == "post" else x

        for layer in range(1, (depth or self.layers) + 1):
            query, key, value, out, up, down = (w.to(self._device) for w in self._weights(seeds, layer))
            call, values = self._attention(layer, before(x), shape, query, key, value)
            on_attention(call)
            mixed = F.scaled_dot_product_attention(
                call.query, call.key, values, scale=call.scaling, is_causal=call.is_causal
            )
            branch = mixed.transpose(1, 2).reshape(x.shape) @ out
            on_states("attention", layer, branch.view(shape))
            x = after(x + branch)
            on_states("residual", layer, x.view(shape))
            x = after(x + F.gelu(before(x) @ up) @ down)
            on_states("mlp", layer, x.view(shape))

    def _attention(self, layer: int, x: Tensor, shape: Sequence[int], *weights: Tensor) -> tuple[AttentionCall, Tensor]:
        """The attention call of x (S, C * B * T, D), and its values (S * C * B, H, T, K)."""
        head_width = self.design.width // self.design.heads
        query, key, value = (
            (x @ w).view(-1, shape[-2], self.design.heads, head_width).transpose(1, 2) for w in weights
        )
        valid = torch.ones(len(query), shape[-2], dtype=torch.bool, device=x.device)
        scaling = head_width**-self._scheme.power
        return AttentionCall(layer, query, key, scaling, None, self.design.causal, valid), value

    def _weights(self, seeds: Sequence[int], layer: int) -> tuple[Tensor, ...]:
        """Query, key, value, out, up and down projections of a layer, each (S, fan-in, fan-out)."""
        width, residual = self.design.width, self._scheme.residual(self.layers)
        drawn = []
        for seed in seeds:
            source = generator(seed, f"block {layer}")
            drawn.append(
                [
                    torch.randn(fan_in, fan_out, generator=source) * (self._scheme.std(fan_in, fan_out) * scale)
                    for fan_in, fan_out, scale in (
                        *[(width, width, 1.0)] * 3,
                        *((width, width, residual), (width, 4 * width, 1.0), (4 * width, width, residual)),
                    )
                ]
            )
        return tuple(torch.stack(matrices) for matrices in zip(*drawn, strict=True))
