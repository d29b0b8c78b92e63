"""A sweep as a job array: every run is an element, one that fails is tried once more and named, the page is drawn."""

import re
import shlex
import subprocess
import sys

import yaml

from dynamics import runs
from tests.launch.cluster import PIPES
from tests.runs import CONFIGS, TINY, arguments

WORDS = ["--config", str(CONFIGS / "decoder.yaml"), "--trainer.callbacks+", "tests.launch.slow.Stumbles"]


def test_a_sweep_of_four_runs_as_a_job_array(slurm, text_file):
    settings = TINY | {"data.corpus": text_file, "trainer.val_check_interval": 1}
    steps = {"option": "--trainer.max_steps={}", "values": [4, 5]}
    fit = {"plain": shlex.join([*WORDS, *arguments(settings)])}
    (slurm / "a.yaml").write_text(yaml.safe_dump({"fit": fit, "vary": {"steps": steps}, "seeds": [0, 1]}))
    command = [sys.executable, "-m", "dynamics", "sweep", "a.yaml", "--launcher", "slurm"]
    done = subprocess.run([*command, "--sbatch=--time=10 --nodelist=n2"], **PIPES)
    assert done.returncode == 0, done.stdout
    assert re.findall(r"job array \d+ has (\d) runs", done.stdout) == ["4", "1"]
    assert "a-plain-steps_5-seed_1 failed: it has stumbled." in done.stdout
    assert "once more: a-plain-steps_5-seed_1" in done.stdout
    info = runs.read("a")
    assert (info.status, info.failed, len(info.runs)) == ("done", {}, 4)
    assert {runs.read(name).status for name in info.runs} == {"done"}
    assert all(name in (runs.CHECKPOINTS / "a" / "report.html").read_text() for name in info.runs)
