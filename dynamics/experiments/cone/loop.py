"""The experiment: every model reads every corpus once; then models are set against one another."""

import gc
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dynamics.errors import InputError
from dynamics.experiments.cone import across, analysis, kept, sentences
from dynamics.experiments.cone.analysis import Measured
from dynamics.experiments.cone.collect import Collected, batches, collect
from dynamics.experiments.cone.options import ConeOptions
from dynamics.experiments.cone.sentences import MAIN, PAIRS, Pairs
from dynamics.experiments.cone.setup import Setup, setup
from dynamics.experiments.cone.similarity import Scored
from dynamics.experiments.guards import out_of_memory, quiet
from dynamics.experiments.progress import progress
from dynamics.experiments.resume import begin, count_known, telling
from dynamics.loading import text
from dynamics.loading.describe import describe
from dynamics.loading.inputs import digest
from dynamics.loading.models import Loaded, load, modality, width
from dynamics.loading.subjects import Subject, expand
from dynamics.measure.suite import Suite
from dynamics.provenance import provenance
from dynamics.record import Record, Row
from dynamics.runs import new, write_run

log = logging.getLogger(__name__)

METRICS = (
    *("mean_cosine", "anisotropy", "anisotropy_uncentered", "norm_of_mean", "mean_norm", "isoscore"),
    "effective_rank",
)
"""What is measured of vectors and of tokens where --metrics does not say."""
Facts = dict[str, Any]


def cone(options: ConeOptions) -> Path:
    """Run the four experiments; gives the run's folder.

    Raises:
        InputError: bad input of any kind. Models that were measured before stay in the record.
    """
    quiet()
    subjects = expand(options)
    suite = _suite(options)
    corpora = {MAIN: sentences.read(options.sentences, "--sentences", options.inputs)}
    corpora |= sentences.corpora(options.corpus, options.inputs)
    pairs = sentences.pairs(options.pairs) if options.pairs else None
    if pairs is not None:
        corpora[PAIRS] = pairs.sentences
    _refuse_subjects(subjects, options)
    folder = new(options.run or f"cone-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}")
    told = _begin(folder, options, suite, corpora, pairs)
    known = [name for name in told["subjects"] if kept.path(folder, name).is_file()]
    setups = {subject: _setup(subject, options) for subject in subjects if subject.name not in known}
    for note in dict.fromkeys(note for subject, how in setups.items() for note in how.notes(subject.model)):
        log.warning(note)
    count_known(folder, len(subjects), len(setups))
    with telling(folder, told):
        found = [kept.again(folder, name, told["subjects"][name], options.seed) for name in known]
        _run(folder, options, suite, corpora, pairs, setups, told, found)
    return folder


def _run(
    folder: Path,
    options: ConeOptions,
    suite: Suite,
    corpora: Mapping[str, list[str]],
    pairs: Pairs | None,
    setups: Mapping[Subject, Setup],
    told: Facts,
    found: list[Measured],
) -> None:
    """Measure the models of `setups`, then set all against one another, those `found` in the record included."""
    record, scored = Record(folder), Scored(pairs.scores, options.seed) if pairs else None
    with progress(len(setups), "cone") as advance:
        for subject, how in setups.items():
            gc.collect()  # the model before this one
            started, key = datetime.now(UTC), (folder.name, subject.name, subject.step)
            with out_of_memory(subject.name, options.batch_size):
                facts, collected, model = _one(subject, how, suite, corpora, options, key, advance)
            _refuse_width(found, model, options)
            found.append(model)
            rows = [row for mine in collected.values() for row in mine.rows]
            rows += analysis.gaps(model, collected, options.seed)
            rows += analysis.axis_rows(model)
            rows += analysis.similarities(model, collected, pairs, scored, options.seed)
            seconds = (datetime.now(UTC) - started).total_seconds()
            rows.append(Row(*key[:2], "", key[2], "cost", -1, -1, "measure_seconds", seconds))
            arrays = [array for mine in collected.values() for array in mine.arrays]
            record.write(subject.step, rows, [*arrays, *analysis.arrays(model)], subject.name)
            kept.keep(folder, model, collected)
            told["subjects"][subject.name] = facts
            write_run(folder, told)
            print(f"{subject.name}: {facts['layers']} layers, {_summary(rows, model)}, {seconds:.0f} s")
    together = [*across.agreement(found), *across.turning(found)]
    for model in found:
        others = across.donors(found, model)
        rows = list(analysis.transformed(model, others, pairs, scored, options.components, options.seed))
        rows += [row for row in together if row.subject == model.subject.name]
        record.write(model.subject.step, rows, part=f"{model.subject.name}|across")


def _one(
    subject: Subject,
    how: Setup,
    suite: Suite,
    corpora: Mapping[str, list[str]],
    options: ConeOptions,
    key: tuple[str, str, int],
    advance: Callable[[str, float], None],
) -> tuple[Facts, dict[str, Collected], Measured]:
    """What a model is, what it makes of every corpus, and what is kept of it."""
    loaded = load(subject, options)
    code = None if loaded.encode else text.encoder(loaded, options.tokenizer)
    facts, collected = _read(subject, loaded, code, how, suite, corpora, options, key, advance)
    final, turning = collected[MAIN].final, analysis.turning(collected[MAIN])
    pooled = {name: mine.vectors[final] for name, mine in collected.items()}
    model = analysis.measured(subject, key, final, pooled, turning, how.normalize, options.seed)
    cards = analysis.cards(model, corpora, loaded, code)
    return {**facts, "setup": how.facts(), "cards": cards}, collected, model


