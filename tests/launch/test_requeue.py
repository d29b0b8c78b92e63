"""A job that its time limit, or one of more priority, stops goes on to its end, as if nothing had stopped it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dynamics import runs
from dynamics.training.checkpoint import states
from tests.faults.chain import differences
from tests.launch.cluster import ROOT, call, finish, show, submit, wait
from tests.runs import CONFIGS, TINY, arguments

SLURM = ROOT / "launch" / "slurm.sh"
STEPS = 400  # of a second each, where a test slows them down
SETTINGS = TINY | {
    "model.dropout": 0.1,  # the generators count
    "trainer.max_steps": STEPS,
    "trainer.val_check_interval": STEPS // 4,
    "checkpoints.every": STEPS // 8,
    "trainer.callbacks+": "tests.launch.slow.Slow",
}


def fit(run, text_file, *options):
    """Submit a run; the number of its job."""
    words = ["fit", "--config", CONFIGS / "decoder.yaml", "--run", run]
    words += arguments(SETTINGS | {"data.corpus": text_file})
    return submit("--job-name", run, "--output", f"{run}.out", *options, SLURM, *words)


def slowly(run, text_file, *options):
    Path(f"{run}.slow").touch()
    return fit(run, text_file, *options)


def until_it_trains(run):
    Path(f"{run}.trains").unlink(missing_ok=True)
    wait(Path(f"{run}.trains").exists, f"{run} does not train")


def until_restart(job, number):
    wait(lambda: int(show(job)["Restarts"]) >= number, f"job {job} is not requeued")


def cancelled(text_file):
    """A job that gets the signal as soon as its process is there, and is cancelled later."""
    job = slowly("cancelled", text_file, "--nodelist=n1")
    wait(lambda: f"{job}.0" in call("squeue", "--steps", "--noheader"), "it does not start")
    call("scancel", "--signal=USR1", job)
    until_restart(job, 1)
    until_it_trains("cancelled")
    call("scancel", job)
    return finish(job)


def displaced(text_file):
    """A job of two ranks in the place of which a more urgent one runs for a while."""
    job = slowly("displaced", text_file, "--nodelist=n2", "--ntasks-per-node=2")
    until_it_trains("displaced")
    urgent = ["--partition=urgent", "--nodes=1", "--nodelist=n2", "--ntasks=8", "--output=/dev/null", "--wrap=sleep 1"]
    finish(submit(*urgent))
    assert runs.read("displaced").status == "interrupted"
    Path("displaced.slow").unlink()
    return finish(job)


def limited(text_file):
    """A job that its time limit stops twice."""
    job = slowly("limited", text_file, "--nodelist=n1", "--signal=USR1@90")
    for number in (1, 2):
        until_it_trains("limited")
        hours, minutes, _ = map(int, show(job)["RunTime"].split(":"))
        soon = 60 * hours + minutes + 2  # minutes; SLURM looks every 30 s whose end is near
        call("scontrol", "update", f"JobId={job}", f"TimeLimit={soon}")
        until_restart(job, number)
        call("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    Path("limited.slow").unlink()
    return finish(job)


def whole(text_file):
    return finish(fit("whole", text_file, "--nodelist=n1"))


def whole_of_two(text_file):
    return finish(fit("whole-of-two", text_file, "--nodelist=n1", "--ntasks-per-node=2"))


@pytest.fixture(scope="module")
def ends(slurm, text_file):
    """What becomes of the jobs, which run side by side: by the name of each, a future of what SLURM knows of it."""
    jobs = cancelled, displaced, limited, whole, whole_of_two
    with ThreadPoolExecutor() as pool:
        yield {job.__name__: pool.submit(job, text_file) for job in jobs}


def test_a_signal_to_a_process_that_just_starts_costs_a_restart_and_scancel_ends_the_job(ends):
    known = ends["cancelled"].result()
    assert (known["JobState"], known["Restarts"]) == ("CANCELLED", "1"), Path("cancelled.out").read_text()
    wait(lambda: runs.read("cancelled").status == "interrupted", "it is not saved")
    assert states(runs.CHECKPOINTS / "cancelled")


@pytest.mark.parametrize(("name", "restarts", "same"), [("displaced", 1, "whole_of_two"), ("limited", 2, "whole")])
def test_a_job_that_is_stopped_goes_on_as_if_nothing_had_happened(ends, name, restarts, same):
    known, other = ends[name].result(), ends[same].result()
    assert (known["JobState"], known["Restarts"]) == ("COMPLETED", str(restarts)), Path(f"{name}.out").read_text()
    assert (other["JobState"], other["Restarts"]) == ("COMPLETED", "0")
    assert list(differences(same.replace("_", "-"), name)) == []
    assert not list(Path("checkpoints").rglob("hpc_ckpt*"))  # Lightning's own way of going on
