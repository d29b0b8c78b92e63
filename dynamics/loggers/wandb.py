"""Weights & Biases as a view of the record: exact metric names, one row a log call."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_only

from dynamics.errors import InputError
from dynamics.lightning_compat import detach_experiment

STEP = "trainer/global_step"
PATIENCE = 600  # seconds that W&B's own process may take to start, or to write what it holds


def pick_mode() -> str:
    """Return `online` where a key is configured and its server answers, else `offline`: no run fails for a view."""
    try:
        return "online" if wandb.login(prompt=False) else "offline"
    except wandb.Error as error:
        print(f"W&B is logged offline, `wandb sync` sends it later: {' '.join(str(error).split())}")
        return "offline"


class WandbLogger(LightningWandbLogger):
    """Lightning's logger, online where a key is configured, else offline without a question.

    Every key is bound to the step by its exact name: among overlapping globs the client picks one at random. What W&B
    prints of a run is one line; its warnings and errors are shown.

    Args:
        project: W&B project.
        entity: W&B user or team; the account's default when None.
        mode: `online`, `offline` or `disabled`; when None, `WANDB_MODE`, else `pick_mode`.
        name: the run's name; the command line fills it in.
        save_dir: the run's folder; the command line fills it in.
        id: under which W&B holds the run; the command line fills it in, the same when the run resumes.
    """

    def __init__(
        self,
        project: str = "dynamics",
        entity: str | None = None,
        mode: str | None = None,
        name: str | None = None,
        save_dir: str | Path | None = None,
        id: str | None = None,
    ) -> None:
        wandb.setup(wandb.Settings(show_info=False, x_service_wait=PATIENCE))
        self.mode = mode or os.environ.get("WANDB_MODE") or pick_mode()
        # Whole paths: W&B's own process may have been started in another folder.
        super().__init__(name=name, save_dir=Path(save_dir or ".").resolve(), project=project, id=id)
        self._run: dict[str, Any] = {"name": name, "project": project, "entity": entity, "id": id, "mode": self.mode}
        self._defined: set[str] = set()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the W&B run, begun or resumed at the first call."""
        if self._experiment is None:
            # Only a server may keep a run waiting; without one it is this machine that is slow.
            first, last = (PATIENCE, PATIENCE) if self.mode == "offline" else (20, 60)
            settings = wandb.Settings(quiet=True, console="off", init_timeout=first, finish_timeout=last)
            try:
                run = wandb.init(**self._run, dir=self.save_dir, resume="allow", settings=settings)
            except wandb.Error as error:
                why = " ".join(str(error).split())
                raise InputError(
                    f"W&B does not begin a run ({why}): set trainer.logger.init_args.mode offline."
                ) from error
            self._experiment = run
            self._report(run)
        return self._experiment

    def _report(self, run: Any) -> None:
        if self.mode == "offline":
            print(f"W&B is logged offline; send it later: wandb sync {os.path.relpath(Path(run.dir).parent)}")
        elif run.url:
            print(f"W&B: {run.url}")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for key in metrics:
            if key not in self._defined:
                self.experiment.define_metric(key, step_metric=STEP)
                self._defined.add(key)
        super().log_metrics(dict(metrics), step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the run, so that the next one in this process is a new one."""
        if (experiment := detach_experiment(self)) is not None:
            experiment.finish(exit_code=0 if status == "success" else 1)
            self._defined.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_defined": set()}
