"""Quantities over depth on a dashboard: extremes for its table, pictures of layers against steps. No torch here."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dynamics.loggers.names import OF_LAYER

PICTURED = ("anisotropy", "intrinsic_dimension", "qk_alignment", "normalized_entropy")
LATEST = 6  # profiles in a picture
# Dark to light in perceived brightness, whatever the eye tells apart: viridis of matplotlib at ten places.
COLOURS = np.array(
    [
        *([68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142]),
        *([31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37]),
    ]
)
NOWHERE = (224, 224, 224)  # a cell without a value
LIGHT, DARK = np.array([198, 219, 239]), np.array([8, 48, 107])  # the oldest and the newest profile
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 320, 200, 52, 30, 40, 84


class Profiles:
    """Quantities over layers and steps, of values under the names of a dashboard.

    Layer 0, the embeddings, is left out: what it shows is the text, and it would take the scale of all others.
    """

    def __init__(self, pictured: Sequence[str] = PICTURED) -> None:
        self._pictured = pictured
        self._history: dict[str, dict[int, dict[int, float]]] = {name: {} for name in pictured}
        self._summary: dict[str, float] = {}

    def add(self, step: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Take the values of a step; returns what is new in `summary`."""
        profiles: dict[str, dict[int, float]] = {}
        before = dict(self._summary)
        for key, value in values.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                continue
            if (match := OF_LAYER.fullmatch(key)) is not None:
                if int(match[2]) > 0:
                    profiles.setdefault(match[1], {})[int(match[2])] = float(value)
            elif key.startswith(("train/", "validation/")):
                self._bound(f"{key}_", value, {"step": step})
        for name, profile in profiles.items():
            if name in self._history:
                self._history[name][step] = profile
            if len(profile) > 1:
                self._summary[f"{name}/peak_layer"] = max(profile, key=lambda layer: profile[layer])
            for layer, value in profile.items():
                self._bound(f"{name}/", value, {"step": step, "layer": layer})
        return {key: value for key, value in self._summary.items() if before.get(key) != value}

    def _bound(self, prefix: str, value: float, place: dict[str, int]) -> None:
        for bound, sign in (("min", -1), ("max", 1)):
            key = prefix + bound
            if key not in self._summary or sign * value > sign * self._summary[key]:
                self._summary |= {key: value, **{f"{key}_{name}": number for name, number in place.items()}}

    def pictures(self, step: int) -> Iterator[tuple[str, Image.Image]]:
        """Yield a picture of every pictured quantity that was measured at `step`, under its name."""
        for name, history in self._history.items():
            if step in history:
                yield name, draw(name, {past: history[past] for past in sorted(history)})


def draw(name: str, history: Mapping[int, Mapping[int, float]]) -> Image.Image:
    """Draw layers against steps as colours, and beside it the profiles of the last steps, light to dark."""
    steps, layers = list(history), sorted({layer for profile in history.values() for layer in profile})
    grid = np.array([[history[step].get(layer, np.nan) for step in steps] for layer in layers])
    low, high = float(np.nanmin(grid)), float(np.nanmax(grid))
    image = Image.new("RGB", (2 * (LEFT + WIDTH) + GAP, TOP + HEIGHT + BOTTOM), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    _heatmap(image, grid, low, high)
    right = LEFT + WIDTH + GAP + LEFT - 20
    pen.text((LEFT, 8), f"{name} (layer x step)", "black", font)
    for index in _shown(len(steps), 5):
        _centred(pen, font, str(steps[index]), LEFT + (index + 0.5) * WIDTH / len(steps), TOP + HEIGHT + 10)
    for index in _shown(len(layers), 9):
        _centred(pen, font, str(layers[index]), LEFT - 14, TOP + HEIGHT - (index + 0.5) * HEIGHT / len(layers))
    _centred(pen, font, "step", LEFT + WIDTH / 2, TOP + HEIGHT + 28)
    _scale(image, pen, font, low, high)
    shown = f"steps {steps[-LATEST:][0]} to {steps[-1]}" if len(steps) > 1 else f"step {steps[0]}"
    pen.text((right, 8), f"{name}, {shown}, light to dark", "black", font)
    _draw_profiles(pen, font, right, layers, grid[:, -LATEST:], low, high)
    return image


def _heatmap(image: Image.Image, grid: np.ndarray, low: float, high: float) -> None:
    """Paste the grid, the first layer at the bottom."""
    places = (grid - low) / ((high - low) or 1) * (len(COLOURS) - 1)
    known = np.nan_to_num(places)
    colours = np.stack([np.interp(known, np.arange(len(COLOURS)), channel) for channel in COLOURS.T], axis=-1)
    colours[np.isnan(grid)] = NOWHERE
    cells = Image.fromarray(colours[::-1].round().astype(np.uint8))
    image.paste(cells.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST), (LEFT, TOP))


def _scale(image: Image.Image, pen: ImageDraw.ImageDraw, font: Any, low: float, high: float) -> None:
    """Draw which value has which colour, to the right of the heatmap."""
    ramp = np.linspace(low, high, HEIGHT)[:, None]
    left = LEFT + WIDTH + 8
    bar = Image.new("RGB", (LEFT + WIDTH, TOP + HEIGHT))
    _heatmap(bar, ramp, low, high)
    image.paste(bar.crop((LEFT, TOP, LEFT + 12, TOP + HEIGHT)), (left, TOP))
    for value, height in ((high, TOP + 6), (low, TOP + HEIGHT - 6)):
        pen.text((left + 16, height - 7), f"{value:.3g}", "black", font)


def _draw_profiles(
    pen: ImageDraw.ImageDraw, font: Any, left: int, layers: list[int], columns: np.ndarray, low: float, high: float
) -> None:
    """Draw a line for each column, value against layer, the newest last and darkest."""
    pen.rectangle((left, TOP, left + WIDTH, TOP + HEIGHT), outline="grey")
    across = [left + 10 + (WIDTH - 20) * index / max(len(layers) - 1, 1) for index in range(len(layers))]
    for number, column in enumerate(columns.T, start=1):
        share = number / columns.shape[1]
        colour = tuple((LIGHT + (DARK - LIGHT) * share).astype(int).tolist())
        heights = TOP + HEIGHT - 10 - (column - low) / ((high - low) or 1) * (HEIGHT - 20)
        points = [(x, y) for x, y in zip(across, heights.tolist(), strict=True) if math.isfinite(y)]
        pen.line(points, colour, 2)
        for x, y in points:
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    for index in _shown(len(layers), 9):
        _centred(pen, font, str(layers[index]), across[index], TOP + HEIGHT + 10)
    _centred(pen, font, "layer", left + WIDTH / 2, TOP + HEIGHT + 28)
    for value, height in ((high, TOP + 10), (low, TOP + HEIGHT - 10)):
        pen.text((left - 4, height), f"{value:.3g}", "black", font, anchor="rm")


def _shown(number: int, most: int) -> range:
    """Return which of `number` labels are shown: at most `most`, at equal distances.

    >>> list(_shown(3, 5)), list(_shown(13, 5))
    ([0, 1, 2], [0, 3, 6, 9, 12])
    """
    return range(0, number, -(-number // most))


def _centred(pen: ImageDraw.ImageDraw, font: Any, text: str, x: float, y: float) -> None:
    pen.text((x, y), text, "black", font, anchor="mm")
