"""What the vectors of one model show, as rows: the gap, the axes and their cards, transforms, similarity."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dynamics import metrics as registry
from dynamics.experiments.cone import axis as axes
from dynamics.experiments.cone import resampling, similarity
from dynamics.experiments.cone.axis import Axis
from dynamics.experiments.cone.collect import Collected, Depth, Key, depths
from dynamics.experiments.cone.resampling import Interval, interval
from dynamics.experiments.cone.sentences import MAIN, PAIRS, Pairs
from dynamics.experiments.cone.transforms import TRANSFORMS, Transform
from dynamics.loading.models import Loaded
from dynamics.loading.subjects import Subject
from dynamics.loading.text import Encoder
from dynamics.metrics.streaming.base import States
from dynamics.record import Array, Row

SHOWN = 6
"""Sentences and tokens at either end of an axis that are kept."""
PRESERVED = 200
"""Resamples behind the intervals of similarity across depths."""


@dataclass
class Measured:
    """What is kept of a model to compare it with others.

    Args:
        final: where its own vectors come from.
        vectors: (n, d) of each corpus as the model hands them out, normalised if it does so; `sentences` is the main
            one, `pairs` the sentences of the pairs.
        axes: of each corpus but the pairs.
        drawn: the axis of each corpus in every resample, (R, d).
        turning: the axis of the main corpus at every depth.
    """

    subject: Subject
    key: Key
    final: Depth
    vectors: dict[str, np.ndarray]
    axes: dict[str, Axis]
    drawn: dict[str, np.ndarray]
    turning: dict[Depth, np.ndarray]

    @property
    def width(self) -> int:
        return self.vectors[MAIN].shape[1]

    def row(self, metric: str, found: Interval, n: int, depth: Depth | None = None, **where: str) -> Row:
        """A row of the site `sentence`; at the final depth unless told."""
        depth = depth or self.final
        run, subject, step = self.key
        return Row(run, subject, depth.where(**where), step, "sentence", depth.layer, -1, metric, *found, n)


def normalised(x: np.ndarray, wanted: bool) -> np.ndarray:
    """Vectors in float64, of length one where that is wanted."""
    return similarity.units(x) if wanted else x.astype(float)


def measured(
    subject: Subject,
    key: Key,
    final: Depth,
    pooled: Mapping[str, np.ndarray],
    turning: Mapping[Depth, np.ndarray],
    normalize: bool,
    seed: int,
) -> Measured:
    """The vectors and axes of a model.

    Args:
        pooled: (n, d) of each corpus at the final depth.
        turning: the axis of the main corpus at the other depths.
        normalize: the model hands out vectors of length one.
    """
    vectors = {name: normalised(x, normalize) for name, x in pooled.items()}
    found = {name: axes.axis(x) for name, x in vectors.items() if name != PAIRS}
    drawn = {}
    for name in found:
        weights = resampling.weights(len(vectors[name]), seed, axes.DRAWS)
        drawn[name] = axes.resampled(vectors[name], weights) if np.isfinite(found[name].share) else weights[:, :0]
    return Measured(subject, key, final, vectors, found, drawn, {**turning, final: found[MAIN].direction})


def turning(collected: Collected) -> dict[Depth, np.ndarray]:
    """The axis at every depth but the final one."""
    return {depth: axes.axis(x).direction for depth, x in collected.vectors.items() if depth != collected.final}


def gaps(model: Measured, collected: Mapping[str, Collected], seed: int) -> Iterator[Row]:
    """Sentence level less token level at every depth of every corpus."""
    for name, mine in collected.items():
        if not mine.token_sums:
            continue
        n = len(mine.token_counts)
        drawn = np.concatenate([np.ones((1, n)), resampling.weights(n, seed)])
        for depth in depths(mine):
            sentence = resampling.mean_cosine(mine.vectors[depth].astype(float), drawn)
            sums = mine.token_sums[depth].astype(float)
            gap = sentence - resampling.token_mean_cosine(sums, mine.token_counts, drawn)
            found = interval(gap[0], gap[1:])
            yield model.row("cone_gap", found, n, depth, corpus=_named(name))


def axis_rows(model: Measured) -> Iterator[Row]:
    """Share, stability and place of the axis of every corpus, and the cosines between them."""
    names = list(model.axes)
    for i, name in enumerate(names):
        own, drawn, n = model.axes[name], model.drawn[name], len(model.vectors[name])
        where = {"corpus": _named(name)}
        yield model.row("axis_share", _share(model.vectors[name]), n, **where)
        turned = axes.cosine(drawn, own.direction) if drawn.size else np.array([np.nan])
        yield model.row("axis_stability", interval(float(turned.mean()), turned), n, **where)
        for metric, other in (("axis_to_mean", own.mean), ("axis_to_uncentered", own.uncentered)):
            found = float(axes.cosine(own.direction, other))
            yield model.row(metric, Interval(found, np.nan, np.nan), n, **where)
        for other in names[:i]:
            yield model.row("axis_cosine", between(model, name, model, other), n, against_corpus=other, **where)


def between(one: Measured, corpus: str, other: Measured, against: str) -> Interval:
    """Cosine of the axes of two corpora, of one model or of two."""
    found, theirs = one.axes[corpus].direction, other.axes[against].direction
    return axes.agreement(found, theirs, one.drawn[corpus], other.drawn[against])


def _share(x: np.ndarray) -> Interval:
    """The axis' share of the variance, with the interval that the metric knows."""
    metric = registry.resolve("anisotropy")
    metric.update(States(torch.from_numpy(x)[:, None], torch.arange(len(x))))
    found = metric.compute()
    return Interval(float(found.value[-1]), float(found.low[-1]), float(found.high[-1]))


