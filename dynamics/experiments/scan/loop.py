"""The scan: one subject after the other is loaded, measured and recorded."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dynamics.errors import InputError
from dynamics.experiments.audit.loop import audit_subjects
from dynamics.experiments.guards import out_of_memory, quiet
from dynamics.experiments.in_turn import OnShare, looked_up, measure_in_turn
from dynamics.experiments.scan import own_windows, protocols
from dynamics.experiments.scan.options import SHAPE_OF_LEARNING, ScanOptions
from dynamics.experiments.scan.references import References, comparing
from dynamics.loading import media, text
from dynamics.loading.describe import describe
from dynamics.loading.encoder import encoder
from dynamics.loading.inputs import Batches, InputSource
from dynamics.loading.models import Loaded, load, modality
from dynamics.loading.subjects import Subject, expand
from dynamics.measure import measure
from dynamics.measure.checked import checked
from dynamics.measure.suite import Suite
from dynamics.provenance import provenance
from dynamics.record import Record, Row, condition
from dynamics.run_info import Facts, ScanInfo
from dynamics.runs import Run, name_by_time, start

OPEN: dict[str, Callable[[ScanOptions], InputSource]] = {
    "text": text.open_text,
    **{kind: partial(media.open_media, kind) for kind in media.KINDS},
}
BATCHES = {"text": text.text_batches, "images": media.image_batches, "audio": media.audio_batches}
# Options that all subjects of a run share.
SETTINGS = ("lines", "shuffled", "tokens", "inputs", "context", "protocol", "dtype", "tokenizer", "seed")


def scan(options: ScanOptions) -> Path:
    """Measure every subject that the record does not have yet; return the run's folder.

    Raises:
        InputError, Failure: bad input, or no model that can be measured. One of several that cannot is noted in
            `run.json`, and what was measured stays in the record.
    """
    quiet()
    return Scan(options).run()


class Scan:
    """A scan: its subjects, its metrics, and a source of inputs for every modality."""

    def __init__(self, options: ScanOptions) -> None:
        self.options, self.subjects = options, expand(options)
        self.suite = self._suite()
        self._sources: dict[str, InputSource] = {}
        modalities = looked_up(self.subjects, lambda subject: modality(subject, options), "")
        self._refuse_unread(modalities)
        for subject, kind in modalities.items():
            self._refuse_untextual(subject, kind)
        for subject, kind in modalities.items():
            if kind and not own_windows.applies(subject, options):
                self._source(kind)

    def run(self) -> Path:
        """Measure what the record does not have yet; return the run's folder."""
        info = ScanInfo(
            run=self.options.run or name_by_time("scan"),
            **provenance(),
            settings={
                **{name: getattr(self.options, name) for name in SETTINGS},
                **{kind: dict(source.facts) for kind, source in self._sources.items()},
                "config_overrides": self.options.config_overrides,
            },
            metrics=self.suite.describe(),
            descriptions=self.suite.descriptions(),
        )
        with start(info, self.options.resume, same=("settings", "metrics")) as run:
            if self.options.audit:
                audit_subjects(run, self.subjects, self.options.trust_remote_code)
            waiting = [subject for subject in self.subjects if subject.name not in run.info.subjects]
            references = References(self.suite, self.options, self.subjects, waiting)
            measure_in_turn(run, len(self.subjects), waiting, partial(self._measure, run, references))
        return run.folder

    def _suite(self) -> Suite:
        options = self.options
        default = protocols.METRICS.get(options.protocol or "")
        suite = Suite.parse(default if options.metrics is None else options.metrics)
        suite.refuse_schedules("a scan, which measures every revision")
        if options.metrics is None and not any(subject.series for subject in self.subjects):
            # Without a step 0 to compare with, these are undefined: nobody asked for them by name.
            suite = suite.only(suite.names - comparing(suite))
        return suite

    def _refuse_unread(self, modalities: dict[Subject, str]) -> None:
        """Refuse inputs of a modality that no subject takes ("" where only its weights can tell)."""
        model, other = next((subject.model, kind) for subject, kind in modalities.items())
        for kind in OPEN:
            value = getattr(self.options, kind)
            if value is not None and not {kind, ""} & set(modalities.values()):
                raise InputError(f"--{kind} {value}: no model of this scan takes {kind}; {model} takes {other}.")

    def _refuse_untextual(self, subject: Subject, kind: str) -> None:
        """Refuse options for text on a model that takes something else ("" where that is not known yet)."""
        is_shape = self.options.protocol == SHAPE_OF_LEARNING
        for option, is_set in ((f"--protocol {SHAPE_OF_LEARNING}", is_shape), ("--shuffled", self.options.shuffled)):
            if is_set and kind not in ("text", ""):
                raise InputError(f"{option} needs a model of text, and {subject.model} takes {kind}.")

    def _source(self, kind: str) -> InputSource:
        """Return the inputs of a modality, opened once for all subjects that take them."""
        if kind not in self._sources:
            self._sources[kind] = OPEN[kind](self.options)
        return self._sources[kind]

    def _batches(self, subject: Subject, loaded: Loaded) -> Batches:
        if own_windows.applies(subject, self.options):
            return own_windows.batches(subject.run, loaded, self.options.allow_classes)
        self._refuse_untextual(subject, loaded.modality)
        if loaded.encode is not None and loaded.modality == "text":
            self.options.refuse_unused(("protocol",), "on a module that encodes its texts itself")
        return BATCHES[loaded.modality](loaded, self.options, self._source(loaded.modality))

    def _measure(
        self, run: Run[ScanInfo], references: References, subject: Subject, on_share: OnShare
    ) -> tuple[Facts, str]:
        """Measure and record a subject; return its facts, and a summary for the terminal."""
        loaded = load(subject, self.options)
        batches = self._batches(subject, loaded)
        batches.on_share = on_share
        options, name, step = self.options, subject.name, subject.step
        where = condition(**batches.condition, **({"protocol": options.protocol} if options.protocol else {}))
        measure_model = partial(measure, loaded.model, metrics=self.suite, dtype=None)
        measure_batches = partial(measure_model, run=run.info.run, subject=name, condition=where, step=step)
        started, unfinished = time.perf_counter(), run.unfinished(name)
        with out_of_memory(name, options.batch_size):
            first = next(iter(batches))
            facts = describe(loaded, {key: value[:1] for key, value in first.items()})
            facts["capture"] = str(checked(loaded.model, first, name, dtype=None))
            if options.protocol == SHAPE_OF_LEARNING:
                code = encoder(loaded, options.tokenizer)
                groups = protocols.groups(self._source("text"), code, options.seed)
                result, facts["groups"] = protocols.over_groups(groups, options.batch_size, code.pad, measure_batches)
                batches.inputs, batches.tokens = protocols.WINDOWS, max(row.n for row in result.rows)
            else:
                compared = references.of(subject, batches)
                result = measure_batches(batches, references=compared, unfinished=unfinished)
                references.keep(subject, result.references)
        seconds = max(time.perf_counter() - started, sum(result.seconds.values()))  # with those before it was stopped
        spent = {"measure_seconds": seconds} | {f"measure_seconds/{key}": part for key, part in result.seconds.items()}
        costs = [Row(run.info.run, name, where, step, "cost", -1, -1, key, part) for key, part in spent.items()]
        Record(run.folder).write(step, [*result.recorded, *costs], result.arrays, f"{name}|{where}")
        unfinished.unlink(missing_ok=True)
        # Models of images and sound make as many tokens as the residual stream has.
        tokens = batches.tokens or max((row.n for row in result.rows if row.site in ("residual", "output")), default=0)
        about = {**subject.facts, "modality": loaded.modality, "dtype": options.dtype}
        facts = {**about, **loaded.facts, **facts, "input": {**batches.facts, "tokens": tokens}}
        return facts, f"{_summary(facts)} in {seconds:.0f} s"


def _summary(facts: Facts) -> str:
    heads = f", {max(facts['heads'])} heads" if any(facts["heads"]) else ""
    parameters, tokens = facts["parameters"] / 1e6, facts["input"]["tokens"]
    layers = f"{facts['layers']} layers{heads}, {parameters:.1f} M parameters"
    return f"{layers}, {tokens:,} tokens, capture {facts['capture']},"
