"""The audit: the checkpoints of one model after the other are compared, judged and recorded."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dynamics.errors import InputError
from dynamics.experiments.audit import weights
from dynamics.experiments.audit.options import AuditOptions
from dynamics.experiments.audit.series import WHOLE, Series
from dynamics.experiments.guards import quiet
from dynamics.experiments.progress import progress
from dynamics.loading.subjects import Subject, refuse_twice, revisions_of
from dynamics.provenance import provenance
from dynamics.record import Record
from dynamics.run_info import AuditInfo, ScanInfo
from dynamics.runs import Run, name_by_time, start

SETTINGS = ("models", "revisions", "hashes_only")


def audit(options: AuditOptions) -> Path:
    """Audit every model; return the run's folder.

    Raises:
        InputError: a model or revision is not found, has no weights, or they cannot be read.
    """
    quiet()
    series = [series_of(model, options.revisions) for model in options.models]
    refuse_twice([subject for each in series for subject in each.subjects])
    values = asdict(options)
    settings = {name: values[name] for name in SETTINGS}
    info = AuditInfo(run=options.run or name_by_time("audit"), **provenance(), settings=settings)
    with start(info, options.resume, update=True) as run:
        shutil.rmtree(run.folder / "record", ignore_errors=True)
        _examine(run, series, options.hashes_only, options.trust_remote_code)
    return run.folder


def audit_subjects(run: Run[ScanInfo], subjects: Sequence[Subject], trust_remote_code: bool) -> None:
    """Audit the subjects of a scan, each model with its main, into the record of the scan."""
    models = dict.fromkeys(subject.model for subject in subjects if subject.kind in ("run", "folder", "hub"))
    if not models:
        raise InputError(f"--audit has no effect on {subjects[0].model}, which has no checkpoints; remove it.")
    series = [_complete([subject for subject in subjects if subject.model == model]) for model in models]
    _examine(run, series, False, trust_remote_code)


def _examine(
    run: Run[AuditInfo] | Run[ScanInfo], series: Sequence[Series], hashes_only: bool, trust_remote_code: bool
) -> None:
    """Examine and record all series, and print a table of each."""
    record = Record(run.folder)
    with progress(len(series), "audit") as bar:
        for number, each in enumerate(series):
            each.examine(hashes_only, trust_remote_code, bar.part(number, each.subjects[0].model))
    if all(len(each.unreadable) == len(each.subjects) for each in series):
        raise InputError(f"{series[0].verdicts[0].reasons[0]}.")
    for each in series:
        for verdict in each.verdicts:
            name = verdict.subject.name
            rows = verdict.rows(run.info.run, each.numbers)
            record.write(verdict.subject.step, rows, part=f"audit|{name}")
            run.info.audit[name] = verdict.facts
        _print(each)
    run.save()


def series_of(model: str, revisions: str | None) -> Series:
    """Return the checkpoints of a model that are asked for; all where no revisions are named."""
    subjects = revisions_of(model, revisions or "all")
    if not subjects:  # a folder with nothing but a model
        subjects = revisions_of(model)
    return _complete(subjects)


def _complete(subjects: Sequence[Subject]) -> Series:
    """Return the checkpoints of one model, in the order of their steps, with its main."""
    first, note = subjects[0], ""
    subjects = sorted(subjects, key=lambda subject: (not subject.series, subject.step))
    main = _main(first)
    if main is not None and "main" not in {subject.revision for subject in subjects}:
        try:
            weights.find(main)
            subjects.append(main)
        except InputError as error:
            note = f"not compared with main ({str(error).rstrip('.')})"
    steps = [subject.step for subject in subjects if subject.series]
    try:
        everything = revisions_of(_name(first), "all") if steps else []
    except InputError:  # they cannot be listed
        everything = []
    series = Series(subjects, max([subject.step for subject in everything if subject.series] + steps, default=0))
    series.verdicts[-1].notes += [note] if note else []
    return series


def _main(subject: Subject) -> Subject | None:
    """Return the `main` of a model: of the hub its branch, of a folder with folders of steps its own weights."""
    if subject.kind == "hub":
        return replace(subject, revision="main", step=0, source=subject.model, series="")
    parent = Path(subject.source).parent
    if subject.kind == "folder" and subject.revision != "local" and (parent / "config.json").is_file():
        return replace(subject, revision="main", step=0, source=str(parent), series="")
    return None


def _name(subject: Subject) -> str:
    """Return what a subject's model was called on the command line."""
    if subject.kind == "hub":
        return subject.model
    return str(subject.run if subject.kind == "run" else Path(subject.source).parent)


def _print(series: Series) -> None:
    """Print a table of a series, and a sentence for each suspect and note."""
    end = "main" if series.end is not None else "last"
    table = Table("checkpoint", "equal to", "distance to previous", f"to {end}", "", title=series.subjects[0].model)
    for verdict in series.verdicts:
        values = [verdict.values.get(("weight_distance", to, WHOLE)) for to in ("previous", end)]
        cells = ["" if value is None else f"{value:.3g}" for value in values]
        mark = "suspect" if verdict.reasons else ""
        table.add_row(verdict.subject.revision, ", ".join(verdict.equal), *cells, mark, style="bold" if mark else "")
    Console().print(table)
    for verdict in series.verdicts:
        for text in verdict.reasons:
            print(f"{verdict.subject.name} is suspect: {text}.")
        for text in verdict.notes:
            print(f"{verdict.subject.name}: {text}.")
    if not any(verdict.reasons for verdict in series.verdicts):
        print(f"{series.subjects[0].model}: none of {len(series.verdicts)} checkpoints is suspect")
