"""What a run costs beside its steps: `dynamics fit` whole and without some of its parts, against the bare step loop.

    python benchmarks/overhead.py [--size small|tiny|base] [--steps 2000] [--rounds 3] [--clock wall|processor]
                                  [--json FILE] [--text FILE]

The bare loop is that of `benchmarks/training.py`, with its sizes: the same model, batches and update without
Lightning. A run is timed from before its first measurement to after its last file: data, logging (W&B offline, where
it is installed), progress, validation, the default schedule of the monitor, weights and states. The variants are
interleaved; a ratio is the speed of a run over the bare loop's in the same round: the median over rounds, with the
least and the greatest. On a machine with other work, compare processor times (all threads, the writer's included).
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from training import SIZES, Size, ours

from dynamics.cli.main import main as dynamics
from dynamics.cli.memory import reuse_memory

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "decoder.yaml"
WITHOUT_LOGGER = {"trainer.logger": "false"}
WITHOUT_MONITOR = {
    "metrics": "[mean_norm]",  # of the first and the last step
    "monitor.schedule.class_path": "dynamics.schedule.Every",
    "monitor.schedule.init_args.interval": "1000000000",
    "monitor.keep_weights": "none",
}
WITHOUT_STATES = {"checkpoints.every": "1000000000"}
WITHOUT_VALIDATION = {"trainer.limit_val_batches": "1", "trainer.val_check_interval": "1.0"}
VARIANTS = {
    "whole": {},
    "without logger": WITHOUT_LOGGER,
    "without monitor": WITHOUT_MONITOR,
    "without states": WITHOUT_STATES,
    "without progress bar": {"trainer.enable_progress_bar": "false"},
    "without any": {
        **WITHOUT_LOGGER,
        **WITHOUT_MONITOR,
        **WITHOUT_STATES,
        **WITHOUT_VALIDATION,
        "trainer.enable_progress_bar": "false",
    },
}


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


class Clock(L.Callback):
    """Times a run, set-up left out."""

    took = 0.0
    now = staticmethod(CLOCKS[os.environ.get("OVERHEAD_CLOCK", "wall")])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        type(self).took = -self.now()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        type(self).took += self.now()


def step_seconds(step: Callable[[], None], steps: int, device: str) -> float:
    """Return the time of one step of the bare loop, over `steps` of them."""
    started = Clock.now()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (Clock.now() - started) / steps


def run_seconds(name: str, size: Size, steps: int, text: str, options: dict[str, str]) -> float:
    """Return the seconds that `dynamics fit` takes."""
    shape = {"depth": size.depth, "width": size.width, "heads": size.heads}
    settings = {
        **{f"model.{key}": str(value) for key, value in shape.items()},
        **{"data.corpus": text, "data.context": str(size.context), "data.batch_size": str(size.batch)},
        **{"trainer.max_steps": str(steps), "trainer.precision": "32-true", "model.compile": "false"},
        **({} if importlib.util.find_spec("wandb") else WITHOUT_LOGGER),
        **options,
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        dynamics(["fit", "--config", str(CONFIG), "--run", name, "--trainer.callbacks+", "overhead.Clock", *words])
    from overhead import Clock as Imported  # the class that the configuration names, not that of this script

    return Imported.took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--text", default="sample", help="a corpus as --data.corpus takes it")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ["WANDB_MODE"], os.environ["OVERHEAD_CLOCK"] = "offline", arguments.clock  # for the class in the runs
    Clock.now = staticmethod(CLOCKS[arguments.clock])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, text = SIZES[arguments.size], arguments.text
    text = str(Path(text).resolve()) if Path(text).is_file() else text
    speeds: dict[str, list[float]] = {name: [] for name in arguments.variants}
    reuse_memory()  # as the runs do
    bare = ours(size, False, contextlib.nullcontext, device)
    step_seconds(bare, 4, device)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number in range(arguments.rounds):
            # Before and after the runs, since a machine's speed drifts.
            a = step_seconds(bare, max(20, arguments.steps // 20), device)
            took = {
                name: run_seconds(f"{name}-{number}".replace(" ", "-"), size, arguments.steps, text, VARIANTS[name])
                for name in arguments.variants
            }
            b = step_seconds(bare, max(20, arguments.steps // 20), device)
            for name, whole in took.items():
                speeds[name].append((a + b) / 2 * arguments.steps / whole)
            print(f"round {number}: bare step {1e3 * a:.2f} and {1e3 * b:.2f} ms; runs {took}", flush=True)
    result: dict[str, Any] = {"size": size._asdict(), "steps": arguments.steps, "ratio": {}, "rounds": speeds}
    for name, ratios in speeds.items():
        result["ratio"][name] = statistics.median(ratios)
        print(f"  {name:22} {result['ratio'][name]:.3f} of the bare loop [{min(ratios):.3f}, {max(ratios):.3f}]")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
