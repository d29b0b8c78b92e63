"""Kill runs at random moments and compare what they end as with what nobody touched, to the bit.

    python benchmarks/kills.py --chains 10 --kills 5
    python benchmarks/kills.py --chains 16 --kills 5 --kinds scan cone probe sweep
    python benchmarks/kills.py --chains 1 --kills 300 --steps 2400 --kinds decoder --folder /another/disk

Every chain trains one run to its end through several kills, each before a random operation on its files or at a random
moment, and then compares losses, measurements, weights, optimiser and generators of every state with those of a run of
the same kind that was not killed. After every kill the newest state must load. The control, a run of the kind encoder,
resumes without the generators: it must be told from the others. With `--steps`, runs are that long and save at every
step, and every kill is before an operation on a file. Of scans, cones, probes and sweeps the records are compared. The
last line counts; the exit code is 1 where anything differs, or the control does not.
"""

import argparse
import json
import os
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dynamics import runs  # noqa: E402
from dynamics.cli.main import main as dynamics  # noqa: E402
from dynamics.run_info import SweepInfo  # noqa: E402
from dynamics.training.checkpoint import resolve_resume  # noqa: E402
from tests import runs as runs_of_tests  # noqa: E402
from tests import tuning  # noqa: E402
from tests.faults import chain as faults  # noqa: E402
from tests.faults.chain import differences, leftovers, other_rows, without_generators  # noqa: E402
from tests.runs import CONFIGS, TINY, arguments  # noqa: E402

ISTAR = ("--model.regularizers+=IStar", "--model.regularizers.weight=-2")
DROPOUT = {"config": "encoder", "model__dropout": 0.1}
attempt = partial(faults.attempt, quiet=True)
OPERATIONS = 120  # about as many as a run of six steps has


SETTINGS = shlex.join(arguments(TINY))
SWEEP = f"""
fit:
  decoder: {json.dumps(f"--config {CONFIGS}/decoder.yaml {SETTINGS}")}
vary: {{rate: {{option: "--model.learning_rate={{}}", values: [0.01, 0.001]}}}}
seeds: [0, 1]
"""


def training(folder: Path, steps: int = 0) -> dict[str, Callable[..., object]]:
    """What is trained, by name: a function of the run's name and further words."""
    words = np.random.default_rng(0).choice(["the", "cat", "sat", "on", "a", "mat", "quietly"], size=6000)
    text = folder / "text.txt"
    text.write_text(" ".join(words))
    for name in ("bert", "sst2"):
        (folder / name).mkdir()
    settings = {"trainer__max_steps": steps, "checkpoints__every": 1, "trainer__val_check_interval": steps}
    fit = partial(runs_of_tests.fit, **(settings if steps else {}))
    bert, task = tuning.checkpoint(folder / "bert"), tuning.sst2(folder / "sst2")
    return {
        "decoder": lambda run, *more: fit(text, run, *more),
        "encoder": lambda run, *more: fit(text, run, *more, **DROPOUT),
        "accumulation": lambda run, *more: fit(text, run, *more, **DROPOUT, trainer__accumulate_grad_batches=2),
        "istar": lambda run, *more: fit(text, run, *more, *ISTAR),
        "fine-tuning": lambda run, *more: tuning.finetune(bert, task, run, *more, checkpoints__every=2),
    }


