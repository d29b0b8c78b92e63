"""A SLURM of one machine for tests, and its jobs."""

import os
import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SWITCH = "DYNAMICS_SLURM"  # the tests of SLURM run where this is set, as `make test-slurm` does
TOOL = os.environ.get("SLURM_CLUSTER", str(ROOT.parent / "shared" / "tools" / "slurm_cluster.sh"))
"""A script that starts a SLURM of this machine and writes $SLURM_BASE/env.sh; slurm_stop.sh beside it stops it."""
PATIENCE = 300  # seconds until a test gives up on a job
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def call(*words, **settings):
    """What a command prints; it must succeed."""
    done = subprocess.run([*map(str, words)], **PIPES, **settings)
    assert done.returncode == 0, f"{words}: {done.stdout}"
    return done.stdout


@contextmanager
def started(folder):
    """A SLURM with the nodes n1 and n2, each of which claims 8 CPUs; where none can be had, the test is skipped."""
    if SWITCH not in os.environ:
        pytest.skip(f"{SWITCH} is not set: `make test-slurm` runs the tests of SLURM")
    if not Path(TOOL).is_file():
        pytest.skip(f"there is no {TOOL} to start a SLURM with (SLURM_CLUSTER names another)")
    if os.geteuid() != 0:
        pytest.skip("only root can start a SLURM")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_BASE", str(folder))
        patch.setenv("SLURM_NODES", "2")
        stop = [str(Path(TOOL).with_name("slurm_stop.sh")), "--purge"]
        try:
            done = subprocess.run([TOOL], **PIPES, stdin=subprocess.DEVNULL, timeout=PATIENCE)
            if done.returncode != 0:
                pytest.skip(f"SLURM does not start: {done.stdout.strip().splitlines()[-1:]}")
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            yield
        finally:
            subprocess.run(stop, **PIPES, check=False)


def submit(*words):
    """The number of a new job."""
    return re.match(r"\d+", call("sbatch", "--parsable", *words))[0]


def show(job):
    """What SLURM knows of a job."""
    return dict(re.findall(r"(\w+)=(\S*)", call("scontrol", "show", "job", job)))


def wait(reached, what, seconds=PATIENCE):
    """Wait until something holds."""
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until, f"waited {seconds} s in vain: {what}"
        time.sleep(0.2)


def finish(job):
    """Wait until a job has ended; its last state and what is known of it."""
    wait(lambda: show(job)["JobState"] in ENDED, f"job {job} is {show(job)['JobState']}")
    return show(job)
