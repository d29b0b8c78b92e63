"""Options of `dynamics audit`. No torch here."""

from dataclasses import dataclass

from dynamics.errors import InputError


@dataclass(frozen=True)
class AuditOptions:
    """Compare the checkpoints of a model with one another, with main, and with a fresh model.

    Args:
        models: runs under checkpoints/, folders, or hub names
        run: name of the run under checkpoints/ (made up when missing)
        resume: auto: audit again, into the same run
        revisions: step0,step512 or all (when missing): revisions on the step axis
        hashes_only: compare whole files by their hashes: nothing is downloaded, and there are no distances
        trust_remote_code: build a fresh model by the code that a model brings along
    """

    models: list[str]
    run: str | None = None
    resume: str | None = None
    revisions: str | None = None
    hashes_only: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if not self.models:
            raise InputError("name at least one model to audit: a run of ours, a folder, or a hub name.")
        if self.resume not in (None, "auto"):
            raise InputError(f"--resume must be auto (got {self.resume}).")