def arrays(model: Measured) -> Iterator[Array]:
    """Axis, mean direction and uncentred axis of every corpus, and the main axis at every depth."""
    run, subject, step = model.key
    for name, own in model.axes.items():
        where = model.final.where(corpus=_named(name))
        told = {"axis": own.direction, "mean_direction": own.mean, "uncentered_axis": own.uncentered}
        told["projections"] = projections(model.vectors[name], own)
        for what, values in told.items():
            yield Array(run, subject, where, step, "sentence", model.final.layer, -1, f"axis_share/{what}", values)
    for depth, values in model.turning.items():
        if depth != model.final:
            yield Array(run, subject, depth.where(), step, "sentence", depth.layer, -1, "axis_share/axis", values)


def projections(x: np.ndarray, own: Axis) -> np.ndarray:
    """Where vectors lie along an axis, in standard deviations from their mean."""
    along = x @ own.direction
    return (along - along.mean()) / (along.std() or np.nan)


def cards(
    model: Measured, corpora: Mapping[str, Sequence[str]], loaded: Loaded, code: Encoder | None
) -> dict[str, Any]:
    """The texts at both ends of the axis of every corpus: sentences, and rows of the vocabulary."""
    made = {}
    for name, own in model.axes.items():
        texts = corpora[name]
        most, least = _ends(projections(model.vectors[name], own))
        card = {
            "most": [[texts[i], value] for i, value in most],
            "least": [[texts[i], value] for i, value in least],
        }
        made[name] = card | _vocabulary(own, loaded, code)
    return made


def _vocabulary(own: Axis, loaded: Loaded, code: Encoder | None) -> dict[str, Any]:
    try:
        table = loaded.model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        table = None
    weight = getattr(table, "weight", None)
    if code is None or weight is None or weight.ndim != 2:
        return {"vocabulary": "the model has no table of token embeddings"}
    if weight.shape[1] != len(own.direction):
        return {"vocabulary": f"token embeddings are {weight.shape[1]} wide, sentence vectors {len(own.direction)}"}
    along = (weight.detach().double().cpu() @ torch.from_numpy(own.direction)).numpy()
    ends = _ends((along - along.mean()) / (along.std() or np.nan))
    return {
        f"{which}_tokens": [[code.token(i), value] for i, value in end]
        for which, end in zip(("most", "least"), ends, strict=True)
    }


