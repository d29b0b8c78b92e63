"""Models against one another: do their axes agree, do their vectors, and how does an axis turn in training."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from dynamics import metrics as registry
from dynamics.experiments.cone import axis as axes
from dynamics.experiments.cone.analysis import Measured, between
from dynamics.experiments.cone.resampling import Interval
from dynamics.experiments.cone.sentences import MAIN
from dynamics.metrics.streaming.base import Pair
from dynamics.record import Row


def agreement(models: Sequence[Measured]) -> Iterator[Row]:
    """Cosine of the axes of every two models of equal width, and linear CKA of every two."""
    for i, one in enumerate(models):
        for other in models[:i]:
            n, against = len(one.vectors[MAIN]), other.subject.name
            if one.width == other.width:
                yield one.row("axis_cosine", between(one, MAIN, other, MAIN), n, against=against)
            yield one.row("linear_cka", _cka(one.vectors[MAIN], other.vectors[MAIN]), n, against=against)


def _cka(x: np.ndarray, y: np.ndarray) -> Interval:
    metric = registry.resolve("linear_cka")
    metric.update(Pair(torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None], torch.arange(len(x))))
    return Interval(float(metric.compute().value[-1]), np.nan, np.nan)


def turning(models: Sequence[Measured]) -> Iterator[Row]:
    """Along each series: the cosine of the axis at every depth with the one at the first and at the last step."""
    series: dict[str, list[Measured]] = {}
    for model in models:
        if model.subject.series:
            series.setdefault(model.subject.series, []).append(model)
    for members in series.values():
        members.sort(key=lambda model: model.subject.step)
        for model in members if len(members) > 1 else ():
            for metric, end in (("axis_cosine_first", members[0]), ("axis_cosine_last", members[-1])):
                for depth, direction in model.turning.items():
                    if depth == model.final:
                        found = between(model, MAIN, end, MAIN)
                    else:
                        found = Interval(float(axes.cosine(direction, end.turning[depth])), np.nan, np.nan)
                    yield model.row(metric, found, len(model.vectors[MAIN]), depth)


def donors(models: Sequence[Measured], taker: Measured) -> list[Measured]:
    """Models of the same width whose fits a model is given: of a series only the last step."""
    last = {model.subject.series: model.subject.step for model in sorted(models, key=lambda m: m.subject.step)}
    return [
        model
        for model in models
        if model is not taker
        and model.width == taker.width
        and (not model.subject.series or model.subject.step == last[model.subject.series])
    ]
