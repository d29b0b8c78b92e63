"""What W&B shows of a run as a whole: the runs that it belongs with, its tags, and what is attached when it is done."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.errors import InputError
from dynamics.files import write_text
from dynamics.report.arms import design, settings_of
from dynamics.run_info import FitInfo, RunInfo

if TYPE_CHECKING:
    import wandb


def config(info: RunInfo) -> dict[str, Any]:
    """Return what `run.json` says but the status, for which W&B has one of its own; {} as None, which W&B keeps."""

    def kept(value: Any) -> Any:
        return {key: kept(part) for key, part in value.items()} or None if isinstance(value, dict) else value

    return {key: kept(value) for key, value in info.to_dict().items() if key != "status"}


def group(info: RunInfo) -> str | None:
    """Return a name that runs share which differ in their seed alone: what they are, and a digest of their settings."""
    if not isinstance(info, FitInfo):
        return None
    settings = json.dumps(design(settings_of(info)), sort_keys=True, default=str)
    return f"{info.label}, {info.layers} x {info.width} ({hashlib.sha256(settings.encode()).hexdigest()[:6]})"


def tags(info: RunInfo) -> list[str]:
    """Return what runs are filtered by: objective, mask or task, text and seed; W&B takes up to 64 characters each."""
    if not isinstance(info, FitInfo):
        return []
    mask = {True: "causal", False: "bidirectional", None: ""}[info.is_causal]
    corpus = Path(str(info.data.get("corpus") or "")).stem
    named = [info.objective, mask, info.task, corpus, "" if info.seed is None else f"seed {info.seed}"]
    return list(dict.fromkeys(tag[:64] for tag in named if tag))


def artifact(folder: Path, name: str, last_step: int) -> "wandb.Artifact":
    """Return an artifact of W&B: the record and the report page of a run that has made `last_step` steps."""
    import wandb

    from dynamics.report.page import page
    from dynamics.report.study import load

    parts = wandb.Artifact(f"{name}-record", type="record", description="The record of the run, and its report page")
    parts.add_dir(str(folder / "record"), "record")
    try:
        study = load([folder])
        for info in study.runs.values():  # it is written into run.json after the loggers have ended
            info.status = "done" if last_step >= (getattr(info, "max_steps", None) or 0) else "stopped"
        write_text(folder / "report.html", page(study), digest=False)
        parts.add_file(str(folder / "report.html"))
    except InputError as error:
        print(f"W&B gets the record without its page: {error}")
    return parts
