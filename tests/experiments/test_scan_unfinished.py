"""A scan that is stopped inside a subject goes on there, to the record of a scan in one go."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from dynamics import runs
from dynamics.measure import unfinished
from tests.experiments.test_scan import geometry, offline, save, scan  # noqa: F401

METRICS = "{drift: null, isoscore: {tokens: 40}, entropy: {windows: 8}}"
BATCHES = 6
WORDS = ("series", "--revisions", "step0,step2", "--text", "lines.txt", "--lines", "--batch_size", "2")
KILLED = """
import os, signal, sys
from dynamics.cli.main import main
from dynamics.measure import unfinished

unfinished.LEAST = unfinished.REST = 0
note, left = unfinished.Unfinished._note, [int(sys.argv[1])]

def stop(self, batch):
    note(self, batch)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

unfinished.Unfinished._note = stop
main(sys.argv[2:])
"""


@pytest.fixture
def series(workplace, monkeypatch):
    """A model at two steps, and texts for six batches; states are saved before every batch."""
    for seed, step in enumerate(("step0", "step2")):
        save("bert", workplace / "series" / step, seed)
    generator = torch.Generator().manual_seed(0)
    words = ["cat", "mat", "quietly", "sat", "nobody"]
    lines = [[words[i] for i in torch.randint(5, (3 + n,), generator=generator)] for n in range(2 * BATCHES)]
    Path("lines.txt").write_text("".join(f"{' '.join(line)}\n" for line in lines))
    monkeypatch.setattr(unfinished, "LEAST", 0)
    monkeypatch.setattr(unfinished, "REST", 0)


def same(frame, other):
    frame, other = (geometry(part).drop(columns="run").reset_index(drop=True) for part in (frame, other))
    pd.testing.assert_frame_equal(frame, other, check_exact=True)


def files(run):
    return sorted(str(path.relative_to(runs.CHECKPOINTS / run)) for path in (runs.CHECKPOINTS / run).rglob("*"))


def interrupt(monkeypatch, after):
    note, left = unfinished.Unfinished._note, [after]

    def stop(self, batch):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        note(self, batch)

    monkeypatch.setattr(unfinished.Unfinished, "_note", stop)


def test_a_process_that_is_killed_or_interrupted_loses_one_batch(series, monkeypatch, capsys):
    whole, told = scan(*WORDS, run="whole", metrics=METRICS)
    command = [sys.executable, "-c", KILLED, "4", "scan", *WORDS, "--run", "r", "--metrics", METRICS]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    capsys.readouterr()
    with monkeypatch.context() as patch:
        interrupt(patch, BATCHES + 4)
        with pytest.raises(SystemExit):
            scan(*WORDS, "--resume", "auto", metrics=METRICS)
    assert "series@step0: goes on after 3 batches" in capsys.readouterr().out
    assert list(runs.read("r").subjects) == ["series@step0"]
    assert [path.suffix for path in (runs.CHECKPOINTS / "r").glob("unfinished-*")] == [".pt"]
    frame, again = scan(*WORDS, "--resume", "auto", metrics=METRICS)
    assert "series@step2: goes on after 4 batches" in capsys.readouterr().out
    same(frame, whole)
    assert again["subjects"] == told["subjects"]
    assert files("r") == files("whole")  # nothing is left over
