"""Resuming a run: whatever stopped it, nothing is missing and nothing is mixed."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dynamics import files, record, run_info, runs
from dynamics.cli.main import main
from dynamics.files import Writer
from dynamics.lock import locked
from dynamics.models.language import LanguageModel
from dynamics.models.transformer import CharTransformerConfig, CharTransformerLM
from dynamics.training import checkpoint
from dynamics.training.checkpoint import save_weights, state_path, states
from tests.runs import fit, forget_digests, working_in
from tests.training.test_fit import geometry, refusal, weights

STUCK = """
import sys
from dynamics.training.checkpoint import Checkpoints
from tests.runs import fit

save = Checkpoints.save

def sticks(self, trainer):
    save(self, trainer)
    print("saved", flush=True)
    sys.stdin.read()

Checkpoints.save = sticks
fit(sys.argv[1], "cut", config="encoder")
"""
"""Trains to its first state and waits there."""


@pytest.fixture
def here(workplace):
    return workplace


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_file):
    """A run that all tests start from; none of them writes to it."""
    with working_in(tmp_path_factory.mktemp("finished")) as place:
        fit(text_file, "a")
    return place / runs.CHECKPOINTS / "a"


@pytest.fixture
def run(here, finished):
    """The finished run's copy, called a."""
    return shutil.copytree(finished, runs.CHECKPOINTS / "a")


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def assert_same(one, other):
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())
    assert geometry(one).equals(geometry(other))


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def test_a_kill_after_a_state_loses_nothing_before_it_and_its_lock_is_taken_over(here, text_file, capsys):
    paths = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", STUCK, str(text_file)]
    stuck = subprocess.Popen(
        command,
        env=os.environ | paths,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "saved\n" in iter(stuck.stdout.readline, "")
    message = refusal(capsys, text_file, "cut", "--resume", "auto", config="encoder")
    assert f"the run cut is open in another process (number {stuck.pid} on " in message
    stuck.kill()
    stuck.communicate(timeout=600)
    assert (runs.CHECKPOINTS / "cut" / ".lock").exists()
    assert runs.read("cut").status == "running"
    assert [path.name for path in states(runs.CHECKPOINTS / "cut")] == ["step-0000000003.ckpt"]
    fit(text_file, "cut", "--resume", "auto", config="encoder")
    fit(text_file, "whole", config="encoder")
    assert_same("cut", "whole")


def test_a_run_whose_file_has_no_schema_resumes(text_file, run):
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({key: content[key] for key in content if key != "schema"}))
    forget_digests(run)
    shutil.copytree(run, runs.CHECKPOINTS / "b")
    states(run)[0].unlink()
    fit(text_file, "a", "--resume", "auto")
    assert_same("a", "b")
    assert runs.read("a").schema == run_info.SCHEMA


def test_a_run_that_stops_before_the_last_step_resumes_from_there(here, text_file, run, monkeypatch):
    def stop(self, outputs, batch, index):
        self.trainer.should_stop = self.trainer.global_step == 4

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "on_train_batch_end", stop)
        fit(text_file, "b")
    assert runs.read("b").status == "stopped"
    assert states(runs.CHECKPOINTS / "b")[0].name == "step-0000000004.ckpt"
    fit(text_file, "b", "--resume", "auto")
    assert runs.read("b").status == "done"
    assert all(torch.equal(tensor, weights("b")[name]) for name, tensor in weights("a").items())


def test_rows_of_an_attempt_without_a_state_are_deleted(here, text_file, run):
    fit(text_file, "b", checkpoints__every=100)
    states(runs.CHECKPOINTS / "b")[0].unlink()
    fit(text_file, "b", "--resume", "auto")
    assert_same("a", "b")


@pytest.mark.parametrize("content", ["whole", "damaged"])
def test_a_run_that_has_gone_on_since_its_state_was_chosen_is_refused(text_file, run, capsys, monkeypatch, content):
    """As by a process that is asked to stop and saves while the one that follows it starts."""
    newer, before = state_path(run, 7), contents(run)

    def late(folder):
        newer.write_bytes(states(run)[0].read_bytes() if content == "whole" else b"")
        return locked(folder)

    monkeypatch.setattr(runs, "locked", late)
    words = ["--resume", "auto", "--trainer.max_steps", "9"]
    assert "the run a has gone on meanwhile: resume it again" in refusal(capsys, text_file, "a", *words)
    assert newer.exists()
    assert {path: text for path, text in contents(run).items() if path != newer} == before


def test_resuming_deletes_what_a_kill_left_half_written(text_file, run):
    half = [
        state_path(run, 5).with_name(".step-0000000005.ckpt.tmp"),
        run / "weights" / ".step-0000000004.4194304.tmp",
    ]
    half[0].write_bytes(b"half")
    (half[1] / "inside").mkdir(parents=True)
    fit(text_file, "a", "--resume", "auto", trainer__max_steps=7)
    assert not any(path.exists() for path in half)


