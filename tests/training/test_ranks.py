"""What the first rank does alone: the others wait as long as it takes, and end when it fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from dynamics import runs
from dynamics.errors import Failure, InputError
from dynamics.lightning_compat import end_other_ranks
from dynamics.training import ranks
from dynamics.training.ranks import NAME, SIZES, agree_on, on_first_rank
from tests.runs import CONFIGS, TINY, arguments
from tests.test_lightning_compat import trainer

PATIENCE = 600  # seconds until a test gives up: half of what a rank that nobody ends would take
ROOT = Path(__file__).resolve().parents[2]
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def with_tests():
    """The environment of a process that may import the tests."""
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def two_ranks(scenario, folder):
    """Exit codes, and what the two printed."""
    command = [sys.executable, "-m", "tests.training.ranks", scenario]
    ranks = [
        subprocess.Popen([*command, str(rank), str(folder / "store")], env=with_tests(), **PIPES) for rank in (0, 1)
    ]
    printed = [rank.communicate(timeout=PATIENCE) for rank in ranks]
    return [rank.returncode for rank in ranks], printed


def test_one_rank_alone_works():
    assert on_first_rank(lambda: 3) == 3


def test_a_wait_lasts_as_long_as_it_takes_and_a_refusal_of_the_first_rank_is_that_of_all(tmp_path):
    codes, printed = two_ranks("refuses_at_last", tmp_path)
    assert codes == [0, 0], printed
    assert [out for out, _ in printed] == ["done\nInputError it does not work: leave it out.\n"] * 2


def test_the_death_of_the_first_rank_ends_all(tmp_path):
    codes, printed = two_ranks("dies", tmp_path)
    assert codes == [7, 0], printed
    assert printed[1][0] == "Failure the first rank has ended; see what it reports.\n"


def test_an_error_that_is_not_ours_is_told_in_words(monkeypatch):
    sent = []
    monkeypatch.setattr(ranks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(ranks.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(ranks.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(ranks.dist, "broadcast_object_list", lambda outcome, **_: sent.extend(outcome))
    monkeypatch.setattr(ranks, "_patient_group", lambda world: None)
    with pytest.raises(ZeroDivisionError):
        on_first_rank(lambda: 1 / 0)
    assert sent[0] is None
    assert isinstance(sent[1], Failure)
    assert str(sent[1]) == "the first rank has failed (ZeroDivisionError: division by zero)."


@pytest.fixture
def environment(monkeypatch):
    """An environment without ranks, as rank 0."""
    for name in (NAME, *SIZES, "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ranks, "is_first_rank", lambda: True)
    yield monkeypatch
    os.environ.pop(NAME, None)


def test_ranks_that_lightning_starts_learn_the_name_from_the_first(environment):
    assert agree_on("a") == "a"
    environment.setattr(ranks, "is_first_rank", lambda: False)
    environment.setenv("WORLD_SIZE", "2")
    assert agree_on("b") == "a"


def test_ranks_of_torchrun_take_the_first_name_in_its_store(environment):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    environment.setenv("MASTER_ADDR", "127.0.0.1")
    environment.setenv("MASTER_PORT", str(store.port))
    assert [agree_on("a"), agree_on("b")] == ["a", "a"]
    environment.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert agree_on("c") == "c"


@pytest.mark.parametrize("size", SIZES)
def test_other_ranks_need_a_name(environment, size):
    environment.setenv(size, "2")
    with pytest.raises(InputError, match="add --run NAME"):
        agree_on("a")


def test_a_later_run_of_the_process_has_a_name_of_its_own(environment):
    assert [agree_on("a"), agree_on("b")] == ["a", "b"]


def test_ranks_that_were_started_are_ended():
    waiting = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    there = trainer(strategy="ddp", devices=2)
    there.strategy.launcher.procs.append(waiting)
    end_other_ranks(there)
    assert waiting.wait(PATIENCE) == -9
    end_other_ranks(trainer())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--metrics", "[tests.training.breaking.Broken]"], 2, "broken cannot be measured: leave it out."),
        (["--trainer.callbacks+=tests.training.breaking.Occupied"], 1, "File exists"),
    ],
)
def test_a_run_whose_first_rank_fails_ends_with_its_message(workplace, text_file, words, code, message):
    chosen = {key: value for key, value in TINY.items() if key != "metrics" or "--metrics" not in words}
    chosen |= {"data.corpus": text_file, "trainer.strategy": "ddp", "trainer.devices": 2}
    command = [sys.executable, "-m", "dynamics", "fit", "--config", str(CONFIGS / "decoder.yaml"), "--run", "two"]
    done = subprocess.run([*command, *arguments(chosen), *words], env=with_tests(), **PIPES, timeout=PATIENCE)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert code == 1 or done.stderr.count(message) == 1
    if runs.exists(runs.CHECKPOINTS / "two"):
        assert runs.read("two").status == "failed"
