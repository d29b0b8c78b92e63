"""What holds on a real GPU, written into docs/gpu.md with the card and the command.

    python benchmarks/gpu.py [--size tiny] [--nanogpt DIR] [--parts waits twins ...]      (make gpu)

For each arm, `dynamics fit` takes 20 steady steps in which CUDA refuses to make the host wait (sync-debug mode
"error"), and two deterministic runs of one seed are compared to the bit. Then a measurement is set beside a step, and
benchmarks/training.py compares the step with that of others.
"""

import argparse
import contextlib
import datetime
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dynamics import record, runs
from dynamics.cli.main import main as dynamics
from dynamics.training.checkpoint import states
from tests.gpu.runs import CONFIGS, write_text
from tests.runs import arguments

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- results: written by benchmarks/gpu.py -->", "<!-- end of results -->"
ARMS = ("decoder", "encoder", "causal-mlm")
PARTS = ("waits", "twins", "measurement", "training")
STRICT = range(60, 80)  # updates before the steps in which nothing may wait; losses are read every 50


def fit(arm: str, size: str, run: str, **settings: Any) -> None:
    chosen = {
        "trainer.accelerator": "cuda",
        "trainer.devices": 1,
        "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.max_steps": 100,
        "trainer.val_check_interval": 100,
        "monitor.keep_weights": "none",
    } | {name.replace("__", "."): value for name, value in settings.items()}
    words = ["--config", str(CONFIGS / f"{arm}.yaml"), "--size", size, "--run", run, "--data.corpus", "text.txt"]
    dynamics(["fit", *words, *arguments(chosen)])


@contextlib.contextmanager
def refusing_waits() -> Iterator[None]:
    """Have the steps of `STRICT` end with an error where the host would wait for the device."""
    advance = _TrainingEpochLoop.advance

    def strict(loop: Any, fetcher: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if loop.global_step in STRICT else "default")
        try:
            advance(loop, fetcher)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with mock.patch.object(_TrainingEpochLoop, "advance", strict):
        yield


def check_waits(arm: str, size: str) -> str:
    try:
        with refusing_waits():
            fit(arm, size, f"waits-{arm}", metrics="[mean_norm]")
    except RuntimeError as error:
        return f"{arm}: a steady step makes the host wait ({str(error).splitlines()[0]})"
    return f"{arm}: {len(STRICT)} steady steps without a wait of the host"


def check_twins(arm: str, size: str) -> str:
    """Train the same run twice with deterministic kernels, and compare weights and rows."""
    weights, rows = [], []
    for run in (f"first-{arm}", f"second-{arm}"):
        fit(arm, size, run, trainer__deterministic="true")
        weights.append(torch.load(states(runs.CHECKPOINTS / run)[0], weights_only=True)["state_dict"])
        frame = record.read(run)
        rows.append(frame[frame.site != "cost"].drop(columns="run").reset_index(drop=True))
    is_equal = all(torch.equal(x, weights[1][name]) for name, x in weights[0].items()) and rows[0].equals(rows[1])
    return f"{arm}, deterministic, twice from one seed: {'equal' if is_equal else 'DIFFERENT'} in weights and rows"


def weigh_measurement(size: str) -> str:
    """Set a default measurement, the first aside, beside a step."""
    every = "{class_path: dynamics.schedule.Every, init_args: {interval: 50}}"
    fit("decoder", size, "cost", trainer__max_steps=200, trainer__val_check_interval=200, monitor__schedule=every)
    costs = record.read("cost")
    costs = costs[(costs.site == "cost") & (costs.step > 50)].groupby("metric").value.median()
    ratio = costs["measure_seconds"] / costs["step_seconds"]
    return (
        f"decoder, {size}: a default measurement takes {1e3 * costs['measure_seconds']:.0f} ms, a step "
        f"{1e3 * costs['step_seconds']:.2f} ms: {ratio:.1f} steps"
    )


def compare(size: str, nanogpt: Path | None) -> str:
    words = ["benchmarks/training.py", "--size", size, "--modes", "bf16/eager", "bf16/compiled", "--against", "gpt2"]
    words += ["--steps", "20", "--rounds", "5", *(["--nanogpt", str(nanogpt.resolve())] if nanogpt else [])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else f"{' '.join(words)} failed: {done.stderr.strip()[-500:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of github.com/karpathy/nanoGPT to compare with")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu: torch finds no GPU here; run it where there is one.", file=sys.stderr)
        sys.exit(2)
    comparison = compare(options.size, options.nanogpt) if "training" in options.parts else ""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["DYNAMICS_CACHE"] = f"{folder}/cache"
        write_text(Path("text.txt"))
        lines = [check_waits(arm, options.size) for arm in ARMS if "waits" in options.parts]
        lines += [check_twins(arm, options.size) for arm in ARMS if "twins" in options.parts]
        if "measurement" in options.parts:
            lines.append(weigh_measurement(options.size))
    command = " ".join(["python benchmarks/gpu.py", *sys.argv[1:]])
    about = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {datetime.date.today()}: `{command}`"
    table = ["", "```", comparison, "```"] if comparison else []
    text = "\n".join([BEGIN, about, "", *(f"- {line}" for line in lines), *table, END])
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2] or "\n"
    PAGE.write_text(f"{before.rstrip()}\n\n{text}{after}")
    print(text)


if __name__ == "__main__":
    main()
