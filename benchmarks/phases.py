"""How often change points are found where there are some, and where there are none: `calibration.py --part phases`.

Curves are drawn with change points that are known, or with none, at the steps 0, 1, 2, 4, ... Each seed has an offset
of its own and noise whose size is told in shares of the curve's range.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np

from dynamics import changepoints

SEEDS = (3, 5, 10)
DESIGNS = [(seeds, steps) for steps in (12, 20) for seeds in SEEDS]
Noise = Callable[[np.random.Generator, int, int], np.ndarray]  # seeds and steps: an array of them


def autoregressive(rng: np.random.Generator, seeds: int, steps: int, rho: float = 0.9) -> np.ndarray:
    noise = rng.standard_normal((seeds, steps))
    for i in range(1, steps):
        noise[:, i] = rho * noise[:, i - 1] + np.sqrt(1 - rho**2) * noise[:, i]
    return noise


def walk(rng: np.random.Generator, seeds: int, steps: int) -> np.ndarray:
    return rng.standard_normal((seeds, steps)).cumsum(axis=1) / np.sqrt(steps)


def slopes(rng: np.random.Generator, seeds: int, steps: int) -> np.ndarray:
    return rng.standard_normal((seeds, 1)) * np.linspace(-2, 2, steps) + rng.standard_normal((seeds, steps))


def bends(rng: np.random.Generator, seeds: int, steps: int) -> np.ndarray:
    return rng.standard_normal((seeds, 1)) * np.linspace(-1, 1, steps) ** 2 + 0.02 * rng.standard_normal((seeds, steps))


def growing(rng: np.random.Generator, seeds: int, steps: int) -> np.ndarray:
    return rng.standard_normal((seeds, steps)) * np.exp(np.linspace(-3, 0, steps))


NOISES: dict[str, tuple[str, Noise]] = {
    "white": ("independent at every step", lambda rng, seeds, steps: rng.standard_normal((seeds, steps))),
    "t3": ("the same, with Student's t distribution of 3 degrees", lambda rng, s, t: rng.standard_t(3, (s, t))),
    "growing": ("independent, 20 times as large at the end as at the start", growing),
    "autoregressive": ("AR(1), 0.9 from one measured step to the next", autoregressive),
    "walk": ("a random walk", walk),
    "growing walk": ("a random walk whose steps grow", lambda rng, s, t: growing(rng, s, t).cumsum(axis=1)),
    "slopes": ("a slope of each seed's own, and independent noise", slopes),
    "bends": ("a parabola of each seed's own: the worst case, as all noise looks like a bend", bends),
}
SHAPES = {  # corners: place along the steps, and value
    "level": ((0, 0), (1, 0)),
    "rises, falls": ((0, 0), (0.47, 1), (1, 0)),
    "level, rises": ((0, 0), (0.52, 0), (1, 1)),
    "falls, rises, falls": ((0, 1), (0.36, 0), (0.7, 1), (1, 0.2)),
    "level, rises, level, falls": ((0, 0), (0.25, 0), (0.5, 1), (0.75, 1), (1, 0.3)),
}
PAIRS = [(kind, size) for kind in ("white", "autoregressive") for size in (0.2, 0.1, 0.05, 0.02)]  # shares of the range


class Case(NamedTuple):
    """What is drawn."""

    shape: str
    noise: str
    size: float
    seeds: int
    steps: int

    @property
    def name(self) -> str:
        return " | ".join(map(str, self))


def found(case: Case, number: int) -> tuple[bool, bool, int, int]:
    """Return whether all change points were found within one step, whether more were, and how many intervals hold."""
    rng = np.random.default_rng((sum(map(ord, case.name)), number))
    corners = SHAPES[case.shape]
    curve = np.interp(np.linspace(0, 1, case.steps), *zip(*corners, strict=True))
    planted = [place * (case.steps - 1) - 1 for place, _ in corners[1:-1]]  # log2 of the step
    noise = case.size * NOISES[case.noise][1](rng, case.seeds, case.steps)
    offsets = rng.standard_normal((case.seeds, 1))
    phases = changepoints.phases([0, *(2**i for i in range(case.steps - 1))], curve + noise + offsets)
    points = phases.points
    near = [any(abs(np.log2(max(p.step, 0.5)) - x) <= 1 for p in points) for x in planted]
    pairs = list(zip(points, planted, strict=True)) if len(points) == len(planted) else []
    held = sum(p.low <= 2**x + 0.5 and 2**x - 0.5 <= p.high for p, x in pairs)  # bounds are whole steps
    return all(near) and bool(planted), len(points) > len(planted), held, len(pairs)


def cases() -> list[Case]:
    """Return level curves under all kinds of noise, and change points under two of them."""
    level = [Case("level", noise, 0.1, s, t) for noise in NOISES for s, t in DESIGNS]
    shapes = [shape for shape in SHAPES if shape != "level"]
    return level + [Case(shape, *pair, seeds, 12) for shape in shapes for pair in PAIRS for seeds in SEEDS]


def cell(case: Case, draws: int) -> dict[str, float]:
    """Return the rates of a case."""
    hits, more, held, given = zip(*(found(case, number) for number in range(draws)), strict=True)
    intervals = sum(held) / sum(given) if sum(given) else None
    return {"draws": draws, "found": float(np.mean(hits)), "more": float(np.mean(more)), "intervals": intervals}


def cells(draws: int, jobs: int) -> dict[str, dict]:
    """Return the rates of all cases, by name."""
    chosen = cases()
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        return dict(zip((c.name for c in chosen), pool.map(cell, chosen, [draws] * len(chosen)), strict=True))


def tables(cells: dict[str, dict]) -> str:
    """Return the rates as Markdown."""
    draws = max(one["draws"] for one in cells.values())

    def table(head: list[str], rows: list[list[str]]) -> str:
        return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)) + "\n"

    def share(value: float | None) -> str:
        return (
            "-" if value is None else f"{100 * value:.0f}" if value in (0, 1) or value > 0.1 else f"{100 * value:.1f}"
        )

    columns = [f"{seeds} seeds, {steps} steps" for seeds, steps in DESIGNS]
    alarms = [
        [
            f"{kind}: {why}",
            *(share(cells[Case("level", kind, 0.1, *design).name]["more"]) for design in DESIGNS),
        ]
        for kind, (why, _) in NOISES.items()
    ]
    sizes = [f"{kind}, {size:g}" for kind, size in PAIRS]
    power = [
        [f"{shape}, {s} seeds", *(_power(cells[Case(shape, kind, size, s, 12).name], share) for kind, size in PAIRS)]
        for shape in SHAPES
        if shape != "level"
        for s in SEEDS
    ]
    given = [one for one in cells.values() if one["intervals"] is not None and one["found"] > 0.5]
    intervals = np.mean([one["intervals"] for one in given])
    extra = max(one["more"] for name, one in cells.items() if not name.startswith("level |"))
    return (
        f"## Change points\n\n{draws} draws a cell: curves of seeds at the steps 0, 1, 2, 4, ... False alarms, in per "
        "cent: a level curve, whose variation is noise alone, that is given change points.\n\n"
        f"{table(['noise', *columns], alarms)}\n"
        "Planted change points at 12 steps, in per cent: all are found within one measured step (bold: below 95). By "
        f"the kind and size of the noise (share of the curve's range).\n\n{table(['', *sizes], power)}\n"
        f"More are found than were planted in {share(extra)} % at most. The 95 % intervals hold the planted step in "
        f"{share(float(intervals))} % (mean over the cells in which most are found).\n"
    )


def _power(one: dict, share: Callable[[float], str]) -> str:
    return f"**{share(one['found'])}**" if one["found"] < 0.95 else share(one["found"])
