"""The Lightning callback that measures a model while it learns."""

import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from dynamics.checkpoint import save_weights, weights_path
from dynamics.loggers.names import flat_name
from dynamics.measure import Measurement, Suite, measure
from dynamics.record import Record, Row
from dynamics.schedule import LogSpaced, Schedule


class Monitor(L.Callback):
    """Measures the geometry of `pl_module.network` at the scheduled steps, on the data module's probe batches.

    Nothing of the training is touched: mode, RNG and attention implementation are put back, so that a run with
    the monitor equals one without it to the bit.

    Args:
        metrics: names (or class paths) to measure, with their settings; the default suite when None.
        schedule: when to measure, step 0 and the last step always; powers of two when None.
        keep_weights: keep the weights of `all` measured steps, of the `last` one, or `none`, so that a metric
            invented later can be measured on the past.
    """

    def __init__(
        self,
        metrics: dict[str, dict[str, Any] | None] | list[str] | None = None,
        schedule: Schedule | None = None,
        keep_weights: Literal["all", "last", "none"] = "all",
    ) -> None:
        self.suite = Suite.parse(metrics)
        self.schedule = schedule or LogSpaced()
        self.keep_weights = keep_weights
        self.seconds = 0.0
        """Time spent measuring so far."""
        self._references: dict[str, torch.Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """What drift is measured against, and the time spent."""
        return {"references": self._references, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the references of the run that goes on."""
        self._references = state_dict["references"]
        self.seconds = state_dict["seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Plan the steps, cut the record back to where the run starts, and measure there if it is due."""
        folder = Path(trainer.default_root_dir)
        self._record = Record(folder)
        self._steps = self.schedule.steps(trainer.max_steps)
        self._measured = trainer.global_step if trainer.global_step > 0 else -1
        self._batches = trainer.datamodule.probe_batches()
        if trainer.is_global_zero:
            self._record.cut(trainer.global_step)
        self._measure_if_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Measure after the update if the step is due."""
        self._measure_if_due(trainer, pl_module)

    def _measure_if_due(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step = trainer.global_step
        if step not in self._steps or step == self._measured:
            return
        self._measured = step
        if trainer.is_global_zero:
            self._measure(trainer, pl_module, step)
        trainer.strategy.barrier()

    def _measure(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        started = time.monotonic()
        folder = Path(trainer.default_root_dir)
        result = measure(
            pl_module.network,
            self._batches,
            self.suite,
            run=folder.name,
            step=step,
            references=self._references,
        )
        self._references = {**result.references, **self._references}
        self._keep(folder, pl_module, step)
        seconds = time.monotonic() - started
        self.seconds += seconds
        self._write(trainer, folder.name, step, result, seconds)

    def _keep(self, folder: Path, pl_module: L.LightningModule, step: int) -> None:
        if self.keep_weights == "none" or (self.keep_weights == "last" and step != self._steps[-1]):
            return
        save_weights(pl_module.network, weights_path(folder, step))

    def _write(self, trainer: L.Trainer, run: str, step: int, result: Measurement, seconds: float) -> None:
        costs = {"measure_seconds": seconds}
        costs |= {f"measure_seconds/{name}": spent for name, spent in result.seconds.items()}
        rows = [
            *result.rows,
            *(Row(run, "", "", step, "cost", -1, -1, name, value) for name, value in costs.items()),
        ]
        self._record.write(step, rows, result.arrays)
        flat = {flat_name(row): row.value for row in rows}
        for logger in trainer.loggers:
            logger.log_metrics(flat, step)
