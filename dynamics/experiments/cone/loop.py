"""The cone of sentence vectors: every model reads every corpus, then models are compared with one another."""

import logging
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from dynamics.errors import InputError
from dynamics.experiments.cone import across, analysis, sentences, vectors
from dynamics.experiments.cone.collect import Collected, Key, batches, collect
from dynamics.experiments.cone.options import ConeOptions
from dynamics.experiments.cone.sentences import MAIN, PAIRS
from dynamics.experiments.cone.setup import Setup, read_setup
from dynamics.experiments.cone.similarity import Scored
from dynamics.experiments.cone.vectors import ModelVectors
from dynamics.experiments.guards import out_of_memory, quiet
from dynamics.experiments.in_turn import OnShare, looked_up, measure_in_turn
from dynamics.loading.describe import describe
from dynamics.loading.encoder import Encoder, encoder
from dynamics.loading.inputs import digest
from dynamics.loading.models import Loaded, load, modality, width
from dynamics.loading.subjects import FACTS, Subject, expand
from dynamics.measure.checked import checked
from dynamics.measure.suite import Suite
from dynamics.provenance import provenance
from dynamics.record import Record, Row
from dynamics.run_info import ConeInfo, Facts
from dynamics.runs import Run, name_by_time, start

log = logging.getLogger(__name__)

METRICS = (  # of vectors and of tokens, without --metrics
    *("mean_cosine", "anisotropy", "anisotropy_uncentered", "norm_of_mean", "mean_norm", "isoscore"),
    "effective_rank",
)
SETTINGS = (  # options that all models of a run share
    *("inputs", "pooling", "prompt", "normalize", "components", "compare", "tokenizer", "dtype", "seed"),
    "config_overrides",
)


def cone(options: ConeOptions) -> Path:
    """Measure every model that the record does not have yet, compare all of them, and return the run's folder."""
    quiet()
    return Cone(options).run()


