"""What W&B costs a run, at about 2,000 keys a measured step: 12 layers of 8 heads, every head logged.

    python benchmarks/logger.py [--steps 200] [--rounds 3] [--json FILE] [--text FILE]

`dynamics fit` without a logger, offline, online (a stand-in for the server on loopback), and online with an outage
from a tenth to nine tenths of the run, interleaved. Counted is processor time, which other work on the machine does not
change: of the calls of the training thread, of the thread that talks to W&B, and of W&B's own process. The ratio is
their sum over that of the whole run, from before its first measurement to after its last file. The longest call is
also given as it was waited for.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from dynamics.cli.main import main as dynamics
from dynamics.loggers import upload
from dynamics.loggers.wandb import WandbLogger
from tests.loggers.stand_in import StandIn

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "decoder.yaml"
SHAPE = {
    **{"model.depth": "12", "model.width": "128", "model.heads": "8", "data.context": "64", "data.batch_size": "16"},
    **{"data.probe_tokens": "1024", "trainer.precision": "32-true", "trainer.enable_progress_bar": "false"},
}
MODES = ("none", "offline", "online", "outage")
SPENT: dict[str, Any] = {}


class Clock(L.Callback):
    """Times a run, set-up left out, and lets the server fail in its middle."""

    server: StandIn | None = None
    took = spent = 0.0

    def on_train_start(self, trainer: L.Trainer, *_: object) -> None:
        type(self).took, type(self).spent = -time.perf_counter(), -time.process_time()

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if self.server is not None:
            self.server.outage = 0.1 <= trainer.global_step / trainer.max_steps < 0.9


def watch() -> None:
    """Time every call of the training thread, and the whole of the other thread."""

    def timed(call: Any) -> Any:
        def wrapper(*words: Any, **options: Any) -> Any:
            started, spent = time.perf_counter(), time.thread_time()
            try:
                return call(*words, **options)
            finally:
                SPENT["waits"].append(time.perf_counter() - started)
                SPENT["calls"].append(time.thread_time() - spent)

        return wrapper

    for name in ("log_values", "log_metrics", "complete"):
        setattr(WandbLogger, name, timed(getattr(WandbLogger, name)))
    row, work = upload.Upload._row, upload.Upload._work

    def count(self: Any, entry: Any) -> Any:
        SPENT["keys"] = max(SPENT["keys"], len(entry.values))
        return row(self, entry)

    def timed_work(self: Any) -> None:
        work(self)
        SPENT["thread"] = time.thread_time()

    upload.Upload._row, upload.Upload._work = count, timed_work


def run(name: str, mode: str, steps: int, text: str) -> dict[str, Any]:
    """Train once; return what it took."""
    logger = {"class_path": "dynamics.loggers.wandb.WandbLogger", "init_args": {"log_heads": True, "artifact": False}}
    settings = SHAPE | {"data.corpus": text, "trainer.max_steps": str(steps)}
    settings |= {"trainer.logger": "false" if mode == "none" else json.dumps(logger)}
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    SPENT.update(calls=[0.0], waits=[0.0], thread=0.0, keys=0)
    before = children_seconds()
    with StandIn() as server, contextlib.redirect_stdout(io.StringIO()):
        os.environ.update(server.environment | {"WANDB_MODE": "offline" if mode == "offline" else "online"})
        from logger import Clock as Imported  # the class that the configuration names, not that of this script

        Imported.server = server if mode == "outage" else None
        dynamics(["fit", "--config", str(CONFIG), "--run", name, "--trainer.callbacks+", "logger.Clock", *words])
        took, spent = Imported.took + time.perf_counter(), Imported.spent + time.process_time()
        upload.wandb.teardown()
        rows = sum(len(stored.history) for stored in server.runs.values())
    assert mode in ("none", "offline") or rows == steps + 1, f"{mode}: the server has {rows} rows"
    facts = {
        **{"seconds": took, "processor": spent, "thread": SPENT["thread"]},
        **{"calls": sum(SPENT["calls"]), "client": children_seconds() - before, "keys": SPENT["keys"]},
        **{"longest_call_ms": 1e3 * max(SPENT["calls"]), "longest_wait_ms": 1e3 * max(SPENT["waits"])},
    }
    return facts | {"refused": server.refused}


def children_seconds() -> float:
    """Return the processor time of processes that have been started and have ended: W&B's own, above all."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--text", default="sample", help="a corpus as --data.corpus takes it")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    text = str(Path(arguments.text).resolve()) if Path(arguments.text).is_file() else arguments.text
    threading.current_thread().name = "training"
    watch()
    runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in arguments.modes}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number in range(arguments.rounds):
            for mode in arguments.modes:
                runs[mode].append(run(f"{mode}-{number}", mode, arguments.steps, text))
                print(f"round {number} {mode:8}", {key: round(x, 3) for key, x in runs[mode][-1].items()}, flush=True)
    result: dict[str, Any] = {"steps": arguments.steps, "runs": runs, "ratio": {}}
    for mode in (mode for mode in arguments.modes if mode != "none"):
        shares = [
            (one["calls"] + one["thread"] + one["client"]) / (one["processor"] + one["client"]) for one in runs[mode]
        ]
        result["ratio"][mode] = statistics.median(shares)
        longest = [max(one[key] for one in runs[mode]) for key in ("longest_call_ms", "longest_wait_ms")]
        print(
            f"{mode:8} logging {100 * statistics.median(shares):.2f} % of the run; longest call {longest[0]:.1f} ms, "
            f"{longest[1]:.1f} ms as waited for"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
