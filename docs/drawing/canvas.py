"""What the pictures have in common: their looks, their random numbers, the quantities they compute."""

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
"""Of Okabe and Ito's palette."""
LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "D"))

STYLE: dict[str, Any] = {
    "svg.hashsalt": "dynamics",
    "svg.fonttype": "none",  # DejaVu is wide: what fits in it fits in any reader's font
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#57606a",
    "axes.grid": True,
    "grid.color": "#e7eaee",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 1.8,
    "legend.labelspacing": 0.3,
    "legend.borderpad": 0.1,
}


def quantity(name: str) -> Callable[..., Any]:
    """The function of a metric, by its name."""
    return getattr(import_module(f"dynamics.metrics.{name}"), name)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Independent N(0, 1) numbers in float64, the same on every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def curve(axes: "Axes", x: Iterable[float], y: Iterable[Any], label: str = "") -> None:
    """One measured curve, in the next colour and with the next marker."""
    colour, marker = LOOKS[sum(line.get_marker() != "None" for line in axes.lines)]
    axes.plot([float(v) for v in x], [float(v) for v in y], color=colour, marker=marker, label=label or None)


def truth(axes: "Axes", x: Iterable[float], y: Iterable[Any], label: str = "") -> None:
    """What the curve should be: dashed, above the curves."""
    x, y = [float(v) for v in x], [float(v) for v in y]
    axes.plot(x, y, color="black", linestyle=(0, (4, 2.5)), linewidth=1.2, zorder=3, label=label or None)


def draw(picture: Callable[["Axes"], None], path: Path) -> None:
    """Draw one picture, 360 x 240 pixels, into an SVG file that depends on nothing but its numbers."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.75, 2.5), layout="constrained")
        axes = figure.add_subplot()
        picture(axes)
        axes.set_axisbelow(True)
        if axes.get_legend_handles_labels()[1] and axes.get_legend() is None:
            axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def steps(start: float, stop: float, number: int) -> list[float]:
    """Evenly spaced numbers, both ends included."""
    return torch.linspace(start, stop, number, dtype=torch.float64).tolist()


def decades(start: float, stop: float, number: int) -> list[float]:
    """Numbers spaced evenly on a logarithmic axis, both ends included."""
    return torch.logspace(start, stop, number, dtype=torch.float64).tolist()


def stretched(n: int, variances: Sequence[float] | Tensor, seed: int = 0) -> Tensor:
    """n Gaussian states with these variances along the axes."""
    variances = torch.as_tensor(variances, dtype=torch.float64)
    return normal(n, len(variances), seed=seed) * variances.sqrt()


def moved(n: int, width: int, distance: float, seed: int = 0) -> Tensor:
    """n states N(0, I) plus a common bias of this norm, along the diagonal."""
    return normal(n, width, seed=seed) + distance * width**-0.5