class Cone:
    """A run of the cone: its models, its metrics, and the sentences that the models read."""

    def __init__(self, options: ConeOptions) -> None:
        self.options = options
        self.subjects = expand(options)
        self.suite = _suite(options)
        self.files = {MAIN: options.sentences, **sentences.files(options.corpus)}
        self.unreadable: dict[str, str] = {}  # lines that are left out, and why
        self.corpora = {
            name: sentences.read(
                file, "--sentences" if name == MAIN else f"--corpus {name}", options.inputs, self.unreadable
            )
            for name, file in self.files.items()
        }
        self.scored: Scored | None = None
        if options.pairs:
            pairs = sentences.pairs(options.pairs, self.unreadable)
            self.files[PAIRS], self.corpora[PAIRS] = options.pairs, pairs.sentences
            self.scored = Scored(pairs, options.seed)
        self.models: list[ModelVectors] = []  # measured in this run, or before it was resumed
        for subject, kind in looked_up(self.subjects, lambda subject: modality(subject, options), "").items():
            if kind not in ("text", ""):
                raise InputError(f"{subject.model} takes {kind}: a cone of sentences needs a model of text.")
        self._refuse_widths(looked_up(self.subjects, lambda subject: width(subject, options), None).items())
        self._notes: set[str] = set()  # on setups, each of which is given once

    def run(self) -> Path:
        """Measure what the record does not have yet, then compare; return the run's folder."""
        with start(self._info(), self.options.resume, same=("settings", "metrics")) as run:
            recorded = [name for name in run.info.subjects if vectors.path(run.folder, name).is_file()]
            waiting = [subject for subject in self.subjects if subject.name not in recorded]
            for name in recorded:
                facts = run.info.subjects[name]
                subject = Subject(**{fact: facts[fact] for fact in FACTS}, source="")
                self.models.append(vectors.load(run.folder, subject, facts, self.options.seed))
            measure_in_turn(run, len(self.subjects), waiting, partial(self._measure, run))
            self._compare(Record(run.folder))
        return run.folder

    def _info(self) -> ConeInfo:
        settings: Facts = {name: getattr(self.options, name) for name in SETTINGS}
        settings["texts"] = {name: digest([Path(file)]) for name, file in self.files.items()}
        return ConeInfo(
            run=self.options.run or name_by_time("cone"),
            **provenance(),
            settings=settings,
            corpora={name: {"source": file, "sentences": len(self.corpora[name])} for name, file in self.files.items()},
            pairs=self.scored.n if self.scored else None,
            failed=self.unreadable,
            metrics=self.suite.describe(),
            descriptions=self.suite.descriptions(),
        )

    def _setup(self, subject: Subject) -> Setup:
        """Return how a model makes vectors, and warn of what its files leave open."""
        options, origin = self.options, subject.origin
        source = origin.source if origin.kind in ("hub", "folder") else ""
        setup = read_setup(source, origin.hub_revision, options.pooling, options.prompt, options.normalize)
        for note in setup.notes(subject.model):
            if note not in self._notes:
                log.warning(note)
                self._notes.add(note)
        return setup

    def _measure(self, run: Run[ConeInfo], subject: Subject, on_share: OnShare) -> tuple[Facts, str]:
        """Measure and record a model; return its facts, and a summary for the terminal."""
        started, options, setup = time.perf_counter(), self.options, self._setup(subject)
        key = (run.info.run, subject.name, subject.step)
        with out_of_memory(subject.name, options.batch_size):
            loaded = load(subject, options)
            code = None if loaded.encode else encoder(loaded, options.tokenizer)
            described, collected = self._read(loaded, code, setup, key, on_share)
            about = {"tokenizer": code.name if code else "the module's own", "dtype": options.dtype}
            facts = {**subject.facts, **about, **loaded.facts, **described, "setup": setup.facts()}
            vectors.save(run.folder, subject, collected)
            model = vectors.load(run.folder, subject, facts, options.seed)
            facts["cards"] = analysis.cards(model, self.corpora, loaded, code)
        self._refuse_widths((each.subject, each.width) for each in [*self.models, model])
        rows = [row for corpus in collected.values() for row in corpus.rows]
        rows += [*analysis.gaps(model, collected, options.seed), *analysis.axis_rows(model)]
        rows += analysis.similarities(model, collected, self.scored, options.seed)
        seconds = time.perf_counter() - started
        rows.append(Row(*key[:2], "", key[2], "cost", -1, -1, "measure_seconds", seconds))
        arrays = [array for corpus in collected.values() for array in corpus.arrays]
        Record(run.folder).write(subject.step, rows, [*arrays, *analysis.arrays(model)], subject.name)
        self.models.append(model)
        cosine = ", ".join(
            f"{row.site} cosine {row.value:.3f}"
            for row in sorted(rows, key=lambda row: row.site)
            if (row.metric, row.layer, row.condition) == ("mean_cosine", model.final.layer, model.final.where())
        )
        words = (f"{facts['layers']} layers", cosine, f"capture {facts['capture']}", f"{seconds:.0f} s")
        return facts, ", ".join(filter(None, words))

    def _read(
        self, loaded: Loaded, code: Encoder | None, setup: Setup, key: Key, on_share: OnShare
    ) -> tuple[Facts, dict[str, Collected]]:
        """Have a model read every corpus; return its facts and what was collected of each corpus."""
        total, done = sum(map(len, self.corpora.values())), 0

        def on_sentences(count: int) -> None:
            nonlocal done
            done += count
            on_share(done / total)

        facts: Facts = {}
        inputs: Facts = {}
        collected: dict[str, Collected] = {}
        for name, lines in self.corpora.items():
            parts, truncated = batches(lines, loaded, code, setup, self.options.batch_size)
            if not facts:
                first = parts[0].inputs
                facts = describe(loaded, {key: value[:1] for key, value in first.items()})
                facts["capture"] = str(checked(loaded.model, first, key[1], dtype=None))
            suite = None if name == PAIRS else self.suite
            collected[name] = collect(loaded, parts, setup, suite, key, name, on_sentences)
            inputs[name] = {"sentences": len(lines), "truncated": truncated}
            if suite is not None:
                inputs[name]["tokens"] = int(collected[name].token_counts.sum())
        return {**facts, "final": collected[MAIN].final, "input": inputs}, collected

    def _compare(self, record: Record) -> None:
        """Record every model against the others."""
        together = [*across.agreement(self.models), *across.turning(self.models)]
        for model in self.models:
            rows = [
                *across.transformed(model, self.models, self.scored, self.options.components, self.options.seed),
                *(row for row in together if row.subject == model.subject.name),
            ]
            record.write(model.subject.step, rows, part=f"{model.subject.name}|across")

    def _refuse_widths(self, sizes: Iterable[tuple[Subject, int | None]]) -> None:
        """Refuse to compare axes of models of different width."""
        widths: dict[int, Subject] = {}
        for subject, size in sizes:
            if size is not None:
                widths.setdefault(size, subject)
        if self.options.compare == "axes" and len(widths) > 1:
            (size, first), (other, second), *_ = widths.items()
            raise InputError(
                f"{first.model} is {size} wide and {second.model} {other}: axes of different width have no "
                "cosine; add --compare cka to compare the models by linear CKA, or leave one out."
            )


def _suite(options: ConeOptions) -> Suite:
    suite = Suite.parse(METRICS if options.metrics is None else options.metrics)
    suite.refuse_schedules("the cone, which measures every model")
    sites = {site: entries for site, entries in suite.sites.items() if site in ("sentence", "token")}
    if elsewhere := suite.names - Suite(sites).names:
        raise InputError(f"--metrics {', '.join(sorted(elsewhere))}: not measured on sentences or tokens; remove it.")
    return Suite(sites)
