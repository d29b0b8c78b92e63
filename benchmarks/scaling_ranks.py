"""Weak scaling of `dynamics fit`: one process on one core against several, each with as many windows on its own core.

    python benchmarks/scaling_ranks.py [--ranks 2] [--windows 8] [--steps 40] [--rounds 5] [--strategy ddp|fsdp2]
                                       [--json FILE]

The efficiency is the time of a step of one process over that of several: 1 where the others come for nothing. Runs are
interleaved; a run's time is the median over its steps after the first ten, and the efficiency the median over rounds,
with the least and the greatest. Where other programs want the same cores, several processes wait for the slowest of
them: the CPU time of a step (of the first rank, all its threads) is given beside it, which they do not change.
"""

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from dynamics import record

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "decoder.yaml"
SHAPE = {"model.depth": 4, "model.width": 256, "model.heads": 8, "data.context": 256, "metrics": "[mean_norm]"}
QUIET = {
    "trainer.logger": "false",
    "data.validation_windows": 4,
    "trainer.num_sanity_val_steps": 0,
    "trainer.enable_progress_bar": "false",
    "trainer.val_check_interval": 10**6,
}
WARM = 10  # steps that are not timed


class Times(NamedTuple):
    """Seconds of a step, by the clock and of the processor."""

    wall: float
    processor: float


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def train(ranks: int, windows: int, steps: int, strategy: str, corpus: Path, name: str) -> Times:
    """Train one run, rank r pinned to core r, and return the times of its steps."""
    settings = SHAPE | QUIET | {"data.corpus": corpus, "data.batch_size": ranks * windows, "trainer.max_steps": steps}
    settings |= {"trainer.accelerator": "cpu", "trainer.precision": "32-true", "trainer.devices": ranks}
    settings |= {"trainer.strategy": strategy} if ranks > 1 else {}
    settings |= {"monitor.keep_weights": "none", "checkpoints.every": 10**6}
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "dynamics", "fit", "--config", str(CONFIG), "--run", name, *words]
    common = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    cores = sorted(os.sched_getaffinity(0))
    jobs = []
    for rank in range(ranks):
        place = {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(ranks)} if ranks > 1 else {}
        pinned = ["taskset", "-c", str(cores[rank]), *command]
        jobs.append(subprocess.Popen(pinned, env=common | place, stdout=subprocess.DEVNULL))
    if any(job.wait() for job in jobs):
        sys.exit(f"a run of {ranks} ranks has failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / ranks
    chunks = record.read(name).query("site == 'cost' and metric == 'step_seconds' and step > @WARM").value
    return Times(float(chunks.median()), spent / steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("ranks", 2), ("windows", 8), ("steps", 40), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--strategy", choices=("ddp", "fsdp2"), default="ddp")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < options.ranks:
        sys.exit(f"--ranks {options.ranks}: this machine has {len(os.sched_getaffinity(0))} cores; give fewer.")
    walls, processors = [], []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        corpus = Path("text.txt")
        corpus.write_text("the quick brown fox jumps over the lazy dog. " * 5000)
        for number in range(options.rounds):
            # The start of a process costs as much with one rank as with several: it cancels in the difference.
            runs = [
                train(ranks, options.windows, steps, options.strategy, corpus, f"{ranks}-{steps}-{number}")
                for ranks in (1, options.ranks)
                for steps in (WARM, WARM + options.steps)
            ]
            cost = [
                (long.processor * (WARM + options.steps) - short.processor * WARM) / options.steps
                for short, long in (runs[:2], runs[2:])
            ]
            walls.append(runs[1].wall / runs[3].wall)
            processors.append(cost[0] / cost[1])
            print(f"round {number}: {runs[1].wall:.3f} s and {runs[3].wall:.3f} s a step; efficiency {walls[-1]:.2f}")
    found = {"efficiency": walls, "efficiency of the processors": processors}
    for name, values in found.items():
        print(f"{name}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
    if options.json:
        medians = {name: statistics.median(values) for name, values in found.items()}
        options.json.write_text(json.dumps({"ranks": options.ranks, **medians}))


if __name__ == "__main__":
    main()
