"""Vectors of measured models, beside the record: a run that goes on compares new models with them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.experiments.cone.analysis import Measured, measured
from dynamics.experiments.cone.collect import Collected, Depth
from dynamics.files import write_atomically
from dynamics.loading.subjects import Subject


def path(folder: Path, subject: str) -> Path:
    """Where the vectors of a subject lie in a run's folder."""
    return folder / "vectors" / f"{hashlib.sha1(subject.encode()).hexdigest()[:10]}.npz"


def keep(folder: Path, model: Measured, collected: Mapping[str, Collected]) -> None:
    """Write the vectors of the final depth, as they were pooled, and the axis at every depth."""
    arrays = {f"vectors/{name}": mine.vectors[model.final] for name, mine in collected.items()}
    arrays |= {f"axis/{depth.layer}/{depth.state}": values for depth, values in model.turning.items()}
    write_atomically(path(folder, model.subject.name), lambda file: np.savez(file, **arrays))


def again(folder: Path, subject: str, facts: Mapping[str, Any], seed: int) -> Measured:
    """A model as it was measured, from its vectors and its facts in `run.json`."""
    with np.load(path(folder, subject)) as arrays:
        found: dict[str, dict[str, np.ndarray]] = {"vectors": {}, "axis": {}}
        for key in arrays.files:
            kind, _, name = key.partition("/")
            found[kind][name] = arrays[key]
    turning = {}
    for place, values in found["axis"].items():
        layer, _, state = place.partition("/")
        turning[Depth(int(layer), state)] = values
    told = {name: facts[name] for name in ("model", "revision", "step", "kind", "series")}
    key = (folder.name, subject, int(facts["step"]))
    final = Depth(*facts["final"])
    return measured(
        Subject(**told, source=""), key, final, found["vectors"], turning, facts["setup"]["normalize"], seed
    )
