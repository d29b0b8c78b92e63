"""Models against one another: their axes, their vectors, axes along training, and transforms fitted elsewhere."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, product

import torch

from dynamics.experiments.cone import axis as axes
from dynamics.experiments.cone import resampling
from dynamics.experiments.cone.analysis import axis_cosine, measured
from dynamics.experiments.cone.resampling import Interval, estimate, interval
from dynamics.experiments.cone.sentences import MAIN, PAIRS, label
from dynamics.experiments.cone.similarity import Scored
from dynamics.experiments.cone.transforms import TRANSFORMS
from dynamics.experiments.cone.vectors import ModelVectors
from dynamics.metrics.streaming import Pair
from dynamics.record import Row


def agreement(models: Sequence[ModelVectors]) -> Iterator[Row]:
    """Yield the cosine of the axes of every two models of equal width, and linear CKA of every two."""
    for other, model in combinations(models, 2):
        n, against = len(model.vectors[MAIN]), other.subject.name
        if model.width == other.width:
            yield model.row("axis_cosine", axis_cosine(model, MAIN, other, MAIN), n, against=against)
        x, y = (torch.from_numpy(each.vectors[MAIN])[:, None] for each in (model, other))
        cka = measured("linear_cka", Pair(x, y, torch.arange(n)))
        yield model.row("linear_cka", Interval(cka.value), n, against=against)


def turning(models: Sequence[ModelVectors]) -> Iterator[Row]:
    """Yield, along each series, the cosine of the axis at every depth with that of the first and the last step."""
    series: dict[str, list[ModelVectors]] = defaultdict(list)
    for model in sorted(models, key=lambda model: model.subject.step):
        series[model.subject.series].append(model)
    series.pop("", None)
    for members in series.values():
        for model in members if len(members) > 1 else ():
            for metric, end in (("axis_cosine_first", members[0]), ("axis_cosine_last", members[-1])):
                for depth, direction in model.turning.items():
                    if depth == model.final:
                        cosine = axis_cosine(model, MAIN, end, MAIN)
                    else:
                        cosine = Interval(float(axes.cosine(direction, end.turning[depth])))
                    yield model.row(metric, cosine, len(model.vectors[MAIN]), depth)


def _donors(models: Sequence[ModelVectors], taker: ModelVectors) -> Iterator[ModelVectors]:
    """Yield the models of the same width whose fits a model takes: of a series only the last step."""
    last = {model.subject.series: model.subject.step for model in sorted(models, key=lambda m: m.subject.step)}
    for model in models:
        is_last = not model.subject.series or model.subject.step == last[model.subject.series]
        if model is not taker and model.width == taker.width and is_last:
            yield model


def transformed(
    model: ModelVectors, models: Sequence[ModelVectors], scored: Scored | None, components: int | None, seed: int
) -> Iterator[Row]:
    """Yield mean cosine and agreement with scores after each transform, fitted here or on the model's donors."""
    others = {f"model:{other.subject.name}": other.vectors[MAIN] for other in _donors(models, model)}
    for name, x in model.vectors.items():
        weights = resampling.weights_with_sample(len(x), seed)
        pairs = scored if name == PAIRS else None
        if pairs is not None:
            yield model.row("mean_cosine", estimate(resampling.mean_cosine(x, weights)), len(x), corpus=PAIRS)
            before, before_drawn = pairs.of_vectors(x)
        fits = {"own": x} | {f"corpus:{source}": model.vectors[source] for source in model.axes if source != name}
        fits |= others if name in (MAIN, PAIRS) else {}
        for (kind, fit), (source, y) in product(TRANSFORMS.items(), fits.items()):
            settings = {"transform": kind, "fitted": source}
            moved = fit(y, components)(x)
            cosine = estimate(resampling.mean_cosine(moved, weights))
            yield model.row("mean_cosine", cosine, len(x), corpus=label(name), **settings)
            if pairs is not None:
                after, drawn = pairs.of_vectors(moved)
                change = interval(after.value - before.value, drawn - before_drawn)
                yield model.row("spearman", after, pairs.n, **settings)
                yield model.row("spearman_change", change, pairs.n, **settings)
