"""The scan itself: one subject after the other, each measured, written down and let go."""

import gc
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dynamics.errors import InputError
from dynamics.experiments.guards import out_of_memory, quiet
from dynamics.experiments.progress import progress
from dynamics.experiments.resume import begin, count_known, telling
from dynamics.experiments.scan import own_windows as own
from dynamics.experiments.scan import protocols
from dynamics.experiments.scan.references import References, comparing
from dynamics.loading import media, text
from dynamics.loading.describe import describe
from dynamics.loading.inputs import Batches, Source
from dynamics.loading.models import DTYPES, Loaded, load, modality
from dynamics.loading.options import CHOOSING, Options
from dynamics.loading.subjects import Subject, expand
from dynamics.measure import Measurement, measure
from dynamics.measure.suite import Suite
from dynamics.provenance import provenance
from dynamics.record import Record, Row, condition
from dynamics.runs import new, write_run

Facts = dict[str, Any]


def scan(options: Options) -> Path:
    """Measure every subject that the record does not have yet; gives the run's folder.

    Raises:
        InputError: bad input of any kind; what was measured before it stays in the record.
    """
    quiet()
    _refuse_options(options)
    subjects = expand(options)
    suite = _suite(options, subjects)
    kinds = {subject: modality(subject, options) for subject in subjects}
    _refuse_mismatch(kinds, options)
    name = options.run or f"scan-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"
    folder = new(name)
    sources: dict[str, Source] = {}
    told = _begin(folder, options, suite, _settings(options, suite, kinds, sources))
    waiting = [subject for subject in subjects if subject.name not in told["subjects"]]
    count_known(folder, len(subjects), len(waiting))
    record = Record(folder)
    references = References(suite, options, subjects, waiting)
    with telling(folder, told), progress(len(waiting)) as advance:
        write_run(folder, told)  # before any row: whenever it is killed, it can go on
        for subject in waiting:
            gc.collect()  # the model before this one
            rows = _one(subject, options, suite, sources, record, name, references, told, advance)
            write_run(folder, told)
            print(f"{subject.name}: {rows}")
    return folder


