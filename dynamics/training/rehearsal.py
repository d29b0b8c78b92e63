"""What `dynamics fit` would do with its words, found out without a run: what it refuses, and how long it takes."""

import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from lightning.fabric.utilities.exceptions import MisconfigurationException

from dynamics import record, runs
from dynamics.config import RunOptions, split_options
from dynamics.errors import InputError
from dynamics.lightning_compat import quiet
from dynamics.run_info import FitInfo
from dynamics.training.describe import require_room
from dynamics.training.fit import set_up

TIMED_STEPS = 20  # of a run that is made to time its steps: two chunks of losses on a CPU
TIMED_SECONDS = 5  # after which it makes no further step
SHORT = {  # such a run trains, is measured at both ends, and keeps nothing
    "trainer.max_steps": TIMED_STEPS,
    "trainer.max_time": f"00:00:00:{TIMED_SECONDS:02}",
    "trainer.val_check_interval": TIMED_STEPS,
    "trainer.num_sanity_val_steps": 0,
    "trainer.limit_val_batches": 1,
    "trainer.logger": "false",
    "trainer.enable_progress_bar": "false",
    "monitor.schedule": json.dumps({"class_path": "dynamics.schedule.Every", "init_args": {"interval": TIMED_STEPS}}),
    "monitor.keep_weights": "none",
    "checkpoints.every": TIMED_STEPS,
}
# Facts of a run that its time depends on; of the options of its model, all but those that only decide values.
FACTS = (
    *("architecture", "model_class", "objective", "task", "layers", "width", "heads", "parameters", "context"),
    *("batch_size", "precision", "devices", "hardware", "metrics", "regularizers"),
)
ASIDE = ("seed", "learning_rate", "final_learning_rate", "warmup_steps", "warmup", "weight_decay", "betas")


class Costs(NamedTuple):
    """What a run takes, in seconds."""

    step: float  # an update
    measurement: float  # of all that is measured at a step


@dataclass(frozen=True)
class Work:
    """What a run has to do."""

    key: str  # equal in runs that take equally long
    parameters: int
    steps: int
    measurements: int
    max_overhead: float | None  # of measuring, as a share of training

    def seconds(self, costs: Costs) -> float:
        """Return how long it takes, without what comes before the first step, and without validation, which is short.

        >>> Work("", 9, 100, 3, None).seconds(Costs(0.5, 2.0)), Work("", 9, 100, 3, 0.1).seconds(Costs(0.5, 2.0))
        (56.0, 55.0)
        """
        training, measuring = self.steps * costs.step, self.measurements * costs.measurement
        most = measuring if self.max_overhead is None else self.max_overhead * training
        return training + min(measuring, most)


def rehearse(words: Sequence[str]) -> Work:
    """Set up the run that `dynamics fit` would make of `words`, and say what it has to do; nothing is written.

    Raises:
        InputError: what `dynamics fit` would refuse the words with.
    """
    with _silent():
        setup = set_up(split_options(words))
        require_room(setup.cli, setup.state)
    cli, last = setup.cli, setup.cli.trainer.max_steps
    measured = {step for steps in cli.monitor.steps(last).values() for step in steps}
    return Work(_key(setup.info), setup.info.parameters or 0, last, len(measured), cli.monitor.max_overhead)


def time_steps(words: Sequence[str]) -> Costs:
    """Return what a run of `words` takes by training a few steps in a temporary folder, for `TIMED_SECONDS` at most."""
    options = split_options(words)
    short = [word for key, value in SHORT.items() for word in (f"--{key}", str(value))]
    with TemporaryDirectory() as folder, _silent():
        run = Path(folder) / "timed"
        timed = RunOptions(options.configs, options.size, None, None, options.allowed, [*options.rest, *short])
        set_up(timed, folder=run).train()
        costs = read_costs(run)
    assert costs is not None  # it has trained
    return costs


def earlier_costs() -> dict[str, Costs]:
    """Return what the newest runs under `checkpoints/` took, by the key of `Work`; those that cannot be read aside."""
    found = {}
    for path in sorted(runs.CHECKPOINTS.glob("*/run.json"), key=lambda path: path.stat().st_mtime):
        try:
            info = runs.read(path.parent)
            costs = read_costs(path.parent) if isinstance(info, FitInfo) else None
        except InputError:
            continue
        if isinstance(info, FitInfo) and costs is not None:
            found[_key(info)] = costs
    return found


def read_costs(folder: Path) -> Costs | None:
    """Return what the run in `folder` took, by the cost rows of its record; None where it has none."""
    rows = record.read(folder)
    rows = rows[rows["site"] == "cost"].sort_values("step")
    steps, measurements = (
        rows.loc[rows["metric"] == name, "value"].tolist() for name in ("step_seconds", "measure_seconds")
    )
    if not steps:
        return None
    return Costs(_usual(steps), _usual(measurements) if measurements else 0.0)


def _usual(seconds: Sequence[float]) -> float:
    """Return the median without the first value where there are others: the first steps compile and allocate."""
    return median(seconds[1:] if len(seconds) > 1 else seconds)


@contextmanager
def _silent() -> Iterator[None]:
    """Print nothing of what a run says of itself, and refuse in our words what Lightning refuses."""
    quiet()
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except MisconfigurationException as error:
        raise InputError(" ".join(str(error).split())) from error
    finally:
        logging.disable(disabled)


def _key(info: FitInfo) -> str:
    facts = {name: getattr(info, name) for name in FACTS}
    model: Any = {key: value for key, value in info.model.items() if key not in ASIDE}
    return json.dumps([facts, model], sort_keys=True, default=str)
