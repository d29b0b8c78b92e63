import json
import os
import socket
import subprocess
import time

import numpy as np
import pytest

from dynamics import record, runs
from dynamics.errors import Failure
from dynamics.record import Row
from dynamics.report.names import DASH, number
from dynamics.run_info import FitInfo
from dynamics.watch.listing import Listing


@pytest.fixture
def row(store):
    """The row of a run."""
    listing = Listing(store)
    return lambda key: {row["key"]: row for row in listing.rows()}[key]


def age(folder, seconds):
    """Have every file of a run be written so long ago."""
    then = time.time() - seconds
    for path in [*folder.rglob("*")]:
        os.utime(path, (then, then))


def ended_process():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def lock(folder, pid):
    facts = {"pid": pid, "host": socket.gethostname(), "mode": "lease", "token": "0", "duration": 120.0}
    (folder / ".lock").write_text("filelock/2\n" + "".join(f"{key}={value}\n" for key, value in facts.items()))


def test_a_run_that_is_done(row, make):
    make("d0")
    frame = record.read("d0")
    newest = frame[frame["step"] == frame["step"].max()]
    last = newest[(newest["site"] == "validation") & (newest["metric"] == "bits_per_character")]["value"].item()
    anisotropy = newest[(newest["site"] == "residual") & (newest["metric"] == "anisotropy") & (newest["layer"] > 0)]
    one = row("d0")
    assert (one["state"], one["says"], one["step"], one["last"], one["left"]) == ("done", "", 200, 200, 0)
    numbers = {entry["name"]: entry["text"] for entry in one["numbers"]}
    assert numbers["validation bits per character"] == number(last)
    assert numbers["anisotropy"] == number(anisotropy["value"].mean())
    assert ["", "decoder (causal, clm)"] in one["settings"]
    assert ["corpus", "enwik8"] in one["settings"]
    # ten measurements of 0.4 s, 200 steps of 0.11 s
    assert one["share"] == pytest.approx(4 / (4 + 22))


def test_a_run_under_way_says_how_long_it_needs(row, make, small):
    folder = make("d0", status="running", max_steps=300, finished="")
    lock(folder, os.getpid())
    one = row("d0")
    assert (one["state"], one["step"], one["last"]) == ("running", 200, 300)
    assert one["left"] == pytest.approx(100 * 0.11 * (1 + 4 / 22))
    json.dumps(one, allow_nan=False)


@pytest.mark.parametrize(
    ("is_held", "seconds", "state", "says"),
    [
        (True, 30, "running", ""),
        (True, 3600, "stalled", "its process is there, but writes nothing"),
        (False, 5, "running", ""),
        (False, 3600, "stalled", "its process is gone"),
    ],
)
def test_a_run_that_writes_nothing_is_stalled(row, make, is_held, seconds, state, says):
    folder = make("d0", status="running")
    lock(folder, os.getpid() if is_held else ended_process())
    age(folder, seconds)
    one = row("d0")
    assert (one["state"], one["says"]) == (state, says)
    assert one["written"] == pytest.approx(time.time() - seconds, abs=5)


def test_a_slow_run_may_be_silent_for_longer(row, make):
    folder = make("d0", status="running")
    record.Record(folder).write(200, [Row("d0", "", "", 200, "cost", -1, -1, "measure_seconds", 1800.0)])
    lock(folder, os.getpid())
    age(folder, 3600)
    assert row("d0")["state"] == "running"


def test_a_layer_without_a_value_leaves_no_mean(row, place):
    rows = [Row("a", "", "", 0, "residual", i, -1, "anisotropy", value) for i, value in enumerate((0.9, 0.5, np.nan))]
    record.Record(place / "checkpoints" / "a").write(0, rows)
    assert [(entry["name"], entry["text"]) for entry in row("a")["numbers"]] == [("anisotropy", DASH)]


def test_a_run_that_fails_says_why_and_one_that_is_stopped_does_not(row, place):
    def run(name, error):
        with runs.start(FitInfo(run=name)) as begun:
            record.Record(begun.folder).write(0, [Row(name, "", "", 0, "residual", 1, -1, "anisotropy", 0.5)])
            raise error

    with pytest.raises(Failure):
        run("broken", Failure("the loss is not finite at step 7; the states before it remain."))
    with pytest.raises(KeyboardInterrupt):
        run("stopped", KeyboardInterrupt())
    assert (row("broken")["state"], row("broken")["says"]) == (
        "failed",
        "the loss is not finite at step 7; the states before it remain",
    )
    assert (row("stopped")["state"], row("stopped")["says"]) == ("interrupted", "")
    with runs.start(FitInfo(run="broken"), resume="auto"):
        assert runs.read("broken").error == ""


def test_empty_and_foreign_runs_have_a_row(row, small, place):
    small("foreign")
    odd = {
        "kind": "fit",
        "max_steps": "many",
        "descriptions": [1],
        "subjects": 3,
        "data": 7,
        "status": ["x"],
        "label": {"a": 1},
    }
    (place / "checkpoints" / "foreign" / "run.json").write_text(json.dumps(odd))
    (place / "checkpoints" / "empty").mkdir()
    (place / "checkpoints" / "empty" / "run.json").write_text('{"kind": "fit", "status": "running"}')
    small("bare")
    assert "is not what it must be" in row("foreign")["problem"]
    assert row("bare")["state"] == "unknown"
    assert row("empty")["numbers"] == []
    assert (row("empty")["state"], row("empty")["step"]) == ("running", 0)


def test_a_sweep_counts_its_runs(row, make, place):
    make("s-0")
    make("s-1", status="failed")
    sweep = place / "checkpoints" / "s"
    sweep.mkdir()
    (sweep / "run.json").write_text(
        json.dumps({"kind": "sweep", "status": "running", "runs": {"s-0": [], "s-1": [], "s-2": []}})
    )
    assert [row("s")[key] for key in ("step", "last", "unit")] == [1, 3, "run"]


def test_the_list_reads_the_newest_parts_alone(row, make, monkeypatch):
    from dynamics.watch import parts

    read = []
    for kind in ("geometry", "curves"):
        whole = getattr(parts, kind)
        monkeypatch.setattr(parts, kind, lambda path, *more, whole=whole: read.append(path.name) or whole(path, *more))
    make("d0")
    row("d0")
    row("d0")
    assert read == ["geometry-0000000200.parquet", "curves-0000000100.parquet"]
