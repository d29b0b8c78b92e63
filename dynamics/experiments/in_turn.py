"""Runs that measure one model after the other."""

import gc
from collections.abc import Callable, Sequence

from dynamics.experiments.progress import progress
from dynamics.loading.subjects import Subject
from dynamics.run_info import ConeInfo, Facts, ScanInfo
from dynamics.runs import Run

ModelsRun = Run[ScanInfo] | Run[ConeInfo]
OnShare = Callable[[float], None]  # is called with the share of a model's measurement that is done


def measure_in_turn(
    run: ModelsRun, total: int, waiting: Sequence[Subject], measure: Callable[[Subject, OnShare], tuple[Facts, str]]
) -> None:
    """Measure those of `total` subjects that are `waiting`, one after the other, and write `run.json` after each.

    `measure` measures and records a subject; it returns its facts, and a summary for the terminal.
    """
    if len(waiting) < total:
        print(f"run {run.folder.name}: {total - len(waiting)} of {total} are in the record already")
    with progress(len(waiting), run.info.kind) as bar:
        for number, subject in enumerate(waiting):
            gc.collect()  # the model before this one
            facts, summary = measure(subject, bar.part(number, subject.name))
            run.info.subjects[subject.name] = facts
            run.save()
            print(f"{subject.name}: {summary}")
