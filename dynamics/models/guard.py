"""The check before every update: the gradient is clipped and a bad update skipped, without waiting for the device.

Each of `optimizers.py` divides gradients by `optimizer.grad_scale`, and skips an update where `optimizer.found_inf` is
not 0. Both are computed on the device; what was bad is read some steps later, and the run then ends with the first bad
step, unless it may skip some.
"""

import logging
from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dynamics.errors import Failure
from dynamics.sharded import whole

log = logging.getLogger(__name__)

READ_EVERY = 50  # updates after which a device is asked, if nobody fetches; a CPU, which has no queue, is asked at once
TASK = "task_loss"
GRADIENT = "gradient"
SPELLED = {TASK: "the task loss", GRADIENT: "the gradient of the loss"}


class _Check(NamedTuple):
    step: int  # the update that the values belong to
    names: list[str]
    values: Tensor  # one for each name
    is_bad: Tensor  # 0-d: 1 where a value of any rank is not finite, else 0


class Guard:
    """Skips updates that are not finite, and ends the run with the first that it may not skip, once that is read."""

    def __init__(self) -> None:
        self.allowed = 0  # updates that a run may skip
        self.skipped: dict[int, str] = {}  # by step, what was wrong with it
        self._checks: list[_Check] = []
        self._norm: Tensor | None = None

    def before_update(
        self, optimizer: torch.optim.Optimizer, step: int, terms: Sequence[tuple[str, Tensor]], is_scaled: bool
    ) -> None:
        """Check the terms of the loss and, unless a scaler (`is_scaled`, fp16) does, the gradient's norm."""
        names, values = [name for name, _ in terms], [value.float() for _, value in terms]
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._norm = None
        if gradients and not is_scaled:
            self._norm = whole(torch.nn.utils.get_total_norm(gradients))
            names, values = [*names, GRADIENT], [*values, self._norm.float()]
        stacked = torch.stack(values)
        is_bad = (0 * stacked).sum().nan_to_num(nan=1.0)  # 0 times a value is NaN unless that is finite
        if dist.is_initialized():
            dist.all_reduce(is_bad, op=dist.ReduceOp.MAX)
        if not is_scaled:
            optimizer.found_inf = is_bad  # type: ignore[attr-defined]
        self._checks.append(_Check(step, names, stacked, is_bad))
        if is_at_once(stacked.device) or len(self._checks) > READ_EVERY:
            self.read()

    def clip(self, optimizer: torch.optim.Optimizer, norm: float | None) -> None:
        """Have the update scale the gradient to at most `norm` (None or 0: as it is)."""
        scale = (self._norm / norm).clamp(min=1.0).float() if norm and self._norm is not None else None
        optimizer.grad_scale = scale  # type: ignore[attr-defined]

    def read(self) -> None:
        """Raise `Failure` for an update that was skipped and not allowed to; waits for the device."""
        if self._checks:
            self.fetch(self._checks[0].values[:0])

    def fetch(self, values: Tensor) -> Tensor:
        """Return float32 values on the host, after a `read`: one wait for both."""
        checks, self._checks = self._checks, []
        host = torch.cat([values.flatten(), *(check.is_bad[None] for check in checks)]).cpu()
        for bad in host[values.numel() :].nonzero().flatten().tolist():
            failure = _failure(checks[bad])
            if len(self.skipped) >= self.allowed:
                raise failure
            self.skipped[checks[bad].step] = str(failure)
            log.warning("%s (%d of %d that may be skipped)", failure, len(self.skipped), self.allowed)
        return host[: values.numel()].view(values.shape)


def _failure(check: _Check) -> Failure:
    """Return the error that names what was the first not to be finite."""
    pairs = list(zip(check.names, check.values.tolist(), strict=True))
    first = next((name for name, value in pairs if not isfinite(value)), check.names[0])
    others = ", ".join(f"{name} {value:.4g}" for name, value in pairs if name != first)
    value = dict(pairs)[first]
    state = "not finite (on another rank)" if isfinite(value) else f"{value:.4g}"
    return Failure(
        f"{SPELLED.get(first, first)} was the first to be {state}, at step {check.step} ({others}): the update was not "
        "made."
    )


def is_at_once(device: torch.device) -> bool:
    """Return whether a value of the device is there when it is asked for: no queue makes the host wait."""
    return device.type == "cpu"