def _ends(values: np.ndarray) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Places and values of both ends, outermost first; none overlaps."""
    if not np.isfinite(values).all():
        return [], []
    order, count = np.argsort(values, kind="stable"), min(SHOWN, len(values) // 2)
    return (
        [(int(i), round(float(values[i]), 3)) for i in order[::-1][:count]],
        [(int(i), round(float(values[i]), 3)) for i in order[:count]],
    )


def similarities(
    model: Measured,
    collected: Mapping[str, Collected],
    pairs: Pairs | None,
    scored: similarity.Scored | None,
    seed: int,
) -> Iterator[Row]:
    """How well each depth keeps the final similarities, and how well it agrees with human scores."""
    main = collected[MAIN]
    n = len(main.token_counts)
    places = list(depths(main))
    layers = [main.vectors[depth] for depth in places]
    weights = resampling.weights(n, seed, PRESERVED)
    found = similarity.preservation(layers, main.vectors[model.final], weights)
    for depth, one in zip(places, found, strict=True):
        yield model.row("similarity_preservation", one, min(n, similarity.MOST), depth)
    if pairs is not None and scored is not None:
        for depth in places:
            x = collected[PAIRS].vectors[depth]
            one, _ = scored.spearman(similarity.pair_cosines(x, pairs.first, pairs.second))
            yield model.row("spearman", one, len(pairs.scores), depth)


def transformed(
    model: Measured,
    others: Sequence[Measured],
    pairs: Pairs | None,
    scored: similarity.Scored | None,
    components: int | None,
    seed: int,
) -> Iterator[Row]:
    """Mean cosine and agreement with scores after each transform, fitted here or elsewhere.

    Args:
        others: models of the same width to take a fit from.
    """
    sources = {f"corpus:{name}": x for name, x in model.vectors.items() if name != PAIRS}
    models = {f"model:{other.subject.name}": other.vectors[MAIN] for other in others}
    for name, x in model.vectors.items():
        weights = np.concatenate([np.ones((1, len(x))), resampling.weights(len(x), seed)])
        raw = None
        if name == PAIRS:
            cosines = resampling.mean_cosine(x, weights)
            yield model.row("mean_cosine", interval(cosines[0], cosines[1:]), len(x), corpus=PAIRS)
            if pairs is not None and scored is not None:
                raw = scored.spearman(similarity.pair_cosines(x, pairs.first, pairs.second))
        given = {"own": x, **{source: y for source, y in sources.items() if source != f"corpus:{name}"}}
        given |= models if name in (MAIN, PAIRS) else {}
        for kind, fit in TRANSFORMS.items():
            for source, y in given.items() if kind != "none" else ():
                where = {"transform": kind, "fitted": source, "corpus": _named(name)}
                yield from _effect(model, fit(y, components), x, weights, where, pairs, scored, raw)


def _effect(
    model: Measured,
    fitted: Transform,
    x: np.ndarray,
    weights: np.ndarray,
    where: Mapping[str, str],
    pairs: Pairs | None,
    scored: similarity.Scored | None,
    raw: tuple[Interval, np.ndarray] | None,
) -> Iterator[Row]:
    y = fitted.apply(x)
    cosines = resampling.mean_cosine(y, weights)
    yield model.row("mean_cosine", interval(cosines[0], cosines[1:]), len(x), **where)
    if raw is not None and pairs is not None and scored is not None:
        before, drawn_before = raw
        after, drawn = scored.spearman(similarity.pair_cosines(y, pairs.first, pairs.second))
        where = {key: value for key, value in where.items() if key != "corpus"}
        yield model.row("spearman", after, len(pairs.scores), **where)
        change = interval(after.value - before.value, drawn - drawn_before)
        yield model.row("spearman_change", change, len(pairs.scores), **where)


def _named(corpus: str) -> str:
    return "" if corpus == MAIN else corpus
