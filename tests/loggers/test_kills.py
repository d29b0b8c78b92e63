"""What W&B holds of a run that is killed, wherever that happens: one run, each step once, as the record has it."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynamics import record, runs
from dynamics.loggers.names import flat_name
from dynamics.record import Row
from tests.loggers.stand_in import StandIn
from tests.runs import CONFIGS, TINY, arguments

STEPS = 60
KILLS = int(os.environ.get("DYNAMICS_KILLS", "2"))
LOGGER = {"class_path": "dynamics.loggers.wandb.WandbLogger", "init_args": {"log_heads": True}}


def start(text_file, environment):
    """`dynamics fit --resume auto` in a process of its own."""
    settings = TINY | {
        **{"trainer.max_steps": STEPS, "checkpoints.every": 7, "trainer.val_check_interval": 20},
        **{"trainer.logger": json.dumps(LOGGER), "trainer.precision": "32-true", "metrics": "[mean_norm, entropy]"},
        "trainer.callbacks+": "tests.loggers.slow.Slow",
    }
    words = ["fit", "--config", str(CONFIGS / "decoder.yaml"), "--data.corpus", str(text_file), "--run", "a"]
    command = [sys.executable, "-m", "dynamics", *words, "--resume", "auto", *arguments(settings)]
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, env={**os.environ, **environment, "PYTHONPATH": paths})


def newest_step(journal):
    """The step of the journal's last whole line; -1 where there is none."""
    lines = journal.read_bytes().splitlines() if journal.is_file() else []
    steps = [json.loads(line)["step"] for line in lines[-3:] if line.endswith(b"}}")]
    return max(steps, default=-1)


def expected(run):
    """The values of every step that the record has, without those that depend on a clock."""
    rows = {}
    for values in record.read(run).itertuples(index=False):
        row = Row(*values)
        if row.site != "cost" and not math.isnan(row.value):
            rows.setdefault(row.step, {})[flat_name(row)] = row.value
    return rows


def stored(history):
    """The values of every row of a history, under its step, which must be that of the optimiser."""
    for row in history:
        assert row["_step"] == row["trainer/global_step"]
    kept = ("train/", "validation/", "mean_norm/", "output_mean_norm/", "entropy/", "entropy_head/")
    return {row["_step"]: {key: value for key, value in row.items() if key.startswith(kept)} for row in history}


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_killed_run_is_one_run_with_each_step_once(workplace, text_file, mode):
    chosen = random.Random(int(os.environ.get("DYNAMICS_SEED", "1")))
    kills = sorted(chosen.sample(range(2, STEPS - 1), KILLS)) if mode == "online" else [chosen.randrange(20, 50)]
    journal = runs.CHECKPOINTS / "a" / "wandb" / "journal.jsonl"
    with StandIn() as server:
        environment = {**server.environment, "WANDB_MODE": mode}
        for step in kills:
            process = start(text_file, environment)
            while newest_step(journal) < step and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
        assert start(text_file, environment).wait() == 0
        if mode == "offline":
            (log,) = (runs.CHECKPOINTS / "a" / "wandb").glob("*run-*/*.wandb")
            command = [Path(sys.executable).with_name("wandb"), "sync", str(log.parent)]
            subprocess.run(command, env={**os.environ, **server.environment}, check=True, capture_output=True)
        assert list(server.runs) == [runs.read("a").wandb_id]
        (run,) = server.runs.values()
        assert [row["_step"] for row in run.history] == list(range(STEPS + 1))
        assert stored(run.history) == expected("a")
        assert run.exit_code == 0
        assert server.artifacts["a-record"]["is_committed"]
