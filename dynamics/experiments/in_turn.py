"""Runs that measure one model after the other."""

import gc
from collections.abc import Callable, Sequence

from dynamics.experiments.progress import progress
from dynamics.loading.subjects import Subject
from dynamics.runs import ConeInfo, Facts, Run, ScanInfo

ModelsRun = Run[ScanInfo] | Run[ConeInfo]
OnShare = Callable[[float], None]
"""Is called with the share of a model's measurement that is done."""


def count_recorded(run: ModelsRun, total: int, waiting: int) -> None:
    """Print how many models the record has already."""
    if waiting < total:
        print(f"run {run.folder.name}: {total - waiting} of {total} are in the record already")


def measure_in_turn(
    run: ModelsRun, subjects: Sequence[Subject], measure: Callable[[Subject, OnShare], tuple[Facts, str]]
) -> None:
    """Measure subjects one after the other, and write `run.json` after each.

    Args:
        measure: measures and records a subject; returns its facts, and a summary for the terminal.
    """
    with progress(len(subjects), run.info.kind) as bar:
        for number, subject in enumerate(subjects):
            gc.collect()  # the model before this one
            facts, summary = measure(subject, bar.part(number, subject.name))
            run.info.subjects[subject.name] = facts
            run.save()
            print(f"{subject.name}: {summary}")
