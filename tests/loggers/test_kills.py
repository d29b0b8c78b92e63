"""What W&B holds of a run that is killed, wherever that happens: one run, each step once, as the record has it."""

import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb

from dynamics import record, runs
from dynamics.loggers.names import flat_name
from dynamics.record import Row
from tests.loggers.stand_in import StandIn
from tests.runs import fit

STEPS = 60
KILLS = int(os.environ.get("DYNAMICS_KILLS", "2"))
LOGGER = {"class_path": "dynamics.loggers.wandb.WandbLogger", "init_args": {"log_heads": True}}


def train(folder, text_file, environment):
    """`dynamics fit --resume auto`, in the process that runs this."""
    os.chdir(folder)
    os.environ.update(environment)
    settings = {"max_steps": STEPS, "val_check_interval": 20, "logger": json.dumps(LOGGER), "precision": "32-true"}
    settings = {f"trainer__{key}": value for key, value in settings.items()}
    settings |= {
        "checkpoints__every": 7,
        "metrics": "[mean_norm, entropy]",
        "trainer__callbacks+": "tests.loggers.slow.Slow",
    }
    fit(text_file, "a", "--resume", "auto", **settings)


@pytest.fixture(scope="module")
def processes():
    """Makes processes that have imported everything already, and share no service of W&B with tests before them."""
    wandb.teardown()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.loggers.test_kills", "dynamics.training.fit", "dynamics.loggers.wandb"])
    return context


def newest_step(journal):
    """The step of the journal's last whole line; -1 where there is none."""
    lines = journal.read_bytes().splitlines() if journal.is_file() else []
    steps = [json.loads(line)["step"] for line in lines[-3:] if line.endswith(b"}}")]
    return max(steps, default=-1)


def expected(run):
    """The value of every step and key that the record has, without those that depend on a clock."""
    rows = (Row(*values) for values in record.read(run).itertuples(index=False))
    return {(r.step, flat_name(r)): r.value for r in rows if r.site != "cost" and not math.isnan(r.value)}


def stored(history):
    """The value of every step, which must be that of the optimiser, and key of ours in a history."""
    values = {}
    for row in history:
        assert row["_step"] == row["trainer/global_step"]
        ours = {key: value for key, value in row.items() if "/" in key and not key.startswith(("trainer/", "cost/"))}
        values |= {(row["_step"], key): value for key, value in ours.items() if isinstance(value, int | float)}
    return values


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_killed_run_is_one_run_with_each_step_once(workplace, text_file, processes, mode):
    chosen = random.Random(int(os.environ.get("DYNAMICS_SEED", "1")))
    kills = sorted(chosen.sample(range(2, STEPS - 1), KILLS)) if mode == "online" else [chosen.randrange(20, 50)]
    journal = runs.CHECKPOINTS / "a" / "wandb" / "journal.jsonl"
    with StandIn() as server:
        environment = {**server.environment, "WANDB_MODE": mode, "DYNAMICS_CACHE": str(workplace / "cache")}
        for step in [*kills, math.inf]:
            process = processes.Process(target=train, args=(workplace, text_file, environment))
            process.start()
            while newest_step(journal) < step and process.is_alive():
                time.sleep(0.01)
            process.kill()
            process.join()
            assert process.exitcode == (0 if step == math.inf else -signal.SIGKILL)
        if mode == "offline":
            (log,) = (runs.CHECKPOINTS / "a" / "wandb").glob("*run-*/*.wandb")
            command = [Path(sys.executable).with_name("wandb"), "sync", str(log.parent)]
            subprocess.run(command, env={**os.environ, **server.environment}, check=True, capture_output=True)
        assert list(server.runs) == [runs.read("a").wandb_id]
        (run,) = server.runs.values()
        assert [row["_step"] for row in run.history] == list(range(STEPS + 1))
        sent, right = stored(run.history), expected("a")
        assert {
            key: (sent.get(key), right.get(key))
            for key in sent.keys() | right.keys()
            if sent.get(key) != right.get(key)
        } == {}
        assert run.exit_code == 0
        assert server.artifacts["a-record"]["is_committed"]