def experiments(folder: Path) -> dict[str, Callable[..., object]]:
    """What measures, or runs others, by name."""
    text, sweep = folder / "text.txt", folder / "sweep.yaml"
    noise = np.random.default_rng(0)
    lines = [" ".join(noise.choice(["the", "cat", "sat", "quietly", "on", "a", "mat"], size=6)) for _ in range(60)]
    (folder / "lines.txt").write_text("\n".join(lines))
    sweep.write_text(SWEEP)
    models = [f"random:{name}" for name in ("gpt2", "bert")]
    scan = ["scan", *models, "--text", str(text), "--tokens", "2048", "--device", "cpu"]
    cone = ["cone", *models, "--sentences", str(folder / "lines.txt"), "--device", "cpu"]
    probe = ["probe", "--width", "16", "--heads", "2", "--length", "8", "--batch", "2", "--seeds", "3"]
    sweep_words = ["sweep", str(sweep), "--data.corpus", str(text)]
    return {
        "scan": lambda run, *more: dynamics([*scan, "--run", run, *more]),
        "cone": lambda run, *more: dynamics([*cone, "--run", run, *more]),
        "probe": lambda run, *more: dynamics([*probe, "--run", run, *more]),
        "sweep": lambda run, *more: dynamics([*sweep_words, "--run", run]),  # it resumes what it finds
    }


def compared(whole: str, run: str) -> list[str]:
    """Name what differs between two runs of one kind."""
    info = runs.read(run)
    if isinstance(info, SweepInfo):
        pairs = [(name.replace(run, whole, 1), name) for name in info.runs]
        return [f"{name}: {found}" for one, name in pairs for found in differences(one, name)]
    if info.kind == "fit":
        return list(differences(whole, run))
    return [*other_rows(whole, run), *leftovers(run)]


def chain(train: Callable[..., object], run: str, kills: int, rng: random.Random, seconds: float) -> int:
    """Kill a run often, then let it end; return the kills that met it. With 0 seconds none is at a moment in time."""
    met = 0
    for _ in range(kills):
        by_file = not seconds or rng.random() < 0.5
        operations, moment = rng.randint(1, OPERATIONS) * by_file, rng.uniform(0, seconds) * (not by_file)
        met += attempt(lambda: train(run, "--resume", "auto"), operations, moment) == -9
        if (runs.CHECKPOINTS / run / "state").is_dir():
            resolve_resume("auto", runs.CHECKPOINTS / run)
        if runs.exists(runs.CHECKPOINTS / run) and runs.read(run).status == "done":
            break
    if attempt(lambda: train(run, "--resume", "auto")) != 0:
        raise SystemExit(f"{run} does not resume")
    return met


def control(train: Callable[..., object]) -> str:
    """Return how a run that was killed and resumed without its generators differs from a whole one; it must."""
    whole = "whole-encoder"
    if not runs.exists(runs.CHECKPOINTS / whole):
        assert attempt(lambda: train(whole)) == 0
    if attempt(lambda: train("control"), operations=90) != -9:
        raise SystemExit("the control was not killed: a run has fewer operations on its files than it had")
    with without_generators():
        attempt(lambda: train("control", "--resume", "auto"))
    return next(differences(whole, "control"), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=10)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--kinds", nargs="*")
    parser.add_argument("--folder", type=Path, help="where the runs lie (a temporary folder when missing)")
    parser.add_argument("--steps", type=int, default=0, help="of every run (6 when missing)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        os.chdir(place)
        os.environ["DYNAMICS_CACHE"] = str(Path(place) / "cache")
        made = training(Path(place), options.steps)
        trained, made = list(made), made | experiments(Path(place))
        rng, met, differing, wholes = random.Random(options.seed), 0, 0, dict[str, float]()
        for number in range(options.chains):
            kind = rng.choice(options.kinds or trained)
            if kind not in wholes:
                started = time.monotonic()
                assert attempt(lambda kind=kind: made[kind](f"whole-{kind}")) == 0
                wholes[kind] = time.monotonic() - started
            run = f"{kind}-{number}"
            met += chain(made[kind], run, options.kills, rng, 0 if options.steps else wholes[kind])
            found = compared(f"whole-{kind}", run)
            differing += bool(found)
            print(f"{run}: {'; '.join(found) or 'the same'}", flush=True)
        told = control(made["encoder"])
        print(f"control: {told or 'NOT TOLD'}")
        print(f"{options.chains} chains, {met} kills, {differing} of the runs differ")
    sys.exit(bool(differing) or not told)


if __name__ == "__main__":
    main()
