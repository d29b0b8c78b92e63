"""Weights & Biases as a view of the record: exact metric names, one row a log call."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_only

STEP = "trainer/global_step"


class WandbLogger(LightningWandbLogger):
    """Lightning's logger, online where a key is configured and offline without asking elsewhere.

    Every key is bound to the step by its exact name: among overlapping globs the client picks one at random.

    Args:
        project: W&B project.
        entity: W&B user or team; the account's default when None.
        mode: `online`, `offline` or `disabled`; when None, what `WANDB_MODE` says, else online with a key.
        name: the run's name; the command line fills it in.
        save_dir: the run's folder; the command line fills it in.
    """

    def __init__(
        self,
        project: str = "dynamics",
        entity: str | None = None,
        mode: str | None = None,
        name: str | None = None,
        save_dir: str | Path | None = None,
    ) -> None:
        self.mode = (
            mode or os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        )
        settings = wandb.Settings(quiet=True, console="off", init_timeout=20, finish_timeout=60)
        super().__init__(
            name=name,
            save_dir=save_dir or ".",
            project=project,
            entity=entity,
            mode=self.mode,
            settings=settings,
        )
        self._defined: set[str] = set()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log one row against `trainer/global_step`."""
        for key in metrics:
            if key not in self._defined:
                self.experiment.define_metric(key, step_metric=STEP)
                self._defined.add(key)
        super().log_metrics(dict(metrics), step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the run, so that a second one in this process starts afresh."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None
            self._defined.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_defined": set()}
