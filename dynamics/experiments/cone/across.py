"""Models against one another: their axes, their vectors, axes along training, and transforms fitted elsewhere."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch

from dynamics import metrics as registry
from dynamics.experiments.cone import axis as axes
from dynamics.experiments.cone import resampling
from dynamics.experiments.cone.analysis import axis_cosine
from dynamics.experiments.cone.resampling import Interval, estimate, interval, point
from dynamics.experiments.cone.sentences import MAIN, PAIRS, label
from dynamics.experiments.cone.similarity import Scored
from dynamics.experiments.cone.transforms import TRANSFORMS
from dynamics.experiments.cone.vectors import ModelVectors
from dynamics.metrics.streaming.base import Pair
from dynamics.record import Row


def agreement(models: Sequence[ModelVectors]) -> Iterator[Row]:
    """Yield the cosine of the axes of every two models of equal width, and linear CKA of every two."""
    for i, model in enumerate(models):
        for other in models[:i]:
            n, against = len(model.vectors[MAIN]), other.subject.name
            if model.width == other.width:
                yield model.row("axis_cosine", axis_cosine(model, MAIN, other, MAIN), n, against=against)
            yield model.row("linear_cka", _cka(model.vectors[MAIN], other.vectors[MAIN]), n, against=against)


def _cka(x: np.ndarray, y: np.ndarray) -> Interval:
    metric = registry.resolve("linear_cka")
    metric.update(Pair(torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None], torch.arange(len(x))))
    return point(float(metric.compute().value[-1]))


def turning(models: Sequence[ModelVectors]) -> Iterator[Row]:
    """Yield, along each series, the cosine of the axis at every depth with that of the first and the last step."""
    series: dict[str, list[ModelVectors]] = {}
    for model in sorted(models, key=lambda model: model.subject.step):
        if model.subject.series:
            series.setdefault(model.subject.series, []).append(model)
    for members in series.values():
        for model in members if len(members) > 1 else ():
            for metric, end in (("axis_cosine_first", members[0]), ("axis_cosine_last", members[-1])):
                for depth, direction in model.turning.items():
                    if depth == model.final:
                        cosine = axis_cosine(model, MAIN, end, MAIN)
                    else:
                        cosine = point(float(axes.cosine(direction, end.turning[depth])))
                    yield model.row(metric, cosine, len(model.vectors[MAIN]), depth)


def donors(models: Sequence[ModelVectors], taker: ModelVectors) -> list[ModelVectors]:
    """Return the models of the same width whose fits a model takes: of a series only the last step."""
    last = {model.subject.series: model.subject.step for model in sorted(models, key=lambda m: m.subject.step)}
    return [
        model
        for model in models
        if model is not taker
        and model.width == taker.width
        and (not model.subject.series or model.subject.step == last[model.subject.series])
    ]


def transformed(
    model: ModelVectors, models: Sequence[ModelVectors], scored: Scored | None, components: int | None, seed: int
) -> Iterator[Row]:
    """Yield mean cosine and agreement with scores after each transform, fitted here or elsewhere.

    Args:
        models: of any width, `model` included; it also takes the fits of its `donors`.
        components: that all-but-the-top removes.
    """
    corpora = {f"corpus:{name}": x for name, x in model.vectors.items() if name != PAIRS}
    others = {f"model:{other.subject.name}": other.vectors[MAIN] for other in donors(models, model)}
    for name, x in model.vectors.items():
        weights = resampling.weights_with_sample(len(x), seed)
        before = None
        if name == PAIRS:
            yield model.row("mean_cosine", estimate(resampling.mean_cosine(x, weights)), len(x), corpus=PAIRS)
            before = scored.of_vectors(x) if scored is not None else None
        fits = {"own": x, **{source: y for source, y in corpora.items() if source != f"corpus:{name}"}}
        fits |= others if name in (MAIN, PAIRS) else {}
        for (kind, fit), (source, y) in product(TRANSFORMS.items(), fits.items()):
            settings = {"transform": kind, "fitted": source}
            moved = fit(y, components).apply(x)
            cosine = estimate(resampling.mean_cosine(moved, weights))
            yield model.row("mean_cosine", cosine, len(x), corpus=label(name), **settings)
            if scored is not None and before is not None:
                after, drawn = scored.of_vectors(moved)
                change = interval(after.value - before[0].value, drawn - before[1])
                yield model.row("spearman", after, scored.n, **settings)
                yield model.row("spearman_change", change, scored.n, **settings)
