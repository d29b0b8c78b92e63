"""Runs of several ranks are those of one: losses, record, states; and a rank that dies ends all of them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from dynamics import record, runs
from dynamics.training.checkpoint import states
from tests.runs import CONFIGS, TINY, arguments, working_in
from tests.runs import fit as fit_alone
from tests.training.test_ranks import PATIENCE, PIPES, with_tests

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "dynamics"]
LIGHTNING = ["-m", "dynamics"]
REGULARIZED = (
    *("--model.regularizers+=IStar", "--model.regularizers.weight=-2", "--model.regularizers.max_states=70"),
    *("--model.regularizers+=CosReg", "--model.regularizers.weight=3", "--trainer.gradient_clip_val=0.5"),
)
SETTINGS = {
    "trainer__precision": "32-true",
    "metrics": "[anisotropy, drift, effective_rank, entropy, intrinsic_dimension, linear_cka, qk_symmetry]",
}
KEY = ["step", "site", "layer", "head", "metric"]


def command(launcher, text_file, run, *words, **settings):
    chosen = TINY | {"data.corpus": text_file, "trainer.devices": 2, "trainer.strategy": "ddp"}
    chosen |= {name.replace("__", "."): value for name, value in (SETTINGS | settings).items()}
    options = ["--config", str(CONFIGS / "encoder.yaml"), "--run", run, *arguments(chosen), *words]
    return [sys.executable, *launcher, "fit", *options]


def fit_on_two(launcher, text_file, run, *words, **settings):
    """Train on two ranks of one thread each."""
    environment = with_tests() | {"OMP_NUM_THREADS": "1"}
    line = command(launcher, text_file, run, *words, **settings)
    done = subprocess.run(line, env=environment, **PIPES, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def rows(run):
    return record.read(run).query("site != 'cost'").set_index(KEY).sort_index()


def assert_same_record(run, other, loss=1e-5, geometry=1e-4):
    ours, theirs = rows(run), rows(other)
    assert ours.index.equals(theirs.index)
    is_curve = ours.index.get_level_values("site").isin(["train", "validation"])
    for column in ("value", "low", "high"):
        np.testing.assert_allclose(ours[column][is_curve], theirs[column][is_curve], rtol=0, atol=loss)
        np.testing.assert_allclose(ours[column], theirs[column], rtol=geometry, atol=geometry)
    assert (ours.n == theirs.n).all()
    assert (ours.windows == theirs.windows).all()


@pytest.fixture(scope="module")
def alone(text_file, tmp_path_factory):
    """A run of one rank, `one`, in a folder of its own."""
    with working_in(tmp_path_factory.mktemp("ranks")) as folder:
        fit_alone(text_file, "one", *REGULARIZED, config="encoder", **SETTINGS)
        yield folder


def test_two_ranks_train_and_measure_as_one(text_file, alone):
    fit_on_two(LIGHTNING, text_file, "two", *REGULARIZED)
    assert_same_record("two", "one")
    assert not list((runs.CHECKPOINTS / "two" / "weights").glob(".*"))


def test_a_network_in_shards_trains_is_measured_and_goes_on_alone(text_file, alone):
    fit_on_two(TORCHRUN, text_file, "shards", *REGULARIZED, trainer__strategy="fsdp2")
    assert_same_record("shards", "one")
    newest, *_ = states(runs.CHECKPOINTS / "shards")
    newest.unlink()
    fit_alone(text_file, "shards", *REGULARIZED, "--resume", "auto", config="encoder", **SETTINGS)
    assert_same_record("shards", "one")


@pytest.mark.skipif(not os.environ.get("DYNAMICS_ALL_RANKS"), reason="a minute: set DYNAMICS_ALL_RANKS")
@pytest.mark.parametrize("option", [{"model__attention": "none"}, {"model__optimizer": "muon"}], ids=str)
def test_two_ranks_are_one_with(text_file, workplace, option):
    metrics = {"metrics": "[anisotropy, effective_rank]"}  # a network without attention has no scores
    fit_alone(text_file, "one", config="encoder", **SETTINGS | metrics, **option)
    fit_on_two(LIGHTNING, text_file, "two", **metrics, **option)
    assert_same_record("two", "one")


@pytest.mark.skipif(not os.environ.get("DYNAMICS_ALL_RANKS"), reason="a minute: set DYNAMICS_ALL_RANKS")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_resume_to_the_bit(text_file, workplace, strategy):
    chosen = {"trainer__strategy": strategy, "model__dropout": 0.1}
    fit_on_two(LIGHTNING, text_file, "a", *REGULARIZED, **chosen)
    shutil.copytree(runs.CHECKPOINTS / "a", runs.CHECKPOINTS / "b")
    states(runs.CHECKPOINTS / "b")[0].unlink()
    fit_on_two(LIGHTNING, text_file, "b", *REGULARIZED, "--resume", "auto", **chosen)
    assert_same_record("b", "a", 0, 0)


def rank_of(process):
    """The process of a rank's number 1 among the children of a launcher."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], **PIPES).stdout.split()
    for child in map(int, children):
        if "\0LOCAL_RANK=1\0" in Path(f"/proc/{child}/environ").read_text():
            return child
    raise AssertionError(f"no rank 1 among {children}")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the rank in /proc")
@pytest.mark.parametrize(
    "launcher",
    [
        LIGHTNING,
        pytest.param(
            TORCHRUN,
            marks=pytest.mark.skipif(not os.environ.get("DYNAMICS_ALL_RANKS"), reason="set DYNAMICS_ALL_RANKS"),
        ),
    ],
    ids=["lightning", "torchrun"],
)
def test_a_rank_that_is_killed_ends_the_others(text_file, workplace, launcher):
    endless = {"trainer__max_steps": 10**6, "trainer__val_check_interval": 10**6, "metrics": "[mean_norm]"}
    line = command(launcher, text_file, "killed", **endless)
    job = subprocess.Popen(line, env=with_tests() | {"OMP_NUM_THREADS": "1"}, **PIPES)
    folder = runs.CHECKPOINTS / "killed"
    while not states(folder):
        assert job.poll() is None, job.communicate()
        time.sleep(0.2)
    os.kill(rank_of(job), signal.SIGKILL)
    started = time.monotonic()
    _, errors = job.communicate(timeout=60)
    assert time.monotonic() - started < 60
    assert job.returncode != 0
    assert errors.count("another rank has ended; see what it reports.") <= 1
    if launcher is LIGHTNING:
        assert errors.count("Traceback") == 0
        assert errors.startswith("dynamics: another rank has ended; see what it reports. The newest state")
        assert runs.read("killed").status == "failed"


def test_a_network_in_shards_is_not_compiled(text_file, workplace, capsys):
    with mock.patch.dict(os.environ), pytest.raises(SystemExit):  # Lightning writes the group's address there
        fit_alone(text_file, "a", trainer__strategy="fsdp2", trainer__devices=1, model__compile="true")
    assert "model.compile has no effect with trainer.strategy fsdp2: remove one of them." in capsys.readouterr().err
