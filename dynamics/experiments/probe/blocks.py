"""Random Transformer blocks.

Legend: C cells (bias norms), B sequences of a cell, T tokens, D width, H heads, K = D / H.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamics.capture import AttentionCall
from dynamics.experiments.probe.design import BlockDesign

OnStates = Callable[[str, int, Tensor], None]
OnAttention = Callable[[AttentionCall], None]


class Scheme(NamedTuple):
    """How weights are drawn: N(0, std^2), and the last ones of a residual branch scaled by `residual`."""

    std: Callable[[int, int], float]  # of fan-in and fan-out
    residual: Callable[[int], float] = lambda depth: 1.0  # of the number of blocks
    power: float = 0.5  # scores are divided by K ** power


def _per_branch(depth: int) -> float:
    return (2 * depth) ** -0.5


SCHEMES = {
    "gpt2": Scheme(lambda fan_in, fan_out: 0.02, _per_branch),
    "bert": Scheme(lambda fan_in, fan_out: 0.02),
    "xavier": Scheme(lambda fan_in, fan_out: (2 / (fan_in + fan_out)) ** 0.5),  # Glorot and Bengio (2010)
    "kaiming": Scheme(lambda fan_in, fan_out: (2 / fan_in) ** 0.5),  # He et al. (2015)
    "lecun": Scheme(lambda fan_in, fan_out: fan_in**-0.5),  # LeCun et al. (1998), 1/d within the attention
    # Yang et al. (2203.03466, scores over K), with the residual branches of Yang et al. (2310.02244).
    "mup": Scheme(lambda fan_in, fan_out: fan_in**-0.5, _per_branch, power=1.0),
}


def ignore(*_: object) -> None:
    """Ignore what passes through the blocks."""


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return a generator whose numbers depend on the seed and on their purpose alone."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draw(kind: str, shape: Sequence[int], source: torch.Generator) -> Tensor:
    """Draw independent numbers of mean 0 and variance 1.

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
    """Draw random directions: unit vectors along the last axis."""
    return F.normalize(torch.randn(shape, generator=source), dim=-1)


class RandomBlocks:
    """Blocks of one design: attention and a GELU MLP of width 4 D, without biases.

    Weights are a function of the seed and the layer alone. `shape` is (tokens, width) of what enters the first.
    """

    def __init__(self, design: BlockDesign, depth: int, device: torch.device) -> None:
        self.design, self.layers, self.device = design, depth, device
        self.shape, self._scheme = (design.length, design.width), SCHEMES[design.initialization]

    def run(self, seed: int, x: Tensor, on_states: OnStates, on_attention: OnAttention, depth: int = 0) -> None:
        """Pass `x` (C, B, T, D) through the first `depth` blocks (all by default).

        Parts, each shaped as x: (`attention`, l) the attention's output alone, (`residual`, l) the stream that it was
        added to, (`mlp`, l) the block's output. The attention call has C * B rows.
        """
        shape = x.shape
        x = x.flatten(0, -2)

        def normed(x: Tensor, place: str) -> Tensor:
            return F.layer_norm(x, (self.design.width,)) if self.design.norm == place else x

        for layer in range(1, (depth or self.layers) + 1):
            query, key, value, out, up, down = (w.to(self.device) for w in self._weights(seed, layer))
            branch = self._attention(layer, normed(x, "pre"), (query, key, value), on_attention) @ out
            on_states("attention", layer, branch.view(shape))
            x = normed(x + branch, "post")
            on_states("residual", layer, x.view(shape))
            x = normed(x + F.gelu(normed(x, "pre") @ up) @ down, "post")
            on_states("mlp", layer, x.view(shape))

    def _attention(self, layer: int, x: Tensor, weights: Sequence[Tensor], on_attention: OnAttention) -> Tensor:
        """Return the mixed values of x (C * B * T, D), shaped as x."""
        heads, head_width = self.design.heads, self.design.width // self.design.heads
        query, key, value = ((x @ w).view(-1, self.design.length, heads, head_width).transpose(1, 2) for w in weights)
        scaling, causal = head_width**-self._scheme.power, self.design.causal
        valid = torch.ones(len(query), self.design.length, dtype=torch.bool, device=x.device)
        on_attention(AttentionCall(layer, query, key, scaling, None, causal, valid))
        mixed = F.scaled_dot_product_attention(query, key, value, scale=scaling, is_causal=causal)
        return mixed.transpose(1, 2).reshape(x.shape)

    def _weights(self, seed: int, layer: int) -> list[Tensor]:
        """Draw the query, key, value, out, up and down projections of a layer, each (fan-in, fan-out)."""
        width, residual = self.design.width, self._scheme.residual(self.layers)
        source = generator(seed, f"block {layer}")
        square, last = (width, width, 1.0), (width, width, residual)
        return [
            torch.randn(fan_in, fan_out, generator=source) * (self._scheme.std(fan_in, fan_out) * scale)
            for fan_in, fan_out, scale in (*[square] * 3, last, (width, 4 * width, 1.0), (4 * width, width, residual))
        ]
