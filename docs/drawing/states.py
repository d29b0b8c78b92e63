"""Pictures of the metrics of states, and of pairs of layers. Legend: n states of width d."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from drawing.canvas import curve, decades, moved, normal, quantity, steps, stretched, truth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 64
MANY, FEW = 4096, 64
BIASES = [0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 20.0, 24.0, 28.0, 32.0]


def spectrum(share: float) -> Tensor:
    """Variances of `WIDTH` directions, the first with this share of the whole, the others alike."""
    variances = torch.full((WIDTH,), (1 - share) / (WIDTH - 1), dtype=torch.float64)
    variances[0] = share
    return variances


def equal(k: int) -> Tensor:
    """Variances of `WIDTH` directions, k of them 1 and the rest 0."""
    return (torch.arange(WIDTH) < k).double()


SHARES = [1 / WIDTH, *steps(0.1, 0.9, 9), 0.97, 0.99, 1.0]
DIRECTIONS = [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]


def anisotropy(axes: "Axes") -> None:
    """Gaussian states of width 64, a share of their variance in one direction. Dashed: that share. Few states look
    more anisotropic than they are.
    """
    shares = decades(-1.8, 0, 12)
    for n in (MANY, 16):
        curve(axes, shares, [quantity("anisotropy")(stretched(n, spectrum(s))) for s in shares], f"{n} states")
    truth(axes, shares, shares)
    axes.set(xscale="log", yscale="log", xlabel="variance in one direction (share)", ylabel="anisotropy")


def anisotropy_uncentered(axes: "Axes") -> None:
    """Isotropic states N(0, I) of width 64 plus a common bias: the bias is seen, the round cloud about it is not.
    Dashed: (1 + β²) / (64 + β²) for a bias of norm β.
    """
    for name, label in (("anisotropy_uncentered", "uncentred"), ("anisotropy", "centred: anisotropy")):
        curve(axes, BIASES, [quantity(name)(moved(MANY, WIDTH, b)) for b in BIASES], label)
    fine = steps(0, 32, 65)
    truth(axes, fine, [(1 + b * b) / (WIDTH + b * b) for b in fine])
    axes.set(xlabel="norm of the bias, β (spread 1 a coordinate)", ylabel="anisotropy_uncentered")


def singular_value_share(axes: "Axes") -> None:
    """The states of the picture of `anisotropy`, 4096 of width 64: the same clouds, another number. Dashed: the
    value of the true spectrum.
    """
    for name, label in (
        ("singular_value_share", "of singular values"),
        ("anisotropy", "of their squares: anisotropy"),
    ):
        curve(axes, SHARES, [quantity(name)(stretched(MANY, spectrum(s))) for s in SHARES], label)
    fine = steps(1 / WIDTH, 1, 100)
    truth(axes, fine, [spectrum(s).sqrt()[0] / spectrum(s).sqrt().sum() for s in fine])
    axes.set(xlabel="variance in one direction (share)", ylabel="singular_value_share")


def isoscore(axes: "Axes") -> None:
    """Gaussian states of width 64 that fill k directions evenly. Dashed: (k - 1) / 63. Few states look less
    isotropic than they are.
    """
    for n in (MANY, FEW):
        curve(axes, DIRECTIONS, [quantity("isoscore")(stretched(n, equal(k))) for k in DIRECTIONS], f"{n} states")
    truth(axes, DIRECTIONS, [(k - 1) / (WIDTH - 1) for k in DIRECTIONS])
    axes.set(xlabel="directions filled, k of 64", ylabel="isoscore")


def participation_ratio(axes: "Axes") -> None:
    """Gaussian states of width 64 that fill k directions evenly. Dashed: n k / (n + k), which is k only for many
    states.
    """
    for n in (MANY, FEW):
        measured = [quantity("participation_ratio")(stretched(n, equal(k))) for k in DIRECTIONS]
        curve(axes, DIRECTIONS, measured, f"n = {n} states")
        truth(axes, DIRECTIONS, [n * k / (n + k) for k in DIRECTIONS])
    axes.set(xlabel="directions filled, k of 64", ylabel="participation_ratio (dimensions)")


def effective_rank(axes: "Axes") -> None:
    """4096 Gaussian states of width 64 whose variances fall as a power of the direction's number: small directions
    count for more than in the participation ratio. Dashed: the values of the true spectra.
    """
    powers, ranks = steps(0, 4, 9), torch.arange(1, WIDTH + 1, dtype=torch.float64)
    spectra = [ranks**-a for a in powers]
    for name in ("effective_rank", "participation_ratio"):
        curve(axes, powers, [quantity(name)(stretched(MANY, v)) for v in spectra], name)
    shares = [v.sqrt() / v.sqrt().sum() for v in spectra]
    truth(axes, powers, [(-p.xlogy(p).sum()).exp() for p in shares])
    truth(axes, powers, [v.sum() ** 2 / v.square().sum() for v in spectra])
    axes.set(xlabel="decay a of the variances, 1 / iᵃ", ylabel="effective_rank (dimensions)")


def kurtosis(axes: "Axes") -> None:
    """4096 states N(0, I) of width 64 with one coordinate made larger. Dashed: the value of the true sizes; the
    ceiling is the width.
    """
    factors = decades(0, 2, 11)
    sizes = [torch.tensor([f**2] + [1.0] * (WIDTH - 1)) for f in factors]
    curve(axes, factors, [quantity("kurtosis")(stretched(MANY, v)) for v in sizes])
    truth(axes, factors, [v.square().mean() / v.mean() ** 2 for v in sizes])
    axes.set(xscale="log", xlabel="size of one coordinate (others 1)", ylabel="kurtosis")


def mean_cosine(axes: "Axes") -> None:
    """4096 states N(0, I) of width 64 or 512 plus a common bias of norm β. Dashed: β² / (β² + d)."""
    fine = steps(0, 32, 65)
    for width in (64, 512):
        measured = [quantity("mean_cosine")(moved(MANY, width, b)) for b in BIASES]
        curve(axes, BIASES, measured, f"width d = {width}")
        truth(axes, fine, [b * b / (b * b + width) for b in fine])
    axes.set(xlabel="norm of the bias, β (spread 1 a coordinate)", ylabel="mean_cosine", ylim=(-0.05, 1.05))


def mean_cosine_across_windows(axes: "Axes") -> None:
    """1024 states of width 512, half of whose variance all states of a window share: longer windows raise the plain
    mean cosine only. Dashed: what pairs of one window add, (length - 1) / 2046.
    """
    lengths = [1, 16, 32, 64, 96, 128, 192, 256]
    x, common = normal(1024, 512), normal(1024, 512, seed=1)
    windows = [torch.arange(1024) // length for length in lengths]
    clouds = [x + common[w] for w in windows]
    curve(axes, lengths, [quantity("mean_cosine")(c) for c in clouds], "all pairs: mean_cosine")
    across = quantity("mean_cosine_across_windows")
    curve(axes, lengths, [across(c, w) for c, w in zip(clouds, windows, strict=True)], "pairs across windows")
    truth(axes, lengths, [(length - 1) / 2046 for length in lengths])
    axes.set(xlabel="length of a window (tokens)", ylabel="mean_cosine_across_windows", ylim=(-0.02, 0.18))


def mean_norm(axes: "Axes") -> None:
    """4096 states N(0, I) of width 64 plus a common bias of norm β. Dashed: √(64 + β²)."""
    curve(axes, BIASES, [quantity("mean_norm")(moved(MANY, WIDTH, b)) for b in BIASES])
    fine = steps(0, 32, 65)
    truth(axes, fine, [(WIDTH + b * b) ** 0.5 for b in fine])
    axes.set(
        xlabel="norm of the bias, β (spread 1 a coordinate)",
        ylabel="mean_norm (unit of the states)",
        ylim=(0, 35),
    )


def norm_of_mean(axes: "Axes") -> None:
    """n states N(0, I) of width 64 plus a common bias of norm β: a small drift hides below √(64 / n). Dashed:
    √(β² + 64 / n).
    """
    biases = decades(-2, 1.5, 15)
    for n in (MANY, FEW):
        curve(axes, biases, [quantity("norm_of_mean")(moved(n, WIDTH, b)) for b in biases], f"n = {n} states")
        told_apart = biases if n == MANY else [b for b in biases if b < 4]
        truth(axes, told_apart, [(b * b + WIDTH / n) ** 0.5 for b in told_apart])
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="norm of the bias, β (spread 1 a coordinate)",
        ylabel="norm_of_mean (states' unit)",
    )


def intrinsic_dimension(axes: "Axes") -> None:
    """4096 Gaussian states of a known dimension, turned into width 64. Dashed: the truth. The estimate falls short as
    the dimension grows; a fit to fewer ratios is noisier, not truer.
    """
    true = [1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    turn = torch.linalg.qr(normal(WIDTH, WIDTH, seed=1)).Q
    clouds = [normal(MANY, k) @ turn[:k] for k in true]
    for keep, label in ((0.9, "lowest 90 % of the ratios"), (0.2, "intrinsic_dimension_lowest_20")):
        curve(axes, true, [quantity("intrinsic_dimension")(x, keep) for x in clouds], label)
    truth(axes, true, true)
    axes.set(xlabel="true dimension", ylabel="intrinsic_dimension", ylim=(0, 23))


def scale_dependence(axes: "Axes") -> None:
    """4096 states on a square of side 1, with noise in 20 dimensions: where neighbours lie as far apart as the
    noise, the dimension depends on how densely one looks. Dashed: no dependence.
    """
    noises = decades(-4, 0.5, 10)
    sheet = torch.zeros(MANY, 20, dtype=torch.float64)
    sheet[:, :2] = torch.rand(MANY, 2, generator=torch.Generator().manual_seed(0))
    curve(axes, noises, [quantity("scale_dependence")(sheet + s * normal(MANY, 20)) for s in noises])
    truth(axes, noises, [1] * len(noises))
    axes.set(xscale="log", xlabel="noise (side of the square 1)", ylabel="scale_dependence")


def duplicate_share(axes: "Axes") -> None:
    """4096 tokens drawn evenly from an embedding table of V rows: the states of layer 0 without positions. Dashed:
    1 - V (1 - (1 - 1 / V)ⁿ) / n.
    """
    rows = [2**k for k in range(4, 18)]
    tables = [normal(v, 2) for v in rows]
    picks = [torch.randint(v, (MANY,), generator=torch.Generator().manual_seed(0)) for v in rows]
    measured = [quantity("duplicate_share")(t[p]) for t, p in zip(tables, picks, strict=True)]
    curve(axes, rows, measured)
    truth(axes, rows, [1 - v * (1 - (1 - 1 / v) ** MANY) / MANY for v in rows])
    axes.set(xscale="log", xlabel="rows of the table, V", ylabel="duplicate_share")


def local_anisotropy(axes: "Axes") -> None:
    """4096 states on an arc in the plane, thickened by isotropic noise in 16 dimensions: as the arc grows, the
    whole becomes anisotropic, its neighbourhoods hardly. 64 states are never near 0.
    """
    lengths = steps(0, 12, 7)
    angle = torch.rand(MANY, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    clouds = []
    for length in lengths:
        x = normal(MANY, 16) * 0.5
        x[:, 0] += length * angle.mul(2).sin()
        x[:, 1] += length * angle.mul(2).cos()
        clouds.append(x)
    measured = quantity("local_anisotropy")
    curve(axes, lengths, [measured(x) for x in clouds], "64 nearest")
    curve(axes, lengths, [measured(x, random=True) for x in clouds], "64 at random")
    curve(axes, lengths, [quantity("anisotropy")(x) for x in clouds], "all: anisotropy")
    axes.set(xlabel="length of the arc (noise 0.5)", ylabel="local_anisotropy")


def drift(axes: "Axes") -> None:
    """The mean of 4096 states of width 64 is turned and keeps its norm of 4: only the drift shows it. Dashed:
    8 sin(angle / 2).
    """
    angles = steps(0, 180, 13)
    turns = torch.deg2rad(torch.tensor(angles, dtype=torch.float64))
    axis, cloud = torch.eye(WIDTH, dtype=torch.float64), normal(MANY, WIDTH)
    cloud -= cloud.mean(0)
    means = [4 * (t.cos() * axis[0] + t.sin() * axis[1]) for t in turns]
    curve(axes, angles, [quantity("drift")(cloud + m, means[0]) for m in means], "drift")
    curve(axes, angles, [quantity("norm_of_mean")(cloud + m) for m in means], "norm_of_mean")
    truth(axes, angles, 8 * (turns / 2).sin())
    axes.set(xlabel="turn of the mean (degrees)", ylabel="drift (unit of the states)", ylim=(0, 9))
    axes.set_xticks([0, 45, 90, 135, 180])


def linear_cka(axes: "Axes") -> None:
    """States N(0, I) of width 64 against the same states turned, with noise added. Dashed: 1 / (1 + noise²). Few
    states look more alike than they are.
    """
    noises, turn = steps(0, 3, 10), torch.linalg.qr(normal(WIDTH, WIDTH, seed=1)).Q
    for n in (MANY, 128):
        x, noise = normal(n, WIDTH), normal(n, WIDTH, seed=2)
        curve(axes, noises, [quantity("linear_cka")(x, x @ turn + s * noise) for s in noises], f"{n} states")
    truth(axes, noises, [1 / (1 + s * s) for s in noises])
    axes.set(xlabel="noise (spread of the states 1)", ylabel="linear_cka", ylim=(0, 1.05))


def procrustes_linearity(axes: "Axes") -> None:
    """States N(0, I) of width 64 against a mixture of themselves and of their squares. Dashed: 1 - share. Few
    states look more linear than they are.
    """
    _of_squares(axes, "procrustes_linearity", quantity("procrustes_linearity"), "states")


def cka_to_start(axes: "Axes") -> None:
    """4096 states N(0, I) of width 64 at step 0, of which a share of the coordinates is drawn anew. Dashed: the
    share that is left.
    """
    shares = steps(0, 1, 9)
    for name in ("cka_to_start", "linearity_to_start"):
        start, anew = normal(MANY, WIDTH), normal(MANY, WIDTH, seed=2)
        now = [torch.cat([anew[:, : int(s * WIDTH)], start[:, int(s * WIDTH) :]], dim=1) for s in shares]
        curve(axes, shares, [quantity(name)(y, start) for y in now], name)
    truth(axes, shares, [1 - s for s in shares])
    axes.set(xlabel="coordinates drawn anew (share)", ylabel="similarity to step 0", ylim=(-0.05, 1.05))


def linearity_to_start(axes: "Axes") -> None:
    """States N(0, I) of width 64 at step 0, then a mixture of themselves and of their squares. Dashed: 1 - share.
    Few tokens make training look linear.
    """
    _of_squares(axes, "linearity_to_start", lambda x, y: quantity("linearity_to_start")(y, x), "tokens")


def _of_squares(axes: "Axes", name: str, linearity: Callable[[Tensor, Tensor], Tensor], unit: str) -> None:
    shares = steps(0, 1, 11)
    for n in (MANY, 128):
        x = normal(n, WIDTH)
        squares = (x.square() - 1) / 2**0.5
        mixed = [(1 - s) ** 0.5 * x + s**0.5 * squares for s in shares]
        curve(axes, shares, [linearity(x, y) for y in mixed], f"{n} {unit}")
    truth(axes, shares, [1 - s for s in shares])
    axes.set(xlabel="variance from the squares (share)", ylabel=name, ylim=(-0.05, 1.05))


PICTURES = (
    *(anisotropy, anisotropy_uncentered, singular_value_share, isoscore, participation_ratio, effective_rank),
    *(kurtosis, mean_cosine, mean_cosine_across_windows, mean_norm, norm_of_mean, intrinsic_dimension),
    *(scale_dependence, duplicate_share, local_anisotropy, drift, linear_cka, procrustes_linearity),
    *(cka_to_start, linearity_to_start),
)
