"""Rows of one model (sentences against tokens, axes, similarity over depth), and the cards of its axes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dynamics import metrics as registry
from dynamics.experiments.cone import axis as axes
from dynamics.experiments.cone import resampling, similarity
from dynamics.experiments.cone.axis import Axis
from dynamics.experiments.cone.collect import Collected
from dynamics.experiments.cone.resampling import Interval, estimate, interval
from dynamics.experiments.cone.sentences import MAIN, PAIRS, label
from dynamics.experiments.cone.similarity import Scored
from dynamics.experiments.cone.vectors import ModelVectors
from dynamics.loading.encoder import Encoder
from dynamics.loading.models import Loaded
from dynamics.metrics.streaming import Pair, States
from dynamics.record import Array, Row

COUNT = 6  # sentences and tokens at either end of an axis that its card has
PRESERVED = 200  # resamples for the intervals of similarity over depth


def gaps(model: ModelVectors, collected: Mapping[str, Collected], seed: int) -> Iterator[Row]:
    """Yield the mean cosine of sentences minus that of tokens, at every depth of every corpus but the pairs."""
    for name in model.axes:
        corpus = collected[name]
        n = len(corpus.token_counts)
        weights = resampling.weights_with_sample(n, seed)
        for depth in corpus.vectors:
            sentences = resampling.mean_cosine(corpus.vectors[depth].astype(float), weights)
            sums = corpus.token_sums[depth].astype(float)
            gap = sentences - resampling.token_mean_cosine(sums, corpus.token_counts, weights)
            yield model.row("cone_gap", estimate(gap), n, depth, corpus=label(name))


def axis_rows(model: ModelVectors) -> Iterator[Row]:
    """Yield share, stability and place of the axis of every corpus, and the cosines between the axes."""
    names = list(model.axes)
    for i, (name, axis) in enumerate(model.axes.items()):
        drawn, n, corpus = model.drawn[name], len(model.vectors[name]), label(name)
        states = States(torch.from_numpy(model.vectors[name])[:, None], torch.arange(n))
        yield model.row("axis_share", measured("anisotropy", states), n, corpus=corpus)
        turned = axes.cosine(drawn, axis.direction) if drawn.size else np.array([np.nan])
        yield model.row("axis_stability", interval(float(turned.mean()), turned), n, corpus=corpus)
        for metric, other in (("axis_to_mean", axis.mean), ("axis_to_uncentered", axis.uncentered)):
            yield model.row(metric, Interval(float(axes.cosine(axis.direction, other))), n, corpus=corpus)
        for against in names[:i]:
            cosines = axis_cosine(model, name, model, against)
            yield model.row("axis_cosine", cosines, n, corpus=corpus, against_corpus=against)


def axis_cosine(model: ModelVectors, corpus: str, other: ModelVectors, against: str) -> Interval:
    """Return the cosine of the axes of two corpora, of one model or of two."""
    directions = model.axes[corpus].direction, other.axes[against].direction
    return axes.agreement(*directions, model.drawn[corpus], other.drawn[against])


def measured(metric: str, batch: States | Pair) -> Interval:
    """Return a metric of the registry on one batch."""
    meter = registry.resolve(metric)
    meter.update(batch)
    result = meter.compute()
    return Interval(*(float(values[-1]) for values in (result.value, result.low, result.high)))


def arrays(model: ModelVectors) -> Iterator[Array]:
    """Yield axis, mean direction and uncentred axis of every corpus, and the main axis at every depth."""
    run, subject, step = model.key
    for name, axis in model.axes.items():
        where = model.final.where(corpus=label(name))
        values = {"axis": axis.direction, "mean_direction": axis.mean, "uncentered_axis": axis.uncentered}
        values["projections"] = axes.standardised(model.vectors[name] @ axis.direction)
        for what, value in values.items():
            yield Array(run, subject, where, step, "sentence", model.final.layer, -1, f"axis_share/{what}", value)
    for depth, direction in model.turning.items():
        if depth != model.final:
            yield Array(run, subject, depth.where(), step, "sentence", depth.layer, -1, "axis_share/axis", direction)


def similarities(
    model: ModelVectors, collected: Mapping[str, Collected], scored: Scored | None, seed: int
) -> Iterator[Row]:
    """Yield how well each depth keeps the final similarities, and how well it agrees with human scores."""
    main = collected[MAIN]
    n = len(main.token_counts)
    weights = resampling.weights(n, seed, PRESERVED)
    preserved = similarity.preservation(list(main.vectors.values()), main.vectors[model.final], weights)
    for depth, correlation in zip(main.vectors, preserved, strict=True):
        yield model.row("similarity_preservation", correlation, min(n, similarity.MOST), depth)
    if scored is not None:
        for depth in main.vectors:
            correlation, _ = scored.of_vectors(collected[PAIRS].vectors[depth])
            yield model.row("spearman", correlation, scored.n, depth)


def cards(
    model: ModelVectors, corpora: Mapping[str, Sequence[str]], loaded: Loaded, code: Encoder | None
) -> dict[str, Any]:
    """Return the card of the axis of every corpus: `most`, `least`, `most_tokens`, `least_tokens`."""
    return {
        name: _ends(model.vectors[name] @ axis.direction, corpora[name].__getitem__) | _vocabulary(axis, loaded, code)
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
    along = weight.detach().double().cpu() @ torch.from_numpy(axis.direction)
    return _ends(along.numpy(), code.token, "_tokens")


def _ends(along: np.ndarray, name: Callable[[int], str], suffix: str = "") -> dict[str, Any]:
    """Return names and standardised values at both ends, outermost first; no place is in both."""
    values = axes.standardised(along)
    order = np.argsort(values, kind="stable")
    count = min(COUNT, len(values) // 2) if np.isfinite(values).all() else 0
    ends = {f"most{suffix}": order[::-1][:count].tolist(), f"least{suffix}": order[:count].tolist()}
    return {end: [[name(i), round(float(values[i]), 3)] for i in places] for end, places in ends.items()}
