"""Rows of one model: sentences against tokens, the axes of its corpora, and similarity over depth."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from dynamics import metrics as registry
from dynamics.experiments.cone import axis as axes
from dynamics.experiments.cone import resampling, similarity
from dynamics.experiments.cone.axis import Axis
from dynamics.experiments.cone.collect import Collected
from dynamics.experiments.cone.resampling import Interval, estimate, interval, point
from dynamics.experiments.cone.sentences import MAIN, PAIRS, label
from dynamics.experiments.cone.similarity import Scored
from dynamics.experiments.cone.vectors import ModelVectors
from dynamics.metrics.streaming.base import States
from dynamics.record import Array, Row

PRESERVED = 200  # resamples for the intervals of similarity over depth


def rows(model: ModelVectors, collected: Mapping[str, Collected], scored: Scored | None, seed: int) -> Iterator[Row]:
    """Yield all rows of a model beside those of the metrics."""
    yield from _gaps(model, collected, seed)
    yield from _axes(model)
    yield from _similarities(model, collected, scored, seed)


def _gaps(model: ModelVectors, collected: Mapping[str, Collected], seed: int) -> Iterator[Row]:
    """Yield the mean cosine of sentences minus that of tokens, at every depth of every corpus but the pairs."""
    for name in model.axes:
        corpus = collected[name]
        n = len(corpus.token_counts)
        weights = resampling.weights_with_sample(n, seed)
        for depth in corpus.depths:
            sentences = resampling.mean_cosine(corpus.vectors[depth].astype(float), weights)
            sums = corpus.token_sums[depth].astype(float)
            gap = sentences - resampling.token_mean_cosine(sums, corpus.token_counts, weights)
            yield model.row("cone_gap", estimate(gap), n, depth, corpus=label(name))


def _axes(model: ModelVectors) -> Iterator[Row]:
    """Yield share, stability and place of the axis of every corpus, and the cosines between the axes."""
    names = list(model.axes)
    for i, (name, axis) in enumerate(model.axes.items()):
        drawn, n, corpus = model.drawn[name], len(model.vectors[name]), label(name)
        yield model.row("axis_share", _share(model.vectors[name]), n, corpus=corpus)
        turned = axes.cosine(drawn, axis.direction) if drawn.size else np.array([np.nan])
        yield model.row("axis_stability", interval(float(turned.mean()), turned), n, corpus=corpus)
        for metric, other in (("axis_to_mean", axis.mean), ("axis_to_uncentered", axis.uncentered)):
            yield model.row(metric, point(float(axes.cosine(axis.direction, other))), n, corpus=corpus)
        for against in names[:i]:
            cosines = axis_cosine(model, name, model, against)
            yield model.row("axis_cosine", cosines, n, corpus=corpus, against_corpus=against)


def axis_cosine(model: ModelVectors, corpus: str, other: ModelVectors, against: str) -> Interval:
    """Return the cosine of the axes of two corpora, of one model or of two."""
    directions = model.axes[corpus].direction, other.axes[against].direction
    return axes.agreement(*directions, model.drawn[corpus], other.drawn[against])


def _share(x: np.ndarray) -> Interval:
    """Return the axis' share of the variance with the interval of the metric `anisotropy`."""
    metric = registry.resolve("anisotropy")
    metric.update(States(torch.from_numpy(x)[:, None], torch.arange(len(x))))
    share = metric.compute()
    return Interval(float(share.value[-1]), float(share.low[-1]), float(share.high[-1]))


def arrays(model: ModelVectors) -> Iterator[Array]:
    """Yield axis, mean direction and uncentred axis of every corpus, and the main axis at every depth."""
    run, subject, step = model.key
    for name, axis in model.axes.items():
        where = model.final.where(corpus=label(name))
        values = {"axis": axis.direction, "mean_direction": axis.mean, "uncentered_axis": axis.uncentered}
        values["projections"] = projections(model.vectors[name], axis)
        for what, value in values.items():
            yield Array(run, subject, where, step, "sentence", model.final.layer, -1, f"axis_share/{what}", value)
    for depth, direction in model.turning.items():
        if depth != model.final:
            yield Array(run, subject, depth.where(), step, "sentence", depth.layer, -1, "axis_share/axis", direction)


def projections(x: np.ndarray, axis: Axis) -> np.ndarray:
    """Return where vectors x (n, d) lie along an axis, in standard deviations from their mean, (n,)."""
    return axes.standardised(x @ axis.direction)


def _similarities(
    model: ModelVectors, collected: Mapping[str, Collected], scored: Scored | None, seed: int
) -> Iterator[Row]:
    """Yield how well each depth keeps the final similarities, and how well it agrees with human scores."""
    main = collected[MAIN]
    n = len(main.token_counts)
    layers = [main.vectors[depth] for depth in main.depths]
    weights = resampling.weights(n, seed, PRESERVED)
    preserved = similarity.preservation(layers, main.vectors[model.final], weights)
    for depth, correlation in zip(main.depths, preserved, strict=True):
        yield model.row("similarity_preservation", correlation, min(n, similarity.MOST), depth)
    if scored is not None:
        for depth in main.depths:
            correlation, _ = scored.of_vectors(collected[PAIRS].vectors[depth])
            yield model.row("spearman", correlation, scored.n, depth)
