"""Pictures of the metrics of attention, and of its weights. Legend: 8 heads, 128 queries and keys."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from drawing.canvas import curve, normal, quantity, steps, truth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADS, TOKENS, WIDTH = 8, 128, 64
SPREADS = steps(0, 6, 13)
MASKS = (("bidirectional", False), ("causal", True))
SPREAD = "spread of the logits (standard deviation)"


def scores(spread: float, is_causal: bool) -> Tensor:
    """Logits N(0, spread^2), shape (HEADS, TOKENS, TOKENS), what the mask hides -inf."""
    hidden = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1) & is_causal
    return (spread * normal(HEADS, TOKENS, TOKENS)).masked_fill(hidden, -torch.inf)


def by_spread(axes: "Axes", name: str, of_logits: bool = False) -> None:
    """A metric of the probabilities (or the logits) against the logits' spread, for both masks."""
    measured = quantity(name)
    for label, is_causal in MASKS:
        logits = [scores(s, is_causal) for s in SPREADS]
        values = [measured(z if of_logits else z.softmax(-1)).mean() for z in logits]
        curve(axes, SPREADS, values, label)
    axes.set(xlabel=SPREAD, ylabel=name)


def entropy(axes: "Axes") -> None:
    """Attention over 128 keys as its logits spread out. Dashed: log 128 - spread² / 2, which Gaussian logits follow
    while they are small.
    """
    query, key = normal(1, HEADS, TOKENS, WIDTH), normal(1, HEADS, TOKENS, WIDTH, seed=1)
    for label, is_causal in MASKS:
        values = [quantity("entropy")(query, key, s * WIDTH**-0.5, is_causal=is_causal).mean() for s in SPREADS]
        curve(axes, SPREADS, values, label)
    small = steps(0, 2.2, 23)
    truth(axes, small, [torch.tensor(float(TOKENS)).log() - s * s / 2 for s in small])
    axes.set(xlabel=SPREAD, ylabel="entropy (nats)", ylim=(0, 5.2))


def normalized_entropy(axes: "Axes") -> None:
    """The attention of the picture of `entropy`: as a share of what each query could reach, the masks compare."""
    by_spread(axes, "normalized_entropy")
    axes.set(ylim=(0, 1.05))


def max_probability(axes: "Axes") -> None:
    """Attention over 128 keys as its logits spread out. Dotted: uniform attention, 1 / 128 and, under the causal
    mask, the mean of 1 / i.
    """
    by_spread(axes, "max_probability")
    for level in (1 / TOKENS, sum(1 / i for i in range(1, TOKENS + 1)) / TOKENS):
        axes.axhline(level, color="black", linestyle=":", linewidth=1)
    axes.set(ylim=(0, 1))


def min_probability(axes: "Axes") -> None:
    """Attention over 128 keys as its logits spread out. Under the causal mask the first query, which sees one key
    and gives 1, holds the mean up at 1 / 128. Dotted: uniform attention.
    """
    by_spread(axes, "min_probability")
    for level in (1 / TOKENS, sum(1 / i for i in range(1, TOKENS + 1)) / TOKENS):
        axes.axhline(level, color="black", linestyle=":", linewidth=1)
    axes.set(yscale="log")


def sink_mass(axes: "Axes") -> None:
    """Logits N(0, 1) over 128 keys, that of the first key set to a. Dashed: the mean over queries of
    eᵃ / (eᵃ + m √e), m the number of other keys seen.
    """
    raised, fine = steps(-2, 10, 13), steps(-2, 10, 61)
    for label, is_causal in MASKS:
        logits = scores(1, is_causal)
        first = torch.nn.functional.one_hot(torch.tensor(0), TOKENS).bool()
        values = [quantity("sink_mass")(logits.masked_fill(first, a).softmax(-1)).mean() for a in raised]
        curve(axes, raised, values, label)
        others = torch.arange(1, TOKENS) if is_causal else torch.full((TOKENS - 1,), TOKENS - 1)
        on_first = torch.tensor(fine).exp()[:, None]
        truth(axes, fine, (on_first / (on_first + others * torch.e**0.5)).mean(-1))
    axes.set(xlabel="logit of the first key, a (others N(0, 1))", ylabel="sink_mass")


def logit_max(axes: "Axes") -> None:
    """Gaussian logits of 128 queries over 128 keys. Dashed: the median of the greatest of 128² Gaussian numbers."""
    curve(axes, SPREADS, [quantity("logit_max")(scores(s, False)).mean() for s in SPREADS])
    median = torch.special.ndtri(torch.tensor(0.5, dtype=torch.float64) ** TOKENS**-2)
    truth(axes, SPREADS, [s * median for s in SPREADS])
    axes.set(xlabel=SPREAD, ylabel="logit_max")


