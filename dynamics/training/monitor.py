"""The Lightning callback that measures a model while it learns."""

import json
import logging
import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from dynamics.errors import InputError
from dynamics.files import write_atomically
from dynamics.loggers.names import flat_name
from dynamics.measure import Measurement, measure
from dynamics.measure.suite import Suite
from dynamics.record import Record, Row
from dynamics.schedule import LogSpaced, Schedule
from dynamics.training.checkpoint import save_weights, weights_path
from dynamics.training.plan import Plan, plan

log = logging.getLogger(__name__)

PLANNED_FROM = 16
"""The plan under `max_overhead` is made at the first measured step from here on: steps are timed by then."""


class Monitor(L.Callback):
    """Measures the geometry of `pl_module.network` at the scheduled steps, on the data module's probe batches.

    Nothing of the training is touched: mode, RNG and attention implementation are put back, so that a run with
    the monitor equals one without it to the bit.

    Args:
        metrics: names (or class paths) to measure, with their settings; the default suite when None.
        schedule: when to measure, step 0 and the last step always; powers of two when None.
        keep_weights: keep the weights of `all` measured steps, of the `last` one, or `none`, so that a metric
            invented later can be measured on the past.
        max_overhead: most that measuring may add to the time of training, as a share of it; no limit when None.
            The plan that keeps to it is made once, stored as `plan.json`, and obeyed when the run goes on.
        plan: a `plan.json` to obey: twins measured under a limit must share one.
    """

    def __init__(
        self,
        metrics: dict[str, dict[str, Any] | None] | list[str] | None = None,
        schedule: Schedule | None = None,
        keep_weights: Literal["all", "last", "none"] = "all",
        max_overhead: float | None = None,
        plan: str | None = None,
    ) -> None:
        if max_overhead is not None and not max_overhead > 0:
            raise InputError(
                f"monitor.max_overhead must be a positive share of the training time (got {max_overhead})."
            )
        self.suite = Suite.parse(metrics)
        self.schedule = schedule or LogSpaced()
        self.keep_weights = keep_weights
        self.max_overhead = max_overhead
        self.plan = None if plan is None else read_plan(Path(plan))
        self.seconds = 0.0
        """Time spent measuring so far."""
        self._references: dict[str, torch.Tensor] = {}

    def steps(self, last: int) -> Plan:
        """The steps of every metric in a run of `last` updates: the plan's, or the schedules'."""
        wanted, planned = self.suite.steps(self.schedule, last), self.plan or {}
        return {name: planned.get(name, steps) for name, steps in wanted.items()}

    def state_dict(self) -> dict[str, Any]:
        """What drift is measured against, the time spent, and the plan."""
        return {"references": self._references, "seconds": self.seconds, "plan": self.plan}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the references and the plan of the run that goes on."""
        self._references = state_dict["references"]
        self.seconds = state_dict["seconds"]
        self.plan = state_dict["plan"] or self.plan

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure where the run starts, if it is due there."""
        self._record = Record(Path(trainer.default_root_dir))
        self._steps = self.steps(trainer.max_steps)
        self._measured = trainer.global_step if trainer.global_step > 0 else -1
        self._batches = trainer.datamodule.evaluation_batches()
        self._costs: dict[str, float] = {}
        self._measure_if_due(trainer, pl_module)
        self._started = time.monotonic(), trainer.global_step, self.seconds

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Measure after the update if the step is due."""
        self._measure_if_due(trainer, pl_module)

    def _measure_if_due(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step = trainer.global_step
        due = {name for name, steps in self._steps.items() if step in steps}
        if not due or step == self._measured:
            return
        self._measured = step
        if trainer.is_global_zero:
            self._measure(trainer, pl_module, step, due)
            if self.max_overhead is not None and self.plan is None and step >= PLANNED_FROM:
                self._make_plan(trainer, step)
        self.plan = trainer.strategy.broadcast(self.plan)
        self._steps = self.steps(trainer.max_steps)

    def _measure(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int, due: set[str]) -> None:
        started = time.monotonic()
        folder = Path(trainer.default_root_dir)
        result = measure(
            pl_module.network,
            self._batches,
            self.suite.only(due),
            run=folder.name,
            step=step,
            references=self._references,
            all_ranks=False,
        )
        self._references = result.references
        if self.keep_weights == "all" or (self.keep_weights == "last" and step == trainer.max_steps):
            save_weights(pl_module.network, weights_path(folder, step))
        self._costs |= result.seconds
        seconds = time.monotonic() - started
        self.seconds += seconds
        self._write(trainer, folder.name, step, result, seconds)

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

    def _make_plan(self, trainer: L.Trainer, step: int) -> None:
        clock, first, measured = self._started
        training = time.monotonic() - clock - (self.seconds - measured)
        whole = training / max(1, step - first) * trainer.max_steps
        budget = self.max_overhead * whole - self.seconds
        self.plan = plan(self._steps, self._costs, budget, step)
        text = json.dumps(self.plan, indent=1)
        write_atomically(Path(trainer.default_root_dir) / "plan.json", lambda file: file.write(text.encode()))
        thinned = sorted(name for name, steps in self.plan.items() if steps != self._steps[name])
        log.warning(
            "measuring is held to %.0f %% of training: %s",
            100 * self.max_overhead,
            ", ".join(thinned) or "no change",
        )


def read_plan(path: Path) -> Plan:
    """The plan that a run stored.

    Raises:
        InputError: the file is missing or not a plan.
    """
    try:
        content = json.loads(path.read_text())
        return {str(name): tuple(int(step) for step in steps) for name, steps in content.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"monitor.plan: {path} is not the plan.json of a run ({error}).") from error
