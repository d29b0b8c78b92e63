"""The sentence vectors of a model and their axes, kept in a file from which a resumed run reads them.

n sentences, d width, R resamples.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.experiments.cone import axis as axes
from dynamics.experiments.cone import resampling
from dynamics.experiments.cone.axis import Axis
from dynamics.experiments.cone.collect import Collected, Depth, Key
from dynamics.experiments.cone.resampling import Interval
from dynamics.experiments.cone.sentences import MAIN, PAIRS
from dynamics.files import write_atomically
from dynamics.loading.subjects import Subject
from dynamics.readers import refuse_damaged
from dynamics.record import Row
from dynamics.run_info import Facts


@dataclass
class ModelVectors:
    """A model's vectors, as other models are compared with them."""

    subject: Subject
    key: Key
    final: Depth  # that its own vectors come from
    vectors: dict[str, np.ndarray]  # (n, d) of each corpus as the model returns them, normalised if it does so
    axes: dict[str, Axis]  # of each corpus but the pairs
    drawn: dict[str, np.ndarray]  # the axis of each of these in every resample, (R, d)
    turning: dict[Depth, np.ndarray]  # the axis of the main corpus at every depth

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return int(self.vectors[MAIN].shape[1])

    def row(self, metric: str, estimate: Interval, n: int, depth: Depth | None = None, /, **settings: str) -> Row:
        """Return a row of the site `sentence`, at the final depth by default; empty settings are left out."""
        depth = depth or self.final
        run, subject, step = self.key
        return Row(run, subject, depth.where(**settings), step, "sentence", depth.layer, -1, metric, *estimate, n)


def path(folder: Path, subject: str) -> Path:
    """Return the file for the vectors of a subject in a run's folder."""
    return folder / "vectors" / f"{hashlib.sha1(subject.encode()).hexdigest()[:10]}.npz"


def save(folder: Path, subject: Subject, collected: Mapping[str, Collected]) -> None:
    """Write the vectors of a model at its final depth, as they were pooled, and its axis at the other depths."""
    final = collected[MAIN].final
    arrays: dict[str, Any] = {f"vectors/{name}": corpus.vectors[final] for name, corpus in collected.items()}
    for depth, x in collected[MAIN].vectors.items():
        if depth != final:
            arrays[f"axis/{depth.layer}/{depth.state}"] = axes.axis(x).direction
    write_atomically(path(folder, subject.name), lambda file: np.savez(file, **arrays))


def load(folder: Path, subject: Subject, facts: Facts, seed: int) -> ModelVectors:
    """Return the vectors and axes of a model from its file and its facts; `seed` is that of the resamples."""
    vectors, turning = {}, {}
    final, normalize = Depth(*facts["final"]), facts["setup"]["normalize"]
    file = path(folder, subject.name)
    refuse_damaged(file, f"restore it from a copy, or give another --run: {subject.name} is compared by its vectors")
    with np.load(file) as arrays:
        for key, x in arrays.items():
            kind, _, name = key.partition("/")
            if kind == "vectors":
                vectors[name] = resampling.units(x) if normalize else x.astype(float)
            else:
                layer, _, state = name.partition("/")
                turning[Depth(int(layer), state)] = x
    by_corpus = {name: axes.axis(x) for name, x in vectors.items() if name != PAIRS}
    drawn = {}
    for name, axis in by_corpus.items():
        weights = resampling.weights(len(vectors[name]), seed, axes.DRAWS)
        drawn[name] = axes.resampled(vectors[name], weights) if np.isfinite(axis.share) else weights[:, :0]
    turning[final] = by_corpus[MAIN].direction
    return ModelVectors(subject, (folder.name, subject.name, subject.step), final, vectors, by_corpus, drawn, turning)