def _refuse_options(options: Options) -> None:
    for name in ("tokens", "inputs", "context", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1 (got {value}).")
    if options.dtype not in DTYPES:
        raise InputError(f"there is no --dtype {options.dtype}: choose {', '.join(DTYPES)}.")
    if options.protocol not in (None, *protocols.METRICS):
        raise InputError(f"there is no --protocol {options.protocol}: choose {' or '.join(protocols.METRICS)}.")
    if options.protocol == protocols.SHAPE:
        options.refuse_idle(CHOOSING, f"--protocol {protocols.SHAPE}, which cuts windows of its own")


def _suite(options: Options, subjects: list[Subject]) -> Suite:
    chosen = options.metrics if options.metrics is not None else protocols.METRICS.get(options.protocol or "")
    suite = Suite.parse(chosen)
    suite.refuse_schedules("a scan, which measures every revision")
    if options.metrics is None and not any(subject.series for subject in subjects):
        # Without a step 0 to compare with, these are undefined: nobody asked for them by name.
        suite = suite.only(suite.names - comparing(suite))
    return suite


def _refuse_mismatch(kinds: Mapping[Subject, str], options: Options) -> None:
    given = {"text": options.text, "images": options.images, "audio": options.audio}
    taken = set(kinds.values())
    for what, value in given.items():
        if value is not None and what not in taken and "" not in taken:
            subject, kind = next(iter(kinds.items()))
            raise InputError(f"--{what} {value}: no model of this scan takes {what}; {subject.model} takes {kind}.")
    for subject, kind in kinds.items():
        _refuse_kind(subject, kind, options)


def _refuse_kind(subject: Subject, kind: str, options: Options) -> None:
    """What is for text alone, on a model that takes something else ("" where it is not known yet)."""
    if kind in ("text", ""):
        return
    if options.protocol == protocols.SHAPE:
        raise InputError(f"--protocol {protocols.SHAPE} measures text, and {subject.model} takes {kind}.")
    if options.shuffled:
        raise InputError(f"--shuffled is for text, and {subject.model} takes {kind}.")


def _source(kind: str, options: Options, sources: dict[str, Source]) -> Source:
    """The inputs of a modality, opened once for all models that take them."""
    if kind not in sources:
        sources[kind] = {"text": text.source, "images": media.images, "audio": media.audio}[kind](options)
    return sources[kind]


def _settings(options: Options, suite: Suite, kinds: Mapping[Subject, str], sources: dict[str, Source]) -> Facts:
    """What all subjects of a run share: a scan that goes on must agree."""
    for subject, kind in kinds.items():
        if kind and not own.applies(subject, options):
            _source(kind, options, sources)
    fields = ("lines", "shuffled", "tokens", "inputs", "context", "protocol", "dtype", "tokenizer", "seed")
    asked = {field: getattr(options, field) for field in fields}
    asked |= {kind: dict(source.facts) for kind, source in sources.items()}
    return {**asked, "config_overrides": dict(options.config_overrides), "metrics": suite.describe()}


def _begin(folder: Path, options: Options, suite: Suite, settings: Facts) -> Facts:
    """`run.json` of a new run, or of the one that goes on."""
    made = {
        "run": folder.name,
        "kind": "scan",
        "status": "running",
        **provenance(),
        "settings": {key: value for key, value in settings.items() if key != "metrics"},
        "metrics": settings["metrics"],
        "subjects": {},
    }
    return begin(folder, made, options.resume)


def _one(
    subject: Subject,
    options: Options,
    suite: Suite,
    sources: dict[str, Source],
    record: Record,
    run: str,
    references: References,
    told: Facts,
    advance: Any,
) -> str:
    """Measure one subject and write it down; a summary for the terminal."""
    loaded = load(subject, options)
    batches = _batches(subject, loaded, options, sources)
    where = condition(**_condition(batches, options))
    key = {"run": run, "subject": subject.name, "condition": where, "step": subject.step}
    if isinstance(batches, Batches):
        batches.tick = lambda: advance(subject.name, batches.share)
    started = datetime.now(UTC)
    with out_of_memory(subject.name, options.batch_size):
        facts = describe(loaded, batches)
        if options.protocol == protocols.SHAPE:
            code = text.encoder(loaded, options.tokenizer)
            found = protocols.groups(_source("text", options, sources), code, options.seed)
            result, count = protocols.over_groups(
                found,
                options.batch_size,
                code.pad,
                lambda part: measure(loaded.model, part, suite, dtype=None, **key),
            )
            facts["groups"] = count
            batches.inputs, batches.tokens = protocols.WINDOWS, max(row.n for row in result.rows)
        else:
            result = measure(
                loaded.model, batches, suite, references=references.of(subject, batches), dtype=None, **key
            )
            references.keep(subject, result.references)
    seconds = (datetime.now(UTC) - started).total_seconds()
    record.write(subject.step, [*result.rows, *_costs(key, result, seconds)], result.arrays, f"{subject.name}|{where}")
    given = _input_facts(batches)
    # Models of images and sound make their tokens themselves: as many as the residual stream has.
    made = max((row.n for row in result.rows if row.site in ("residual", "output")), default=0)
    tokens = given["tokens"] = given["tokens"] or made
    told["subjects"][subject.name] = {
        "model": subject.model,
        "revision": subject.revision,
        "step": subject.step,
        "series": subject.series,
        "kind": subject.kind,
        "modality": loaded.modality,
        "dtype": options.dtype,
        **loaded.facts,
        **facts,
        "input": given,
    }
    layers = f"{facts['layers']} layers" + (f", {max(facts['heads'])} heads" if any(facts["heads"]) else "")
    return f"{layers}, {facts['parameters'] / 1e6:.1f} M parameters, {tokens:,} tokens in {seconds:.0f} s"


def _batches(subject: Subject, loaded: Loaded, options: Options, sources: dict[str, Source]) -> Any:
    if own.applies(subject, options):
        return own.windows(subject.run, loaded.config)
    _refuse_kind(subject, loaded.modality, options)
    given = _source(loaded.modality, options, sources)
    if loaded.modality == "images":
        return media.image_batches(loaded, options, given)
    if loaded.modality == "audio":
        return media.audio_batches(loaded, options, given)
    return text.batches(loaded, options, given, options.lines or (options.text or "").startswith(text.HUB))


def _condition(batches: Any, options: Options) -> dict[str, str]:
    synthetic = batches.condition if isinstance(batches, Batches) else {}
    return synthetic | ({"protocol": options.protocol} if options.protocol else {})


def _input_facts(batches: Any) -> Facts:
    return batches.facts if isinstance(batches, Batches) else own.facts(batches)


def _costs(key: Facts, result: Measurement, seconds: float) -> Iterator[Row]:
    costs = {"measure_seconds": seconds}
    costs |= {f"measure_seconds/{name}": spent for name, spent in result.seconds.items()}
    for name, value in costs.items():
        yield Row(**key, site="cost", layer=-1, head=-1, metric=name, value=value)
