"""The lock of a run: one process at a time, and what is left of one that is gone."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import SoftFileLease

from dynamics import lock, runs
from dynamics.errors import InputError
from dynamics.run_info import ScanInfo

HOLD = """
import sys
from dynamics import lock, run_info, runs

lock.LEASE = float(sys.argv[1])
with runs.start(run_info.ScanInfo(run="a")) as run:
    (run.folder / "record").mkdir()
    (run.folder / "record" / "geometry-0000000000.parquet").touch()
    print("open", flush=True)
    sys.stdin.read()
"""
DEAD = 4194304  # no process has so high a number


@pytest.fixture(autouse=True)
def here(workplace):
    return workplace


def hold(lease=lock.LEASE):
    """Another process that has begun the run `a`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lease)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "open\n"
    return process


def resume():
    with runs.start(ScanInfo(run="a"), "auto") as run:
        return (run.folder / ".lock").read_text()


@pytest.fixture
def left(here):
    """A function that leaves a run with the lock of a process of a host, touched some seconds ago."""

    def leave(host, age, number=DEAD):
        with runs.start(ScanInfo(run="a")) as run:
            (run.folder / "record").mkdir()
            (run.folder / "record" / "geometry-0000000000.parquet").touch()
            text = (run.folder / ".lock").read_text()
            own = SoftFileLease(run.folder / ".lock", lease_duration=lock.LEASE).owner.hostname
        path = runs.CHECKPOINTS / "a" / ".lock"
        path.write_text(text.replace(f"pid={os.getpid()}", f"pid={number}").replace(own, host or own))
        touched = path.stat().st_mtime - age
        os.utime(path, (touched, touched))
        return path

    return leave


def test_a_run_that_is_open_elsewhere_is_refused_with_host_and_number_until_that_process_ends():
    process = hold()
    try:
        words = rf"the run a is open in another process \(number {process.pid} on {socket.gethostname()}\)"
        with pytest.raises(InputError, match=words):
            resume()
        assert runs.read("a").status == "running"
        assert not lock.is_abandoned(runs.CHECKPOINTS / "a")
    finally:
        process.communicate(timeout=600)
    assert process.returncode == 0
    resume()


def test_the_lock_of_a_process_that_was_killed_is_taken_over_and_its_leftovers_go(capsys):
    process = hold()
    process.kill()
    process.communicate(timeout=600)
    folder = runs.CHECKPOINTS / "a"
    assert lock.is_abandoned(folder)
    half = [
        folder / f".run.json.{process.pid}.tmp",
        folder / "record" / f".curves-0000000000.parquet.{process.pid}.tmp",
    ]
    theirs = folder / f".report.html.{os.getppid()}.tmp"  # a process that lives
    for path in (*half, theirs):
        path.touch()
    assert f"pid={os.getpid()}\n" in resume()
    assert f"was open in process {process.pid} on {socket.gethostname()}, which has ended" in capsys.readouterr().out
    assert not any(path.exists() for path in half)
    assert theirs.exists()
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize("host", [f"not-{socket.gethostname()}", f"{socket.gethostname()}?pidns-1"])
def test_the_lock_of_another_host_or_container_is_respected_until_its_heartbeat_is_old(left, host, capsys):
    path = left(host, lock.LEASE / 2)
    with pytest.raises(InputError, match=rf"number {DEAD} on {host.partition('?')[0]}"):
        resume()
    assert path.exists()
    assert not lock.is_abandoned(path.parent) or "pidns" in host
    os.utime(path, (0, path.stat().st_mtime - lock.LEASE))
    assert lock.is_abandoned(path.parent)
    resume()
    assert f"was open in process {DEAD}" in capsys.readouterr().out


def test_a_file_system_that_cannot_exchange_two_names_is_no_hindrance(left, monkeypatch):
    monkeypatch.setattr("filelock._soft.exchange_supported", lambda: False)
    monkeypatch.setattr("filelock._soft.break_lock_file", lambda *_: None)  # as on NFS: the marker stays
    path = left(None, 0, os.getppid())
    with pytest.raises(InputError, match=f"number {os.getppid()}"):
        resume()
    path.unlink()
    runs.shutil.rmtree(path.parent)
    left(None, 0)
    assert f"pid={os.getpid()}\n" in resume()


def test_a_lock_that_has_changed_since_it_was_judged_is_put_back(left):
    path = left("elsewhere", 1000)
    judged, text = path.stat(), path.read_text()
    os.utime(path, (0, judged.st_mtime + 1000))
    lock._set_aside(path, judged)
    assert path.read_text() == text
    lock._set_aside(path, path.stat())
    assert not list(path.parent.glob(".lock*"))


def test_a_lock_that_is_given_back_while_it_is_judged_is_taken(left, monkeypatch):
    path, acquire, refused = left(None, 0, os.getppid()), SoftFileLease.acquire, []

    def late(lease, *words, **settings):
        if lease.lock_file == str(path) and not refused:
            refused.append(path.unlink())
            raise lock.Timeout(str(path))
        return acquire(lease, *words, **settings)

    monkeypatch.setattr(SoftFileLease, "acquire", late)
    assert f"pid={os.getpid()}\n" in resume()
    assert refused


def test_a_process_whose_lock_is_taken_ends_without_another_write():
    process = hold(lease=0.3)
    path = runs.CHECKPOINTS / "a" / ".lock"
    path.unlink()
    before = (runs.CHECKPOINTS / "a" / "run.json").read_bytes()
    assert process.wait(600) == 1
    assert "is no longer the lock of this process" in process.communicate()[1]
    assert (runs.CHECKPOINTS / "a" / "run.json").read_bytes() == before


def test_a_disk_that_does_not_answer_ends_a_run_after_its_step(monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda *words: sent.append(words))
    lock._end(lock.LeaseCompromise(lock_file="x", token="y", reason="refresh-failed"))
    assert sent == [(os.getpid(), signal.SIGTERM)]
