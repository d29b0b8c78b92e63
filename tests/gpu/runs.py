"""`dynamics fit` on the simulated device, with the phases of a run: step, validate, measure, save."""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from dynamics.cli.main import main
from dynamics.training.checkpoint import Checkpoints
from dynamics.training.monitor import Monitor
from tests.gpu.device import Device
from tests.runs import CONFIGS, arguments
from tests.tuning import checkpoint, sst2

ARMS = ("decoder", "encoder", "causal-mlm", "finetune")
STEADY = range(5, 55)  # updates before the steps that are counted: one chunk of losses is read in them
SETTINGS = {
    "trainer.accelerator": "cuda",
    "trainer.devices": 1,
    "trainer.precision": "bf16-mixed",
    "trainer.logger": "false",
    "trainer.enable_progress_bar": "false",
    "monitor.keep_weights": "none",
}


@contextmanager
def phases(device: Device) -> Iterator[None]:
    """Name the phases of a run: `step`, where steady, `other step`, `first measure`, `measure`, `validate`, `save`."""
    names: list[tuple[type, str, Any]] = [
        (_TrainingEpochLoop, "advance", lambda loop, *_: "step" if loop.global_step in STEADY else "other step"),
        (_EvaluationLoop, "run", lambda *_: "validate"),
        (Monitor, "_measure", lambda monitor, trainer, *_: "measure" if trainer.global_step else "first measure"),
        (Checkpoints, "save", lambda *_: "save"),
    ]
    with ExitStack() as stack:
        for owner, function, name in names:
            named = _named(device, getattr(owner, function), name)
            stack.enter_context(mock.patch.object(owner, function, named))
        yield


def _named(device: Device, function: Any, name: Any) -> Any:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with device.phase(name(*args)):
            return function(*args, **kwargs)

    return run


def write_text(path: Path) -> None:
    """Write words enough for the windows of every size."""
    words = np.random.default_rng(0).choice(["the", "cat", "sat", "on", "a", "mat", "quietly"], size=60_000)
    path.write_text(" ".join(words))


def train(arm: str, size: str, folder: Path, *words: str, **settings: Any) -> Device:
    """Train one arm in the working directory, on text and models made in `folder`; return what was counted.

    `settings` use __ for the dot.
    """
    chosen = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if arm == "finetune":
        config = ["--config", str(CONFIGS / "finetune.yaml"), "--data.task", "sst2", "--data.probe_tokens", "256"]
        config += ["--model.checkpoint", str(checkpoint(folder / "model")), "--data.path", str(sst2(folder / "sst2"))]
    else:
        text = folder / "text.txt"
        write_text(text)
        config = ["--config", str(CONFIGS / f"{arm}.yaml"), "--size", size, "--data.corpus", str(text)]
        config += ["--model.compile", "false", "--data.validation_windows", "4"]
    with Device() as device, phases(device):
        main(["fit", *config, *arguments(chosen), *words])
    return device


def train_steps(arm: str, size: str, folder: Path, *words: str, **settings: Any) -> Device:
    """Train until the steady steps are counted: what a step does depends neither on the batch nor on the metrics."""
    last = STEADY.stop + 1
    chosen = {"data__batch_size": 2, "metrics": "[mean_norm]", "trainer__max_steps": last} | settings
    every = f"{{class_path: dynamics.schedule.Every, init_args: {{interval: {last}}}}}"
    run = ("--run", f"steps-{arm}", "--monitor.schedule", every)
    return train(arm, size, folder, *run, *words, **{"trainer__val_check_interval": last} | chosen)


def train_and_measure(arm: str, size: str, folder: Path, *words: str, **settings: Any) -> Device:
    """Measure the default suite before a step, and again after it."""
    chosen = {"trainer__max_steps": 1, "trainer__val_check_interval": 1} | settings
    return train(arm, size, folder, "--run", f"measure-{arm}", *words, **chosen)
