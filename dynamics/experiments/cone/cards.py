"""Cards of the axes: the sentences and the tokens of the vocabulary at both ends."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dynamics.experiments.cone.analysis import projections
from dynamics.experiments.cone.axis import Axis, standardised
from dynamics.experiments.cone.vectors import ModelVectors
from dynamics.loading.encoder import Encoder
from dynamics.loading.models import Loaded

COUNT = 6  # sentences and tokens at either end of an axis that are kept


def cards(
    model: ModelVectors, corpora: Mapping[str, Sequence[str]], loaded: Loaded, code: Encoder | None
) -> dict[str, Any]:
    """Return the card of the axis of every corpus: `most`, `least`, `most_tokens`, `least_tokens`."""
    return {
        name: {
            end: [[corpora[name][i], value] for i, value in values]
            for end, values in _ends(projections(model.vectors[name], axis)).items()
        }
        | _vocabulary(axis, loaded, code)
        for name, axis in model.axes.items()
    }


def _vocabulary(axis: Axis, loaded: Loaded, code: Encoder | None) -> dict[str, Any]:
    network: Any = loaded.model
    try:
        table = network.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        table = None
    weight = getattr(table, "weight", None)
    if code is None or weight is None or weight.ndim != 2:
        return {"vocabulary": "the model has no table of token embeddings"}
    if weight.shape[1] != len(axis.direction):
        return {"vocabulary": f"token embeddings are {weight.shape[1]} wide, sentence vectors {len(axis.direction)}"}
    along = standardised((weight.detach().double().cpu() @ torch.from_numpy(axis.direction)).numpy())
    return {f"{end}_tokens": [[code.token(i), value] for i, value in values] for end, values in _ends(along).items()}


def _ends(values: np.ndarray) -> dict[str, list[tuple[int, float]]]:
    """Return places and values at both ends, outermost first; no place is in both."""
    order = np.argsort(values, kind="stable")
    count = min(COUNT, len(values) // 2) if np.isfinite(values).all() else 0
    ends = {"most": order[::-1][:count], "least": order[:count]}
    return {end: [(int(i), round(float(values[i]), 3)) for i in places] for end, places in ends.items()}
