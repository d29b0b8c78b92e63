"""How many swaps of checkpoints `dynamics audit` finds, by kind, and how many alarms it gives on clean series.

    python benchmarks/swaps.py FOLDER [--repetitions 20]

Trains runs of 50 steps (two seeds, with a long warm-up, to a learning rate of almost 0, at 30 times the learning rate,
with the other objective, every 5th of 250 steps, and at powers of two), keeps the weights of each measured step, and
audits them with one thing changed. A change is found if everything that was changed is suspect; it is exact if nothing
else is.
"""

import argparse
import json
import os
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np

TINY = {
    **{"model.depth": 2, "model.width": 16, "model.heads": 2, "model.warmup_steps": 2, "data.context": 32},
    **{"data.batch_size": 4, "data.probe_tokens": 256, "data.validation_windows": 8, "metrics": "[mean_norm]"},
    **{"trainer.logger": "false", "trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false"},
}
EVERY = "--monitor.schedule.class_path=dynamics.schedule.Every --monitor.schedule.init_args.interval="
RUNS = {  # options, steps
    "base": (f"{EVERY}1", 50),
    "seed": (f"{EVERY}1 --seed_everything=1", 50),
    "warm-up": (f"{EVERY}1 --model.warmup_steps=20", 50),
    "decay": (f"{EVERY}1 --model.final_learning_rate=0.0001", 50),
    "hot": (f"{EVERY}1 --model.learning_rate=0.03", 50),
    "twin": (f"{EVERY}1", 50),
    "every-5": (f"{EVERY}5", 250),
    "powers": ("", 512),
}
STRANGERS = dict.fromkeys(("base", "warm-up", "decay", "hot", "twin"), "seed") | {"seed": "base"}
TWINS = {"base": "twin", "twin": "base", "warm-up": "twin", "hot": "twin"}


def train(configs: Path) -> None:
    from dynamics.cli.main import main

    words = np.random.default_rng(0).choice(["the", "cat", "sat", "on", "a", "mat", "quietly"], size=6000)
    Path("text.txt").write_text(" ".join(words))
    for name, (options, steps) in RUNS.items():
        if not Path("checkpoints", name).exists():
            last = {"trainer.max_steps": steps, "checkpoints.every": steps, "trainer.val_check_interval": steps}
            fixed = [f"--{key}={value}" for key, value in (TINY | last).items()]
            config = configs / ("encoder.yaml" if name == "twin" else "decoder.yaml")
            main(["fit", "--config", str(config), "--data.corpus=text.txt", "--run", name, *fixed, *options.split()])


def paths(run: str) -> list[Path]:
    return sorted(Path("checkpoints", run, "weights").glob("step-*"))


def suspects(own: list[Path], used: list[Path]) -> set[int]:
    """Return the places of `own` that are suspect when they hold the weights of `used`."""
    from dynamics.experiments.audit.loop import series_of

    shutil.rmtree("changed", ignore_errors=True)
    Path("changed/weights").mkdir(parents=True)
    Path("changed/run.json").write_text("{}")
    for path, source in zip(own, used, strict=True):
        Path("changed/weights", path.name).symlink_to(source.resolve())
    series = series_of("changed", None)
    series.examine(False, False, lambda share: None)
    return {i for i, verdict in enumerate(series.verdicts) if verdict.reasons}


def change(kind: str, run: str, own: list[Path], noise: np.random.Generator) -> tuple[list[Path], set[int]] | None:
    """Return the weights with one thing changed, and the places changed; None where the run has nothing to change."""
    used, count = [*own], len(own)
    i, j = sorted(noise.choice(count, 2, replace=False).tolist())
    if kind == "neighbours swapped":
        i, j = i - (i == count - 1), i - (i == count - 1) + 1
    if kind.endswith("swapped"):
        used[i], used[j] = own[j], own[i]
        return used, {i, j}
    if kind == "copy of another step":
        used[i] = own[j]
    elif kind == "copy of the last":
        i = i if i < count - 1 else 0
        used[i] = own[-1]
    else:
        other = (STRANGERS if kind.startswith("another seed") else TWINS).get(run)
        if other is None or (kind == "twin" and i == 0):  # twins start from the same weights
            return None
        length = 5 if kind.endswith("row") else 1
        i = min(i, count - length)
        used[i : i + length] = paths(other)[i : i + length]
        return used, {*range(i, i + length)}
    return used, {i}


KINDS = (
    *("neighbours swapped", "any two swapped", "copy of another step", "copy of the last"),
    *("another seed", "another seed, five in a row", "twin"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    configs = Path(__file__).resolve().parents[1] / "configs"
    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder)
    train(configs)
    noise, table = np.random.default_rng(0), defaultdict(lambda: [0, 0, 0])
    missed: dict[str, list[str]] = defaultdict(list)
    for run in RUNS:
        own = paths(run)
        clean = [(own, own)]
        for _ in range(options.repetitions):
            kept = np.sort(noise.choice(len(own), noise.integers(3, len(own)), replace=False))
            clean.append(([own[i] for i in kept],) * 2)
        for place, (part, used) in enumerate(clean):
            name = "clean: whole" if place == 0 else "clean: some of the steps"
            table[name][0] += 1
            table[name][1] += bool(suspects(part, used))
        for kind in KINDS:
            for _ in range(options.repetitions):
                if (changed := change(kind, run, own, noise)) is not None:
                    named = suspects(own, changed[0])
                    table[kind][0] += 1
                    table[kind][1] += changed[1] <= named
                    table[kind][2] += changed[1] == named
                    missed[kind] += [f"{run} {sorted(changed[1])}"] * (not changed[1] <= named)
    for kind, (count, found, exact) in table.items():
        print(f"{kind:30s} {count:4d} {found:4d} {exact:4d}  {'; '.join(missed[kind][:12])}")
    if options.json:
        options.json.write_text(json.dumps(table))


if __name__ == "__main__":
    main()
