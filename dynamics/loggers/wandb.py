"""Weights & Biases as a view of the record: one row a step, under exact names, however a process ends."""

import os
import re
import secrets
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from dynamics import runs
from dynamics.errors import InputError
from dynamics.loggers import about
from dynamics.loggers.journal import Journal
from dynamics.loggers.names import OF_HEAD
from dynamics.loggers.profiles import PICTURED
from dynamics.run_info import RunInfo

if TYPE_CHECKING:  # imported where a run begins: a configuration that names this logger may be run without it
    import wandb

    from dynamics.loggers.upload import Upload


class WandbLogger(Logger):
    """A run in W&B, online where a key is configured and its server answers, else offline; see docs/wandb.md.

    Args:
        project: W&B project.
        entity: W&B user or team; the account's default when None.
        mode: `online`, `offline` or `disabled`; when None that of `WANDB_MODE`, else `online` if possible.
        name: the run's name; the command line fills it in.
        save_dir: the run's folder; the command line fills it in.
        id: under which W&B holds the run; the command line fills it in, the same when the run resumes.
        log_heads: `true` logs heads too, a regular expression those whose whole key matches it: `entropy_head/.*`.
            The record always has them.
        pictures: quantities of which a picture, layers against steps, is drawn at every measured step.
        group: runs that W&B draws as one curve with a band; by default all that differ in their seed alone.
        job_type: W&B's word for the kind of run.
        tags: tags of the run; by default its objective, mask, text and seed.
        artifact: upload the record and the report page when the run is done.
    """

    def __init__(
        self,
        project: str = "dynamics",
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        name: str | None = None,
        save_dir: str | Path | None = None,
        id: str | None = None,
        log_heads: bool | str = False,
        pictures: Sequence[str] = PICTURED,
        group: str | None = None,
        job_type: str = "fit",
        tags: Sequence[str] | None = None,
        artifact: bool = True,
    ) -> None:
        super().__init__()
        self.mode = pick_mode(mode)
        if self.mode != "disabled" and find_spec("wandb") is None:
            raise InputError("trainer.logger: the package wandb is missing: pip install wandb, or set it false.")
        self._heads = _pattern(log_heads)
        self._folder = Path(save_dir or ".").resolve()  # W&B's own process may have been started in another folder
        self._id, self._name, self._pictures, self._attaches = id or secrets.token_hex(4), name, pictures, artifact
        self._options: dict[str, Any] = {"project": project, "entity": entity, "name": name, "job_type": job_type}
        self._options |= {"id": self._id, "group": group, "tags": tags, "dir": str(self._folder)}
        self._early: list[tuple[int, dict[str, Any]]] = []  # logged before the run began
        self._has_begun = False
        self._last = 0  # newest step that was logged
        self._histogram_from = 0  # step from which attention logits are logged again
        self._journal = Journal(self._folder / "wandb" / "journal.jsonl")
        self._upload: Upload | None = None

    @property
    def name(self) -> str | None:
        return self._name

    @property
    def version(self) -> str:
        return self._id

    @property
    def save_dir(self) -> str:
        return str(self._folder)

    @property
    def experiment(self) -> Any:
        """The run of the wandb package; None until it has begun, and on ranks other than the first."""
        return self._upload and self._upload.run

    @rank_zero_only
    def begin(self, step: int) -> None:
        """Begin the run, or resume it at `step`."""
        if self.mode == "disabled" or self._upload is not None:
            return
        from dynamics.loggers.upload import Upload

        self._has_begun = True
        entries = self._journal.begin(step)
        steps = [entry.step for entry in entries if any(isinstance(value, dict) for value in entry.values.values())]
        self._histogram_from = 2 * max(steps, default=0)
        info = runs.read(self._folder) if (self._folder / "run.json").is_file() else RunInfo(run="")
        options = {**self._options, "tags": self._options["tags"] or about.tags(info)}
        options["group"] = options["group"] or about.group(info)
        self._upload = Upload(self._journal, options, self.mode, self._pictures)
        self._upload.begin(entries, about.config(info))
        for early in self._early:
            self._add(*early)
        self._early.clear()

    @rank_zero_only
    def log_values(self, values: Mapping[str, Any], step: int) -> None:
        """Log values under the number of updates made; attention logits at most once as that number doubles."""
        kept = {key: value for key, value in values.items() if self._is_logged(key)}
        if any(isinstance(value, dict) for value in kept.values()):
            if step < self._histogram_from:
                kept = {key: value for key, value in kept.items() if not isinstance(value, dict)}
            else:
                self._histogram_from = max(2 * step, 1)
        self._add(step, kept)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log what Lightning and its callbacks hand over: they count the result of update s as step s - 1."""
        values = {key: value if isinstance(value, str) else float(value) for key, value in metrics.items()}
        self._add((step or 0) + 1, values)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: W&B's config is `run.json`, which holds them."""

    @rank_zero_only
    def complete(self, step: int) -> None:
        if self._upload is not None:
            self._upload.complete(step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send what is left and close the run, so that the next one in this process is a new one."""
        if not self._has_begun and self._early and status == "success":
            self.begin(0)  # nobody has said where the run begins
        if self._upload is not None:
            self._upload.end(0 if status == "success" else 1, self._artifact)
            self._journal.close()
            self._upload = None

    def _is_logged(self, key: str) -> bool:
        return OF_HEAD.fullmatch(key) is None or (self._heads is not None and self._heads.fullmatch(key) is not None)

    def _add(self, step: int, values: dict[str, Any]) -> None:
        """Write values to the journal, and hand them over."""
        if self.mode == "disabled" or not values:
            return
        if self._upload is None:
            self._early.append((step, values))
            return
        self._last = max(self._last, step)
        self._upload.add(step, self._journal.append(step, values), values)

    def _artifact(self) -> "wandb.Artifact | None":
        return about.artifact(self._folder, self._name or self._id, self._last) if self._attaches else None


def pick_mode(mode: str | None) -> Literal["online", "offline", "disabled"]:
    """Return the mode that is set, here or in the environment; else `online`, from which a run falls back."""
    chosen = mode or os.environ.get("WANDB_MODE") or "online"
    if chosen in ("offline", "dryrun"):
        return "offline"
    return "disabled" if chosen == "disabled" else "online"


def _pattern(log_heads: bool | str) -> re.Pattern[str] | None:
    """Return what the keys of heads must match to be logged; None where none is."""
    try:
        return re.compile(".*" if log_heads is True else log_heads) if log_heads else None
    except re.error as error:
        raise InputError(
            f"log_heads {log_heads} is no regular expression ({error}): give true, false or one."
        ) from error
