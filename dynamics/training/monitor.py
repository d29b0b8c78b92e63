"""The Lightning callback that measures a model while it learns."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import lightning as L
import torch
from pydantic import NonNegativeInt
from transformers import PreTrainedModel

from dynamics.capture.state import held_still
from dynamics.capture.tap import layout_of
from dynamics.capture.weights import find_weights
from dynamics.errors import InputError
from dynamics.files import Writer, write_text
from dynamics.lightning_compat import get_datamodule
from dynamics.loggers.names import log_rows
from dynamics.measure import Measurement, Meter, Share, measure, united
from dynamics.measure.suite import Suite
from dynamics.readers import read_json
from dynamics.record import Record, Row
from dynamics.runs import weights_path
from dynamics.schedule import LogSpaced, Schedule
from dynamics.sharded import is_sharded, whole_weights
from dynamics.training.checkpoint import save_weights
from dynamics.training.fully_sharded import FullySharded
from dynamics.training.plan import Plan, plan, price
from dynamics.training.ranks import on_every_rank, on_first_rank

log = logging.getLogger(__name__)

# The plan of `max_overhead` is made at the first measured step from the second on, counted from where the run starts;
# steps are timed from the first: before it they compile, and measuring learns where layers lie.
TIMED_FROM, PLANNED_FROM = 8, 16
FEW = 13  # tokens that tell where weights lie in our own network, which takes a text of any length


class Monitor(L.Callback):
    """Measures the geometry of `pl_module.network` at the scheduled steps, on the data module's evaluation tokens.

    Several ranks share the layers out, and the first one writes. Training is not affected: mode, RNG and attention
    implementation are restored, so that a run with the monitor equals a run without it to the bit.

    Args:
        metrics: names (or class paths) to measure, with their settings; the default suite when None.
        schedule: when to measure, step 0 and the last step always; powers of two when None.
        keep_weights: measured weights that are kept, `all`, the `last` or `none`: on these a metric invented later
            can be measured.
        max_overhead: most that measuring may add to the time of training, as a share of it, compilation and warm-up
            of both aside; no limit when None.
            The plan that keeps to it is made once, stored as `plan.json`, and followed when the run resumes.
        plan: a `plan.json` to follow: twins measured under a limit must share one.
        strict: refuse to train where a metric that was asked for has no value at the first measurement.
    """

    priority: ClassVar[int] = 30
    """Before `Checkpoints`: a state holds the references and the plan as they are after its own step."""
    clock = staticmethod(time.monotonic)

    def __init__(
        self,
        metrics: dict[str, dict[str, Any] | None] | list[str] | None = None,
        schedule: Schedule | None = None,
        keep_weights: Literal["all", "last", "none"] = "all",
        max_overhead: float | None = None,
        plan: str | None = None,
        strict: bool = False,
    ) -> None:
        if max_overhead is not None and not max_overhead > 0:
            raise InputError(f"monitor.max_overhead must be positive (got {max_overhead}).")
        self.suite, self.schedule = Suite.parse(metrics), schedule or LogSpaced()
        self.keep_weights, self.max_overhead, self.strict = keep_weights, max_overhead, strict
        self.plan = None if plan is None else read_plan(Path(plan))
        self.begins = 0  # the step that the run begins at: of a fork, that of its parent's state
        self.seconds = 0.0  # seconds spent measuring so far
        self.writer = Writer()
        self._references: dict[str, torch.Tensor] = {}
        self._seen: set[str] = set()

    def steps(self, last: int) -> Plan:
        """Return the steps of every metric in a run of `last` updates: those of the plan, else of the schedules.

        The step that a fork begins at is one of them: what the change itself does, before any update.
        """
        scheduled, planned = self.suite.steps(self.schedule, last), self.plan or {}
        chosen = {name: planned.get(name, steps) for name, steps in scheduled.items()}
        if not self.begins:
            return chosen
        return {name: (self.begins, *(s for s in steps if s > self.begins)) for name, steps in chosen.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"references": self._references, "seconds": self.seconds, "plan": self.plan}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._references, self.seconds = state_dict["references"], state_dict["seconds"]
        self.plan = state_dict["plan"] or self.plan

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Learn where weights lie before the network goes into shards or, if ours, to a GPU: that is many launches."""
        if stage != "fit":
            return
        network, first = cast(PreTrainedModel, pl_module.network), get_datamodule(trainer).evaluation_batches()[0]
        is_ours, is_joint = type(network).__module__.startswith("dynamics."), isinstance(trainer.strategy, FullySharded)
        if is_joint:  # later a rank that did not know its layers would need a pass that the others do not make
            with held_still(network):
                layout_of(network, lambda: network(**first))
        if "weight" in self.suite.sites and (is_ours or is_joint):
            find_weights(network, {"input_ids": first["input_ids"][:1, :FEW]} if is_ours else first)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the step that the run starts from, if it is due."""
        self._record = Record(Path(trainer.default_root_dir), self.writer)
        self._follow(self.steps(trainer.max_steps))
        self._measured = trainer.global_step if trainer.global_step > self.begins else -1
        self._batches = get_datamodule(trainer).evaluation_batches()
        self._costs: dict[str, float] = {}
        self._first, self._timed_from = trainer.global_step, (0.0, 0, 0.0)
        self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Measure after the update (or before any) if the step is due."""
        step = trainer.global_step
        due = self._due.get(step)
        if due and step != self._measured:
            self._measured, network, started = step, cast(PreTrainedModel, pl_module.network), self._now()
            parts = on_every_rank(lambda: self._measure(trainer, network, step, due), is_joint=is_sharded(network))
            self._references = (result := united(parts)).references
            weights = None
            if is_sharded(network):
                weights = whole_weights(network, trainer.is_global_zero)  # leaves the network in shards
            self.plan = on_first_rank(lambda: self._keep(trainer, network, weights, step, result, started))
            self._follow(self.steps(trainer.max_steps))
        if step == self._first + TIMED_FROM > self._timed_from[1]:
            self._timed_from = self._now(), step, self.seconds

    def is_due(self, step: int) -> bool:
        """Return whether anything is measured at a step of the run."""
        return step in self._due

    def _follow(self, steps: Plan) -> None:
        """Take the steps of every metric, and what is due at each step: looked up after every update."""
        self._steps = steps
        self._due: dict[int, set[str]] = {}
        for name, due in steps.items():
            for step in due:
                self._due.setdefault(step, set()).add(name)

    def _measure(self, trainer: L.Trainer, network: PreTrainedModel, step: int, due: set[str]) -> Measurement:
        """Measure this rank's part of what is due."""
        about: dict[str, Any] = {"run": Path(trainer.default_root_dir).name, "step": step}
        share = Share(trainer.global_rank, trainer.world_size)
        with each_once(Meter.__module__, self._seen):
            return measure(
                network, self._batches, self.suite.only(due), **about, references=self._references, share=share
            )

    def _keep(
        self,
        trainer: L.Trainer,
        network: PreTrainedModel,
        weights: Mapping[str, torch.Tensor] | None,
        step: int,
        result: Measurement,
        started: float,
    ) -> Plan | None:
        """Record what was measured; return the plan to follow from here, if there is one."""
        folder = Path(trainer.default_root_dir)
        if self.strict and result.missing:
            missing = "; ".join(f"{entry.metric} at {entry.site}: {entry.reason}" for entry in result.missing)
            raise InputError(f"monitor.strict: {missing}; remove it from monitor.metrics, or leave strict out.")
        if self.keep_weights == "all" or (self.keep_weights == "last" and step == trainer.max_steps):
            save_weights(network, weights_path(folder, step), self.writer, weights)
        seconds = self._now() - started
        self.seconds += seconds
        of_metrics = sum(result.seconds.values()) - result.seconds["forward"]
        self._costs |= {**result.seconds, "forward": seconds - of_metrics}
        costs = {"measure_seconds": seconds, **{f"measure_seconds/{name}": x for name, x in result.seconds.items()}}
        cost_rows = [Row(folder.name, "", "", step, "cost", -1, -1, name, value) for name, value in costs.items()]
        self._record.write(step, [*result.recorded, *cost_rows], result.arrays)
        log_rows(trainer.loggers, [*result.rows, *cost_rows], step, result.arrays)
        if self.max_overhead is not None and self.plan is None and step >= self._first + PLANNED_FROM:
            return self._make_plan(trainer, step, self.max_overhead)
        return self.plan

    def _make_plan(self, trainer: L.Trainer, step: int, max_overhead: float) -> Plan:
        """Return the plan that keeps to the limit, by the speed of the run so far, and store it."""
        started, first, measured = self._timed_from
        training = self._now() - started - (self.seconds - measured)
        whole = training / (step - first) * trainer.max_steps
        spent = price({name: tuple(s for s in due if s <= step) for name, due in self._steps.items()}, self._costs)
        steps = plan(self._steps, self._costs, max_overhead * whole - spent, step)
        write_text(Path(trainer.default_root_dir) / "plan.json", json.dumps(steps, indent=1))
        thinned = ", ".join(sorted(name for name in steps if steps[name] != self._steps[name]))
        log.warning("measuring is limited to %.0f %% of training: %s", 100 * max_overhead, thinned or "no change")
        return steps

    def _now(self) -> float:
        """Return the time once all work is done that a GPU has been given."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return self.clock()


@contextmanager
def each_once(name: str, seen: set[str]) -> Iterator[None]:
    """Have a logger leave out what it has logged before, as `seen` holds."""

    def is_new(record: logging.LogRecord) -> bool:
        count = len(seen)
        seen.add(record.getMessage())
        return len(seen) > count

    logger = logging.getLogger(name)
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def read_plan(path: Path) -> Plan:
    try:
        content = read_json(path, dict[str, list[NonNegativeInt]], "name the plan.json of a run")
    except InputError as error:
        raise InputError(f"monitor.plan: {error}") from error
    for name, steps in content.items():
        if sorted(set(steps)) != steps:
            raise InputError(f"monitor.plan: {path} must hold ascending steps from 0 on for {name} (got {steps}).")
    return {name: tuple(steps) for name, steps in content.items()}