def score_variance(axes: "Axes") -> None:
    """Queries and keys N(0, I) of width 64, logits scaled by 1 / 8, with a bias put on one side: a key bias shifts
    whole rows and changes nothing. Dashed: 1 + β² / 64 and 1.
    """
    biases, fine = steps(0, 16, 9), steps(0, 16, 33)
    query, key = normal(64, TOKENS, WIDTH), normal(64, TOKENS, WIDTH, seed=1)

    def measured(on_query: float, on_key: float) -> Tensor:
        products = (query + on_query * WIDTH**-0.5) @ (key + on_key * WIDTH**-0.5).mT
        return quantity("score_variance")(products * WIDTH**-0.5).mean()

    curve(axes, biases, [measured(b, 0) for b in biases], "bias on the queries")
    curve(axes, biases, [measured(0, b) for b in biases], "bias on the keys")
    truth(axes, fine, [1 + b * b / WIDTH for b in fine])
    truth(axes, fine, [1] * len(fine))
    axes.set(xlabel="norm of the bias, β (spread 1 a coordinate)", ylabel="score_variance", ylim=(0, 5.5))


def biased(angle: float, norm: float, n: int = 512) -> tuple[Tensor, Tensor]:
    """Queries and keys N(0, I), shape (HEADS, n, WIDTH), with biases of one norm at an angle (degrees)."""
    axis = torch.eye(WIDTH, dtype=torch.float64)
    turn = torch.deg2rad(torch.tensor(angle, dtype=torch.float64))
    key = norm * (turn.cos() * axis[0] + turn.sin() * axis[1])
    return normal(HEADS, n, WIDTH) + norm * axis[0], normal(HEADS, n, WIDTH, seed=1) + key


ANGLES = steps(0, 180, 13)


def by_angle(axes: "Axes", name: str, norms: tuple[float, float]) -> None:
    """A metric of queries and keys against the angle between their biases."""
    for norm in norms:
        values = [quantity(name)(*biased(a, norm)).mean() for a in ANGLES]
        curve(axes, ANGLES, values, f"biases of norm {norm:g}")
    axes.set(xlabel="angle between the biases (degrees)", ylabel=name, ylim=(-1.05, 1.05))
    axes.set_xticks([0, 45, 90, 135, 180])


def qk_alignment(axes: "Axes") -> None:
    """512 queries and keys N(0, I) of width 64 with biases at an angle. Dashed: its cosine. Means that are small
    beside their noise, √(64 / 512), hardly show their angle.
    """
    by_angle(axes, "qk_alignment", (8, 0.25))
    fine = steps(0, 180, 61)
    truth(axes, fine, torch.deg2rad(torch.tensor(fine)).cos())


def qk_mean_cosine(axes: "Axes") -> None:
    """512 queries and keys N(0, I) of width 64 with biases of norm β at an angle. Dashed: its cosine times
    β² / (β² + 64).
    """
    by_angle(axes, "qk_mean_cosine", (8, 4))
    fine = steps(0, 180, 61)
    for norm in (8, 4):
        truth(axes, fine, torch.deg2rad(torch.tensor(fine)).cos() * norm**2 / (norm**2 + WIDTH))


def qk_symmetry(axes: "Axes") -> None:
    """Projections of width 256 to heads of 32: W_k takes a share of its variance from W_q (symmetric), or from W_q
    with its rows turned against each other (antisymmetric), the rest at random. Dashed: that share.
    """
    query, random = normal(HEADS, 32, 256), normal(HEADS, 32, 256, seed=1)
    turned = torch.cat([query[:, 16:], -query[:, :16]], dim=1)
    shares = steps(-1, 1, 13)

    def key(share: float) -> Tensor:
        return abs(share) ** 0.5 * (query if share > 0 else turned) + (1 - abs(share)) ** 0.5 * random

    curve(axes, shares, [quantity("qk_symmetry")(query, key(s)).mean() for s in shares])
    truth(axes, shares, shares)
    axes.set(xlabel="W_k from W_q (signed share)", ylabel="qk_symmetry")
    axes.set_xticks([-1, 0, 1], ["-1\nantisymmetric", "0\nrandom", "1\nsymmetric"])


PICTURES = (
    *(entropy, normalized_entropy, max_probability, min_probability, sink_mass, logit_max, score_variance),
    *(qk_alignment, qk_mean_cosine, qk_symmetry),
)
