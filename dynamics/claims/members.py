"""One model in a record: its quantities over steps and layers, and what is known of it. No torch here."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from dynamics.claims.statistics import HALF_WIDTH, Measured, mean_of

Population = Literal["seeds", "models"]
Quantity = tuple[str, str]  # site and metric
Summary = Callable[[Sequence[Measured]], Measured]  # of the values at the layers 1..L

DECODER, ENCODER, MASKED, CONVOLUTIONAL = "decoder", "encoder", "causal mlm", "convolutional"
TRANSFORMERS = (DECODER, ENCODER, MASKED, "")  # what is not known to be convolutional
# Families whose models say what they are by their names alone: for records without a `run.json`.
FAMILIES = {
    MASKED: r"causal[-_ ]?mlm|masked",
    CONVOLUTIONAL: r"cnn|conv|resnet|efficientnet|\bvan\b",
    ENCODER: r"encoder|bidirectional|bert|electra|\bvit\b|deit|beit|wav2vec|hubert|canine|minilm|mpnet",
    DECODER: r"decoder|causal|gpt|opt|llama|pythia|falcon|bloom|mistral|qwen|gemma|olmo",
}


@dataclass(frozen=True)
class Grid:
    """A quantity by step and layer: `values` and their standard `errors` have the shape (steps, layers)."""

    steps: tuple[int, ...]
    layers: tuple[int, ...]
    values: np.ndarray
    errors: np.ndarray


class Repetition(NamedTuple):
    """What runs share that differ in a regulariser alone."""

    design: str
    kind: str
    unit: str


@dataclass(frozen=True)
class Member:
    """A model that was followed along its training, or measured once.

    `unit` is what repeats independently: the seed of a training run, the model of a scan. `design` is what its run was
    but its seed, mask and objective; `settings` are those of its run.
    """

    name: str
    unit: str
    population: Population
    kind: str  # `decoder`, `encoder`, `causal mlm`, `convolutional`; empty where it is not known
    design: str
    rows: pd.DataFrame = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    modality: str = "text"
    control: str = ""  # `untrained` or `shuffled`: what it is a control of has the same name
    regularizer: tuple[str, float] = ("", 0.0)  # class and weight
    is_tuned: bool = False  # whether its training went on from a pretrained model

    @property
    def repetition(self) -> Repetition:
        """Design, kind and unit."""
        return Repetition(self.design, self.kind, self.unit)

    @cached_property
    def _quantities(self) -> dict[Quantity, pd.DataFrame]:
        return {(str(site), str(name)): rows for (site, name), rows in self.rows.groupby(["site", "metric"])}

    @cached_property
    def _grids(self) -> dict[Quantity, Grid | None]:
        return {}

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The steps at which its geometry was measured."""
        return tuple(sorted(self.rows.loc[self.rows["layer"] >= 0, "step"].unique().tolist()))

    def grid(self, site: str, metric: str) -> Grid | None:
        """Return a quantity of layers (the mean over heads), None where it has none."""
        key = site, metric
        if key not in self._grids:
            rows = self._quantities.get(key)
            self._grids[key] = None if rows is None else _grid(rows)
        return self._grids[key]

    def heads(self, site: str, metric: str, step: int) -> "pd.Series[float]":
        """Return a quantity at a step by layer and head; of models with one head, the layer's."""
        rows = self._quantities.get((site, metric), self.rows.iloc[:0])
        rows = rows[(rows["step"] == step) & (rows["layer"] > 0)]
        by_head = rows[rows["head"] >= 0]
        chosen = by_head if len(by_head) else rows
        return chosen.set_index(["layer", "head"])["value"].sort_index()

    def profile(self, site: str, metric: str, step: int) -> list[Measured] | None:
        """Return a quantity at the layers 1..L (of one layer or none: at it) at a step; None unless all are finite."""
        grid = self.grid(site, metric)
        if grid is None or step not in grid.steps:
            return None
        at = grid.steps.index(step)
        chosen = [i for i, layer in enumerate(grid.layers) if layer > 0] or [*range(len(grid.layers))]
        values, errors = grid.values[at, chosen], grid.errors[at, chosen]
        if not np.isfinite(values).all():
            return None
        return [Measured(float(v), float(e)) for v, e in zip(values, np.nan_to_num(errors), strict=True)]

    def at(self, site: str, metric: str, step: int, summary: Summary = mean_of) -> Measured | None:
        """Return a summary over the layers 1..L at a step; None where there is none."""
        profile = self.profile(site, metric, step)
        if profile is None:
            return None
        value = summary(profile)
        return value if np.isfinite(value.value) else None


def _grid(rows: pd.DataFrame) -> Grid:
    """Return rows as a grid: head -1 where it is recorded, else the mean over heads; NaN where one of them has none."""
    whole = rows["head"].to_numpy() == -1
    rows = rows[whole] if whole.any() else rows
    steps, at = np.unique(rows["step"].to_numpy(), return_inverse=True)
    layers, place = np.unique(rows["layer"].to_numpy(), return_inverse=True)
    cells, shape = at * len(layers) + place, (len(steps), len(layers))
    errors = (rows["high"].to_numpy() - rows["low"].to_numpy()) / (2 * HALF_WIDTH)
    with np.errstate(invalid="ignore"):  # cells without a row
        counts = np.bincount(cells, minlength=len(steps) * len(layers))
        means = [np.bincount(cells, x, len(counts)) / counts for x in (rows["value"].to_numpy(), errors)]
    return Grid(tuple(steps.tolist()), tuple(layers.tolist()), *(mean.reshape(shape) for mean in means))


def kind_of(objective: str, is_causal: bool | None, names: str = "") -> str:
    """Return what a model is, by its objective and mask, else by the names of its run and model; empty: unknown.

    >>> kind_of("mlm", True), kind_of("", False), kind_of("", None, "gpt2@main"), kind_of("", None, "mine")
    ('causal mlm', 'encoder', 'decoder', '')
    """
    if is_causal is not None:
        return ENCODER if not is_causal else MASKED if objective == "mlm" else DECODER
    if objective:
        return DECODER if objective == "clm" else ENCODER
    return next((kind for kind, words in FAMILIES.items() if re.search(words, names.lower())), "")
