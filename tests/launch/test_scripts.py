"""The scripts of `launch/`, with programs in the place of those that they call: these print their arguments."""

import os
import re
import shlex
import subprocess

import pytest
import yaml
from wandb.sdk.launch.sweeps import utils as agent

from dynamics.training.lightning_cli import RunCLI
from tests.launch.cluster import PIPES, ROOT
from tests.runs import CONFIGS

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.name != "demo.sh")
SLURM = {"SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_ID": "17"}


@pytest.fixture
def call(workplace):
    """Run a script whose programs print their name and arguments, and end with a code; its own code, and the lines."""

    def run(script, *words, codes=None, **variables):
        programs = workplace / "programs"
        programs.mkdir(exist_ok=True)
        for name in ("dynamics", "torchrun", "srun", "scontrol", "nvidia-smi"):
            (programs / name).write_text(f'#!/bin/sh\necho "{name} $*"\nexit {(codes or {}).get(name, 0)}\n')
            (programs / name).chmod(0o755)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [LAUNCH / script, *words], **PIPES, env=os.environ | {"PATH": path} | variables, cwd=workplace
        )
        return done.returncode, done.stdout.splitlines()

    return run


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_header_says_hardware_time_and_cost_and_what_is_an_estimate(path):
    header = re.match(r"(?:#.*\n)+", path.read_text())[0]
    for word in ("Hardware:", "Time", "Cost", "estimate"):
        assert word in header


def test_all_take_the_same_arguments(call):
    words = ["fit", "--run", "a b"]
    auto = "fit --run a b --resume auto"
    assert call("local.sh", *words) == (0, [f"dynamics {auto}"])
    two = "--trainer.devices 2 --trainer.num_nodes"
    torchrun = "--nproc-per-node 2 -m -- dynamics"
    assert call("torchrun.sh", *words, PROCESSES="2") == (0, [f"torchrun --standalone {torchrun} {auto} {two} 1"])
    code, (printed,) = call("torchrun.sh", *words, PROCESSES="2", NODES="3", HEAD="a:1")
    assert (code, printed.endswith(f"--rdzv-endpoint a:1 {torchrun} {auto} {two} 3")) == (0, True)
    assert call("torchrun.sh", *words, NODES="3")[0] != 0  # without HEAD
    code, (printed,) = call("torchrun.sh", "scan", "gpt2")
    assert printed == "torchrun --standalone --nproc-per-node 1 -m -- dynamics scan gpt2"  # one GPU is listed
    srun = "srun --kill-on-bad-exit=0 --wait=60 dynamics"
    assert call("slurm.sh", *words, **SLURM) == (0, [f"{srun} {auto} {two} 3"])
    assert call("slurm.sh", "scan", "gpt2", **SLURM) == (0, [f"{srun} scan gpt2"])
    assert call("slurm-array.sh", "sweep", "a.yaml") == (0, ["dynamics sweep a.yaml --launcher slurm"])


@pytest.mark.parametrize(("ended", "code"), [(0, 0), (1, 1), (2, 2), (137, 137), (138, 0), (143, 0)])
def test_a_job_is_requeued_when_its_signal_or_that_of_preemption_has_ended_it(call, ended, code):
    status, printed = call("slurm.sh", "fit", codes={"srun": ended}, **SLURM)
    assert status == code
    assert ("scontrol requeue 17" in printed) == (ended in (138, 143))


def test_a_job_that_cannot_be_requeued_fails(call):
    assert call("slurm.sh", "fit", codes={"srun": 138, "scontrol": 1}, **SLURM)[0] == 138


def test_an_element_of_an_array_takes_its_line(call, workplace):
    lines = [["a.log", "fit", "--run", "a"], [str(workplace / "b c.log"), "fit", "--run", "b", "--x", "it's $HOME; *"]]
    (workplace / "cells").write_text("".join(f"{shlex.join(line)}\n" for line in lines))
    _, (printed,) = call("slurm.sh", "--cells", "cells", SLURM_ARRAY_TASK_ID="2", **SLURM)
    assert f"--output {workplace}/b c.log --open-mode=append dynamics fit --run b --x it's $HOME; * --resume" in printed


def test_an_agent_of_wandb_starts_a_run_with_the_id_that_it_was_given(workplace, text_file, monkeypatch):
    sweep = yaml.safe_load((LAUNCH / "wandb-sweep.yaml").read_text())
    chosen = {name: {"value": values["values"][-1]} for name, values in sweep["parameters"].items()}
    given = agent.create_sweep_command_args({"args": chosen})["args"]
    words = [word for word in sweep["command"] if word != "${env}"]
    words[-1:] = given
    (workplace / "dynamics").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (workplace / "dynamics").chmod(0o755)
    monkeypatch.setenv("PATH", f"{workplace}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    verb, _, name, _, config, _, size, *rest = subprocess.run(words, **PIPES, check=True).stdout.splitlines()
    assert (verb, name, config, size) == ("fit", "sweep-given", "configs/decoder.yaml", "tiny")
    config = ["--config", str(CONFIGS / "decoder.yaml"), "--data.corpus", str(text_file)]
    cli = RunCLI(workplace / "checkpoints" / name, [*config, "--trainer.accelerator", "cpu", *rest])
    assert (cli.model.hparams.learning_rate, cli.model.hparams.seed) == (0.01, 2)
    assert cli.trainer.logger.version == cli.wandb_id == "given"


def test_a_study_trains_forks_and_judges(call, workplace):
    (workplace / "checkpoints" / "study-causal-mlm-seed_0").mkdir(parents=True)
    code, lines = call("study.sh", "cpu", "--model.depth", "3", STEPS="64", SENTENCES="s.txt", MINILM="m")
    assert code == 0
    assert [line.split()[1] for line in lines] == ["sweep", "fork", "probe", "cone", "claims", "report"]
    assert lines[0].endswith("--trainer.val_check_interval 32 --checkpoints.every 32 --model.depth 3")
    assert "study-causal-mlm-seed_0 --at 32 --config configs/switch.yaml --run study-switched-seed_0" in lines[1]
    assert lines[4].startswith("dynamics claims study study-probe study-cone --json")
    (workplace / "checkpoints" / "study-switched-seed_0").mkdir()
    _, lines = call("study.sh", "cpu", codes={"dynamics": 0})
    assert [line.split()[1] for line in lines] == ["sweep", "fit", "probe", "claims", "report"]
    assert call("study.sh", "cpu", codes={"dynamics": 2}) == (2, lines[:1])
    assert call("study.sh", "tpu") == (2, ["launch/study.sh: the scale is cpu or gpu (got tpu)."])
    for steps in ("1", "abc"):
        said = f"launch/study.sh: STEPS must be at least 2 (got {steps})."
        assert call("study.sh", "cpu", STEPS=steps) == (2, [said])
    code, (said,) = call("study.sh", "cpu", "--trainer.max_steps=9")
    assert (code, said[:47]) == (2, "launch/study.sh: --trainer.max_steps is set by ")
