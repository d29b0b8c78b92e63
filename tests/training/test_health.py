"""Bad numbers: updates that are skipped, losses that jump, states that are not overwritten."""

import logging

import numpy as np
import pytest
import torch

from dynamics import record, runs
from dynamics.errors import InputError
from dynamics.models.guard import Guard
from dynamics.models.language import LanguageModel
from dynamics.training.checkpoint import states
from dynamics.training.health import Health
from dynamics.training.monitor import Monitor
from tests.models.test_guard import loss, problem
from tests.runs import fit
from tests.training.test_fit import weights


def test_a_spike_lies_sigmas_above_the_window_before_it(caplog):
    losses = np.random.default_rng(0).normal(3, 0.1, size=200)
    health = Health(sigmas=6, window=128)
    assert [health.spike(step, value) for step, value in enumerate(losses)] == [None] * 200
    before = losses[-128:]
    edge = before.mean() + 6 * before.std()
    assert health.spike(200, edge - 0.001) is None
    before = [*losses[-127:], edge - 0.001]
    assert health.spike(201, 5.0) == pytest.approx((5 - np.mean(before)) / np.std(before))
    assert "spike: the loss 5 at step 201 lies" in caplog.text


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_neither_a_spike_nor_in_the_window(bad):
    health, other = Health(window=3), Health(window=3)
    for step, value in enumerate((1.0, bad, 1.1, 0.9)):
        assert health.spike(step, value) is None
    other.begin([7.0, 1.0, 1.1, 0.9])
    assert health.spike(4, 9.0) == other.spike(4, 9.0) > 6


def test_nothing_is_a_spike_before_the_window_is_full_or_where_nothing_varies():
    assert [Health(window=3).spike(step, value) for step, value in enumerate((1.0, 2.0, 99.0))] == [None] * 3
    health = Health(window=2)
    assert [health.spike(step, value) for step, value in enumerate((1.0, 1.0, 2.0))] == [None] * 3


@pytest.mark.parametrize("settings", [{"skip": -1}, {"sigmas": 0}, {"sigmas": float("nan")}, {"window": 1}])
def test_settings_that_say_nothing_are_refused(settings):
    (name,) = settings
    with pytest.raises(InputError, match=rf"health\.{name} must be"):
        Health(**settings)


def test_a_guard_skips_as_many_updates_as_it_may_and_no_more(caplog):
    parameters, optimizer = problem()
    guard, before = Guard(), [weight.detach().clone() for weight in parameters]
    guard.allowed = 1
    parameters[0].grad[0, 0] = float("nan")
    guard.before_update(optimizer, 5, loss(), is_scaled=False)
    guard.clip(optimizer, 1.0)
    optimizer.step()
    assert all(torch.equal(weight, old) for weight, old in zip(parameters, before, strict=True))
    assert list(guard.skipped) == [5]
    assert "at step 5 (task_loss 1): the update was not made. (1 of 1 that may be skipped)" in caplog.text
    with pytest.raises(Exception, match="at step 6"):
        guard.before_update(optimizer, 6, loss(), is_scaled=False)


def failure(capsys, text_file, run="a", *words, **settings):
    """What a run that fails (exit code 1) says."""
    with pytest.raises(SystemExit) as exit_:
        fit(text_file, run, *words, **settings)
    assert exit_.value.code == 1
    return capsys.readouterr().err


def spoil(monkeypatch, steps, value=float("nan")):
    """Have the loss of some steps be spoilt."""
    training_step = LanguageModel.training_step

    def spoilt(self, batch, index):
        result = training_step(self, batch, index)
        if index + 1 not in steps:
            return result
        self._unchecked = [{"task_loss": result.detach() * value}]
        return result * value

    monkeypatch.setattr(LanguageModel, "training_step", spoilt)


def test_a_run_may_skip_bad_updates_and_records_them_and_resumes_with_their_number(
    workplace, text_file, monkeypatch, capsys
):
    spoil(monkeypatch, {2, 5})
    fit(text_file, "whole", health__skip=2)
    frame = record.read("whole")
    train = frame[frame.site == "train"].set_index("step")
    assert train[train.metric == "skipped_updates"].value.to_dict() == {2: 1.0, 5: 2.0}
    bad = train[(train.metric == "loss") & train.value.isna()]
    assert list(bad.index) == [2, 5]
    assert set(bad.reason) == {"what the network computed is not finite"}
    assert all(tensor.isfinite().all() for tensor in weights("whole").values())
    fit(text_file, "cut", health__skip=2)
    states(runs.CHECKPOINTS / "cut")[0].unlink()
    message = failure(capsys, text_file, "cut", "--resume", "auto", health__skip=1)
    assert "the task loss was the first to be nan, at step 5" in message
    fit(text_file, "cut", "--resume", "auto", health__skip=2)
    same = [
        rows[rows.site == "train"].drop(columns="run").reset_index(drop=True) for rows in (frame, record.read("cut"))
    ]
    assert same[0].equals(same[1])


def test_a_run_without_leave_to_skip_stops_and_keeps_its_last_good_state(workplace, text_file, monkeypatch, capsys):
    spoil(monkeypatch, {5})
    assert "The newest state from before: checkpoints/a/state/step-0000000003" in failure(capsys, text_file)
    assert [path.name for path in states(runs.CHECKPOINTS / "a")] == ["step-0000000003.ckpt"]


def test_a_spike_is_logged_and_recorded_also_right_after_a_run_resumes(workplace, text_file, monkeypatch, caplog):
    spoil(monkeypatch, {5}, 50.0)
    settings = {"health__window": 3, "health__sigmas": 20.0}
    for run in ("whole", "cut"):
        fit(text_file, run, **settings)
    states(runs.CHECKPOINTS / "cut")[0].unlink()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        fit(text_file, "cut", "--resume", "auto", **settings)
    assert "at step 5 lies" in caplog.text
    spikes = [record.read(run).query("metric == 'loss_spike'").drop(columns="run") for run in ("whole", "cut")]
    assert spikes[0].step.tolist() == [5]
    assert spikes[0].reset_index(drop=True).equals(spikes[1].reset_index(drop=True))


def test_weights_that_are_not_finite_are_never_saved(workplace, text_file, monkeypatch, capsys):
    measure = Monitor.on_train_batch_end

    def overflow(self, trainer, pl_module, *arguments):
        measure(self, trainer, pl_module, *arguments)
        if trainer.global_step == 6:
            with torch.no_grad():
                next(pl_module.network.parameters())[0] = float("inf")

    monkeypatch.setattr(Monitor, "on_train_batch_end", overflow)
    message = failure(capsys, text_file, trainer__val_check_interval=100)
    assert "are not finite at step 6: no state is saved. The newest state from before: checkpoints/a/state" in message
    assert [path.name for path in states(runs.CHECKPOINTS / "a")] == ["step-0000000003.ckpt"]
