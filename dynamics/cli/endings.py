"""How verbs end: the page of their run, and the failures that they report. No torch here."""

from collections.abc import Sequence
from pathlib import Path

from dynamics.errors import Failure


def fail_on_suspects(folder: Path) -> None:
    """Fail if any checkpoint that a run audited is suspect."""
    from dynamics import runs

    verdicts = runs.read(folder).to_dict().get("audit", {})
    suspects = [name for name, verdict in verdicts.items() if verdict["suspect"]]
    if suspects:
        shown = ", ".join(suspects[:10]) + (f" and {len(suspects) - 10} more" if len(suspects) > 10 else "")
        are = "are" if len(suspects) > 1 else "is"
        raise Failure(f"{len(suspects)} of {len(verdicts)} checkpoints {are} suspect: {shown}.")


def draw_run(folder: Path, strict: bool = False) -> None:
    """Draw a run; fail if a model or input could not be measured, with `strict` also if a metric has no value."""
    from dynamics import record, runs
    from dynamics.missing import not_measured

    draw([folder], folder / "report.html")
    info = runs.read(folder)
    missing = dict(info.failed)
    if strict:
        missing |= not_measured(record.read(folder), info.descriptions)
    if missing:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise Failure(f"{folder.name} lacks {len(missing)} of what was asked for ({reasons}).")


def draw(runs: Sequence[str | Path], out: Path, kind: str = "html") -> None:
    """Draw the page of runs and say where it is."""
    from dynamics.report import page

    print(f"report: {page.write(runs, out, kind)}")
