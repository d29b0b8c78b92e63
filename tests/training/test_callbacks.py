"""The order of callbacks, which their priorities state."""

import re

import pytest
import yaml

from dynamics import runs
from dynamics.training.background import Background
from dynamics.training.checkpoint import Checkpoints
from dynamics.training.curves import Curves
from dynamics.training.lightning_cli import RunCLI
from dynamics.training.monitor import Monitor
from dynamics.training.progress import ProgressBar
from dynamics.training.signals import Interrupt
from tests.runs import CONFIGS, TINY, arguments, fit

ORDER = [Curves, Monitor, Checkpoints, Interrupt, ProgressBar, Background]


def build(**settings):
    words = ["--config", str(CONFIGS / "decoder.yaml"), *arguments(TINY | settings)]
    return RunCLI(runs.CHECKPOINTS / "a", words).trainer


@pytest.mark.parametrize("bar", [True, False])
def test_callbacks_stand_by_priority_after_those_of_the_user(workplace, bar):
    of_the_user = [{"class_path": "lightning.pytorch.callbacks.LambdaCallback"}]
    trainer = build(
        **{"trainer.callbacks": yaml.safe_dump(of_the_user, default_flow_style=True)},
        **{"trainer.enable_progress_bar": str(bar).lower()},
    )
    names = [type(callback).__name__ for callback in trainer.callbacks]
    assert names == ["LambdaCallback", *(kind.__name__ for kind in ORDER if bar or kind is not ProgressBar)]


def test_no_two_callbacks_have_one_priority():
    priorities = [kind.priority for kind in ORDER]
    assert sorted(set(priorities), reverse=True) == priorities


def test_the_bar_shows_losses_and_the_time_spent_measuring(workplace, text_file, capsys):
    fit(text_file, "a", trainer__enable_progress_bar="true", trainer__max_steps=10)
    printed = capsys.readouterr().out
    bar = printed.split("\r")[-1]
    assert bar.startswith("a: 100%")
    assert all(word in bar for word in ("bpc=", "val_bpc=", "measuring="))
    assert "Validation" not in printed


def test_the_bar_is_drawn_when_some_time_has_passed(workplace, text_file, capsys, monkeypatch):
    times = iter([0.0, 0.1, 0.15, 0.3, 0.35, 0.4])
    monkeypatch.setattr(ProgressBar, "clock", staticmethod(lambda: next(times)))
    fit(text_file, "a", trainer__enable_progress_bar="true", trainer__max_steps=6)
    counts = re.findall(r"a:[^\r]*?(\d+)/6", capsys.readouterr().out)
    assert set(counts) == {"0", "1", "4", "6"}


def test_the_bar_of_a_resumed_run_goes_on_to_the_same_end(workplace, text_file, capsys):
    settings = {"model__final_learning_rate": 1.0, "trainer__enable_progress_bar": "true"}
    fit(text_file, "a", **settings, trainer__accumulate_grad_batches=2)
    capsys.readouterr()
    fit(text_file, "a", "--resume", "auto", **settings, trainer__max_steps=10, trainer__accumulate_grad_batches=2)
    bars = [part for part in capsys.readouterr().out.split("\r") if part.startswith("a:")]
    counts = [tuple(map(int, re.search(r"(\d+)/(\d+)", bar).groups())) for bar in bars]
    assert counts[0] == (12, 20)
    assert counts[-1] == (20, 20)
    assert {total for _, total in counts} == {20}


def test_the_bar_of_a_run_that_goes_on_within_its_epoch(workplace, text_file, capsys):
    bar = {"trainer__enable_progress_bar": "true"}
    fit(text_file, "a", **bar, checkpoints__keep="all")
    (workplace / "checkpoints" / "a" / "state" / "step-0000000006.ckpt").unlink()
    capsys.readouterr()
    fit(text_file, "a", "--resume", "auto", **bar, checkpoints__keep="all")
    bars = [part for part in capsys.readouterr().out.split("\r") if part.startswith("a:")]
    assert re.search(r"[34]/6", bars[0])
    assert "6/6" in bars[-1]
