"""A disk that is full, or will be: refused before, or one sentence with what is needed; nothing half written stays."""

import errno
import os
import shutil
import subprocess

import pytest

from dynamics import files, runs
from dynamics.files import write_atomically
from dynamics.run_info import FitInfo
from dynamics.training.checkpoint import states
from tests.runs import fit
from tests.training.test_fit import refusal

SIZE = 8 << 20


@pytest.fixture
def small_disk(workplace):
    """Runs on a file system of 8 MiB; skipped where this user may not mount one."""
    runs.CHECKPOINTS.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(runs.CHECKPOINTS)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield workplace / runs.CHECKPOINTS
    subprocess.run(["umount", str(workplace / runs.CHECKPOINTS)], check=True)


def fill(folder, leave):
    """Leave some bytes of a file system free."""
    with (folder / "filler").open("wb") as file:
        file.write(bytes(files.free_bytes(folder) - leave))


def test_a_run_that_will_not_fit_is_refused_before_it_leaves_anything(small_disk, text_file, capsys):
    message = refusal(capsys, text_file, "a", model__width=512, model__depth=4)
    assert "bytes for weights and training states, and checkpoints has 8,3" in message
    assert "monitor.keep_weights, checkpoints.keep" in message
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_while_a_run_trains_costs_no_state_that_it_had(small_disk, text_file, capsys, monkeypatch):
    resume = [text_file, "a", "--resume", "auto"]
    fit(text_file, "a", model__width=64)
    newest = states(small_disk / "a")[0]
    content = newest.read_bytes()
    fill(small_disk, files.RESERVE + len(content) // 2)
    monkeypatch.setattr("dynamics.training.fit.require_room", lambda *_: None)  # it was not full yet
    message = refusal(capsys, *resume, model__width=64, trainer__max_steps=9, monitor__keep_weights="none")
    assert "cannot use checkpoints/a/state/step-0000000009.ckpt: No space left on device" in message
    assert " bytes or more are needed, " in message
    assert newest.read_bytes() == content
    assert not list(small_disk.rglob("*.tmp"))
    assert runs.read("a").status == "failed"
    (small_disk / "filler").unlink()
    fit(*resume, model__width=64, trainer__max_steps=9, monitor__keep_weights="none")
    assert runs.read("a").status == "done"


def test_a_write_that_the_disk_cuts_short_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"before")

    def cut_short(file):
        file.write(b"x" * 1000)
        file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # without a name, as `write` raises it

    with pytest.raises(OSError, match="1,000 bytes or more are needed") as error:
        write_atomically(path, cut_short)
    assert error.value.filename == str(path)
    assert [item.name for item in tmp_path.glob("[!.]*")] == ["a"]
    assert path.read_bytes() == b"before"


def test_nothing_is_begun_without_room_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda path: files.RESERVE + 9)
    write_atomically(tmp_path / "a", lambda file: file.write(b"123456789"), size=9)
    with pytest.raises(OSError, match="10 bytes or more are needed"):
        write_atomically(tmp_path / "b", lambda file: pytest.fail("begun"), size=10)
    assert [item.name for item in tmp_path.glob("[!.]*")] == ["a"]


def test_a_disk_that_takes_no_run_json_does_not_hide_what_ended_the_run(workplace, monkeypatch):
    def fails(self, status):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run.json")

    monkeypatch.setattr(runs.Run, "finish", fails)

    def body():
        with runs.start(FitInfo(run="a")) as run:
            (run.folder / "record").mkdir()
            (run.folder / "record" / "geometry-0000000000.parquet").touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "state")

    with pytest.raises(OSError, match="state"):
        body()