def _read(
    subject: Subject,
    loaded: Loaded,
    code: text.Encoder | None,
    how: Setup,
    suite: Suite,
    corpora: Mapping[str, list[str]],
    options: ConeOptions,
    key: tuple[str, str, int],
    advance: Callable[[str, float], None],
) -> tuple[Facts, dict[str, Collected]]:
    """What a model is and what it makes of every corpus."""
    total, done = sum(map(len, corpora.values())), 0
    collected: dict[str, Collected] = {}
    counts: Facts = {}
    facts: Facts = {}
    for name, lines in corpora.items():
        parts, truncated = batches(lines, loaded, code, how, options.batch_size)
        start, size = done, len(lines)
        facts = facts or describe(loaded, [parts[0].inputs])
        collected[name] = collect(
            loaded,
            parts,
            how,
            None if name == PAIRS else suite,
            key,
            "" if name == MAIN else name,
            lambda share, start=start, size=size: advance(subject.name, (start + share * size) / total),
        )
        done += size
        counts[name] = {"sentences": size, "truncated": truncated}
        if name != PAIRS:
            counts[name]["tokens"] = int(collected[name].token_counts.sum())
    known = {
        "model": subject.model,
        "revision": subject.revision,
        "step": subject.step,
        "series": subject.series,
        "kind": subject.kind,
        "tokenizer": code.name if code else "the module's own",
        "dtype": options.dtype,
    }
    return {**known, **loaded.facts, **facts, "final": collected[MAIN].final, "input": counts}, collected


def _summary(rows: list[Row], model: Measured) -> str:
    told = {
        row.site: row.value
        for row in rows
        if row.metric == "mean_cosine" and (row.layer, row.condition) == (model.final.layer, model.final.where())
    }
    return ", ".join(f"{site} cosine {value:.3f}" for site, value in sorted(told.items()))


def _suite(options: ConeOptions) -> Suite:
    suite = Suite.parse(options.metrics if options.metrics is not None else METRICS)
    suite.refuse_schedules("the cone, which measures every model")
    sites = {site: entries for site, entries in suite.sites.items() if site in ("sentence", "token")}
    if not sites:
        raise InputError(f"--metrics {', '.join(suite.names)}: none is measured on sentences or tokens.")
    return Suite(sites)


def _setup(subject: Subject, options: ConeOptions) -> Setup:
    pretrained = subject.kind in ("hub", "folder")
    revision = subject.revision if subject.kind == "hub" and subject.source == subject.model else "main"
    where = subject.source if pretrained else ""
    return setup(where, revision, options.pooling, options.prompt, options.normalize)


def _refuse_subjects(subjects: list[Subject], options: ConeOptions) -> None:
    """What can be told without weights: models that take no text, and widths that differ."""
    widths: dict[int, Subject] = {}
    for subject in subjects:
        kind = modality(subject, options)
        if kind not in ("text", ""):
            raise InputError(f"{subject.model} takes {kind}: a cone of sentences needs a model of text.")
        if (wide := width(subject, options)) is not None:
            widths.setdefault(wide, subject)
    if len(widths) > 1 and options.compare == "axes":
        (one, first), (other, second) = list(widths.items())[:2]
        raise _widths(first, one, second, other)


def _refuse_width(found: list[Measured], model: Measured, options: ConeOptions) -> None:
    other = next((other for other in found if other.width != model.width), None)
    if other is not None and options.compare == "axes":
        raise _widths(other.subject, other.width, model.subject, model.width)


def _widths(first: Subject, one: int, second: Subject, other: int) -> InputError:
    return InputError(
        f"{first.model} is {one} wide and {second.model} {other}: axes of different width have no cosine; say "
        "--compare cka to compare the models by linear CKA, or leave one out."
    )


def _begin(
    folder: Path, options: ConeOptions, suite: Suite, corpora: Mapping[str, list[str]], pairs: Pairs | None
) -> Facts:
    """`run.json` of a new run, or of the one that goes on."""
    files = {MAIN: options.sentences} | dict(one.split("=", 1) for one in options.corpus)
    files |= {PAIRS: str(options.pairs)} if pairs else {}
    fields = ("inputs", "pooling", "prompt", "normalize", "components", "compare", "tokenizer", "dtype", "seed")
    asked = {field: getattr(options, field) for field in fields}
    digests = {name: digest([Path(file)]) for name, file in files.items()}
    made = {
        "run": folder.name,
        "kind": "cone",
        "status": "running",
        **provenance(),
        "settings": {**asked, "config_overrides": dict(options.config_overrides), "texts": digests},
        "corpora": {name: {"source": file, "sentences": len(corpora[name])} for name, file in files.items()},
        "pairs": len(pairs.scores) if pairs else None,
        "metrics": suite.describe(),
        "subjects": {},
    }
    return begin(folder, made, options.resume)
