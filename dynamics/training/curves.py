"""The learning curves and the cost of a run, written to the record and passed to the loggers."""

import time
from collections.abc import Collection, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from dynamics.files import Writer
from dynamics.lineage import newest_values
from dynamics.loggers.names import begin, complete, log_rows
from dynamics.metrics.streaming.transfer import to_host
from dynamics.record import Record, Row
from dynamics.training.health import Health

CHUNK, DEVICE_CHUNK = 10, 50  # steps whose losses leave a CPU, and another device, together; divisors of the block
FLUSH_SECONDS = 3.0
NOTICES = {"loss_spike", "skipped_updates"}  # they go to the loggers at whatever step they happen
NOT_FINITE = "what the network computed is not finite"


class Curves(L.Callback):
    """Training loss at every step, validation loss at every pass, and what a step costs.

    The row at step s (after s updates) is the loss that produced update s, averaged over ranks and accumulated
    shares. With regularisers there are also `task_loss`, each term, and the quantity behind it (`isoscore_star`). A
    spike of the loss has a row `loss_spike` (standard deviations), an update that was skipped one of `skipped_updates`
    (their number so far).
    """

    # First: the clock of a step stops before measuring starts, and training is ended (below) before anyone asks
    # whether a validation follows.
    priority: ClassVar[int] = 40

    def __init__(self, health: Health | None = None) -> None:
        self._health = health or Health()
        self.latest: dict[str, float] = {}  # newest values by flat name, for the progress bar
        self.writer = Writer()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        self._run, self._record = folder.name, Record(folder, self.writer)
        self._values: list[tuple[int, Tensor]] = []
        self._shares: list[Tensor] = []
        self._seconds, self._flushed = 0.0, time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Cut what is recorded and logged after the step that the run starts from, known now that it is restored."""
        self._step = trainer.global_step
        if trainer.is_global_zero:
            self._record.cut(self._step)
            begin(trainer.loggers, self._step)
            self._health.begin(newest_values(self._record, "train", "loss", self._step, self._health.window))
        if guard := getattr(pl_module, "guard", None):
            guard.allowed = self._health.skip

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self._started = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: object) -> None:
        """Keep the loss on its device; fetch losses in chunks."""
        self._seconds += time.monotonic() - self._started
        # Lightning has divided the loss of each share by their number, but not its terms.
        shares, terms = trainer.accumulate_grad_batches, getattr(pl_module, "terms", {})
        values = [outputs["loss"].detach(), *(value / shares for value in terms.values())]
        self._names = ["loss", *terms]
        self._shares.append(torch.stack([value.float() for value in values]))
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        first, *others = self._shares
        self._values.append((self._step, sum(others, first)))
        self._shares.clear()
        chunk = CHUNK if pl_module.device.type == "cpu" else DEVICE_CHUNK
        if self._step % chunk == 0 or self._step == trainer.max_steps:
            self._collect(trainer)
        if self._step == trainer.max_steps:
            trainer.should_stop = True  # else Lightning would not validate at the last step

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the validation rows at the step that they belong to; Lightning's first check gives step 0, if whole."""
        is_part = trainer.sanity_checking and sum(trainer.num_sanity_val_batches) < sum(trainer.num_val_batches)
        if trainer.state.fn != "fit" or is_part:
            return
        self._collect(trainer)
        metrics = trainer.callback_metrics
        read = zip(metrics, to_host(list(metrics.values())), strict=True)
        values = {key.removeprefix("validation/"): float(x) for key, x in read if key.startswith("validation/")}
        self._add(trainer, trainer.global_step, "validation", values)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write all rows up to a training state: a run that resumes from it does not compute them again."""
        self._collect(trainer)
        self._record.flush()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_save_checkpoint(trainer, pl_module, {})

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if getattr(self, "_values", None) and trainer.world_size == 1:
            self._collect(trainer, is_failing=True)
        if trainer.is_global_zero and getattr(self, "_record", None) is not None:
            self._record.flush()

    def _collect(self, trainer: L.Trainer, is_failing: bool = False) -> None:
        if not self._values:
            return
        started = time.monotonic()
        steps = [step for step, _ in self._values]
        values = trainer.strategy.reduce(torch.stack([values for _, values in self._values]))
        guard = getattr(trainer.lightning_module, "guard", None)
        rows = (guard.fetch(values) if guard and not is_failing else values).tolist()
        self._values.clear()
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        # A device works asynchronously: the fetch above has waited for it, so that its time counts too.
        seconds, self._seconds = (self._seconds + now - started) / len(steps), 0.0
        describe = getattr(trainer.lightning_module, "train_values", dict)
        for step, values in zip(steps, rows, strict=True):
            named = describe(dict(zip(self._names, values, strict=True)))
            notices = self._notices(step, named["loss"], guard.skipped if guard else ())
            self._add(trainer, step, "train", {**named, **notices})
        self._add(trainer, steps[-1], "cost", {"step_seconds": seconds})
        complete(trainer.loggers, steps[-1] - 1)  # the last one may still be measured, or validated
        if now - self._flushed > FLUSH_SECONDS:
            self._record.flush()
            self._flushed = now

    def _notices(self, step: int, loss: float, skipped: Collection[int]) -> dict[str, float]:
        spike, count = self._health.spike(step, loss), sum(at <= step for at in skipped)
        notices = {} if spike is None else {"loss_spike": spike}
        return notices | ({"skipped_updates": float(count)} if step in skipped else {})

    def _add(self, trainer: L.Trainer, step: int, site: str, values: Mapping[str, float]) -> None:
        if trainer.is_global_zero:
            about = (self._run, "", "", step, site, -1, -1)
            reasons = {name: "" if isfinite(value) else NOT_FINITE for name, value in values.items()}
            rows = [Row(*about, name, value, reason=reasons[name]) for name, value in values.items()]
            self._record.add_curves(rows)
            often: int = getattr(trainer, "log_every_n_steps", 1)
            is_logged = site == "validation" or (often > 0 and step % often == 0) or not NOTICES.isdisjoint(values)
            self.latest |= log_rows(trainer.loggers if is_logged else [], rows, step)