def test_resuming_from_before_the_end_deletes_the_states_and_weights_after_it(here, text_file, run):
    fit(text_file, "a", "--resume", str(state_path(run, 3)), trainer__max_steps=7, checkpoints__every=1)
    assert [path.name for path in states(run)] == ["step-0000000007.ckpt", "step-0000000006.ckpt"]
    assert not runs.weights_path(run, 6).exists()
    assert set(record.read("a").step) == set(range(8))


@pytest.mark.parametrize("harm", [damage, lambda path: os.truncate(path, 5000), lambda path: path.write_text("x")])
def test_a_damaged_state_is_left_out_for_the_one_before(here, text_file, run, harm, caplog):
    shutil.copytree(run, runs.CHECKPOINTS / "b")
    newest = states(runs.CHECKPOINTS / "b")[0]
    harm(newest)
    fit(text_file, "b", "--resume", "auto")
    assert f"{newest} is damaged" in caplog.text
    assert_same("a", "b")


def test_weights_on_a_full_disk_raise_an_os_error_and_leave_nothing(tmp_path):
    network = CharTransformerLM(CharTransformerConfig(hidden_size=64, num_hidden_layers=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            save_weights(network, tmp_path / "weights", Writer())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["state/step-0000000003.ckpt", "record/geometry-0000000002.parquet"])
def test_a_write_that_fails_ends_the_run_with_its_sentence_and_nothing_is_written_after_it(
    here, text_file, capsys, monkeypatch, name
):
    write, folder = files.write_atomically, runs.CHECKPOINTS / "full"

    def fail(path, content, **settings):
        if path == folder / name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content, **settings)

    for module in (checkpoint, record):
        monkeypatch.setattr(module, "write_atomically", fail)
    assert f"cannot use {folder / name}: No space left on device" in refusal(capsys, text_file, "full")
    assert runs.read("full").status == "failed"
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / name).exists()
    assert not state_path(folder, 6).exists()


def test_a_run_with_damaged_states_only_is_refused_and_nothing_is_lost(text_file, run, capsys):
    for path in states(run):
        damage(path)
    before = contents(run)
    assert "are damaged" in refusal(capsys, text_file, "a", "--resume", "auto")
    assert "damaged" in refusal(capsys, text_file, "a", "--resume", str(states(run)[0]))
    assert contents(run) == before


def test_a_run_does_not_resume_with_another_text(here, text_file, run, capsys):
    before, other = contents(run), here / "other.txt"
    other.write_text(text_file.read_text()[::-1])  # the same characters, the same sizes
    assert "made with sha256" in refusal(capsys, other, "a", "--resume", "auto")
    for verb in ("validate", "test"):
        with pytest.raises(SystemExit) as exit_:
            main([verb, "--run", "a", "--data.corpus", str(other)])
        assert exit_.value.code == 2
        assert "made with sha256" in capsys.readouterr().err
    assert contents(run) == before


def test_a_file_that_is_not_a_state_is_refused(here, text_file, run, capsys):
    other = here / "other.ckpt"
    torch.save({"weights": torch.zeros(2)}, other)
    assert "not a training state" in refusal(capsys, text_file, "a", "--resume", str(other))


def test_a_damaged_part_of_the_curves_is_named(text_file, run, capsys):
    (part,) = (run / "record").glob("curves-*")
    os.truncate(part, 300)
    assert part.name in refusal(capsys, text_file, "a", "--resume", "auto", trainer__max_steps=8)


def test_resuming_needs_a_name(here, text_file, capsys):
    assert "--run NAME" in refusal(capsys, text_file, None, "--resume", "auto")
    assert not runs.CHECKPOINTS.exists()


@pytest.mark.parametrize(
    ("keep", "left"), [("newest", [6, 3]), ("measured", [6, 4, 2, 1]), ("all", [6, 5, 4, 3, 2, 1])]
)
def test_states_are_kept_as_asked_and_their_volume_is_printed(here, text_file, capsys, keep, left):
    every = 1 if keep == "all" else 3
    fit(text_file, "a", checkpoints__keep=keep, checkpoints__every=every)
    kept = [int(path.stem.removeprefix("step-")) for path in states(runs.CHECKPOINTS / "a")]
    assert kept == left
    most = len(left) + 2 * (keep == "measured")  # the two newest may not be measured
    assert f"training states {most} x 0.0843 MB" in capsys.readouterr().out
    if keep == "measured":
        fit(text_file, "b", "--resume", str(state_path(runs.CHECKPOINTS / "a", 1)))
        assert all(torch.equal(tensor, weights("b")[name]) for name, tensor in weights("a").items())
