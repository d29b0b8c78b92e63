"""Runs that measure one model after the other."""

import gc
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from dynamics.errors import Failure, InputError, in_words
from dynamics.experiments.progress import progress
from dynamics.loading.subjects import Subject
from dynamics.run_info import ConeInfo, Facts, ScanInfo
from dynamics.runs import Run

log = logging.getLogger(__name__)

ModelsRun = Run[ScanInfo] | Run[ConeInfo]
OnShare = Callable[[float], None]  # is called with the share of a model's measurement that is done
T = TypeVar("T")


def looked_up(subjects: Sequence[Subject], look: Callable[[Subject], T], unknown: T) -> dict[Subject, T]:
    """Return what `look` finds of each subject: of several, `unknown` for one that fails, as it will in its turn."""
    values = dict.fromkeys(subjects, unknown)
    for subject in subjects:
        try:
            values[subject] = look(subject)
        except Exception as error:
            if len(subjects) == 1:
                raise as_ours(subject, error) from error
    return values


def measure_in_turn(
    run: ModelsRun, total: int, waiting: Sequence[Subject], measure: Callable[[Subject, OnShare], tuple[Facts, str]]
) -> None:
    """Measure those of `total` subjects that are `waiting`, one after the other, and write `run.json` after each.

    `measure` measures and records a subject; it returns its facts, and a summary for the terminal. A subject that
    cannot be measured is noted in `run.json` and does not keep the others from it.

    Raises:
        InputError, Failure: no subject of the run has been measured.
    """
    if len(waiting) < total:
        print(f"run {run.folder.name}: {total - len(waiting)} of {total} are in the record already")
    failed, errors = run.info.failed, list[Exception]()
    with progress(len(waiting), run.info.kind) as bar:
        for number, subject in enumerate(waiting):
            gc.collect()  # the model before this one
            failed.pop(subject.name, None)
            try:
                facts, summary = measure(subject, bar.part(number, subject.name))
            except Exception as error:  # of a foreign model or tokenizer: anything
                log.debug("%s", subject.name, exc_info=True)
                errors.append(as_ours(subject, error))
                failed[subject.name] = in_words(error)
                summary = f"not measured ({failed[subject.name]})"
            else:
                run.info.subjects[subject.name] = facts
                failed |= _unreadable(facts)
            run.save()
            print(f"{subject.name}: {summary}")
    if failed:
        run.ends_as = "failed"
    if not run.info.subjects:
        raise as_one(errors)


def _unreadable(facts: Facts) -> dict[str, str]:
    """Return the inputs that could not be read, and why, by name."""
    unreadable: dict[str, str] = facts.get("input", {}).get("unreadable", {})
    return unreadable


def as_one(errors: Sequence[Exception]) -> Exception:
    """Return one error for several: bad input, if all of them are."""
    kind = InputError if all(isinstance(error, InputError) for error in errors) else Failure
    return kind(" ".join(dict.fromkeys(map(str, errors))))


def as_ours(subject: Subject, error: Exception) -> Exception:
    """Return an error that the command line prints as one sentence."""
    if isinstance(error, InputError | Failure):
        return error
    return Failure(f"{subject.name} cannot be measured ({in_words(error)}).")
