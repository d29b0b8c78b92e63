"""`dynamics fit` with regularisers: options, curves, resuming, stopping, ranks, refusals."""

import os
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from dynamics import record, runs
from dynamics.training.checkpoint import states
from tests.runs import fit
from tests.training.test_fit import refusal, weights

ISTAR = ("--model.regularizers+=IStar", "--model.regularizers.weight=-2")


@pytest.fixture(autouse=True)
def here(workplace):
    return workplace


def curve(run, metric):
    return record.read(run).query("site == 'train' and metric == @metric").value.tolist()


def test_a_regulariser_is_set_on_the_command_line_and_writes_its_terms(text_file):
    fit(text_file, "a", *ISTAR, "--model.regularizers+=CosReg", "--model.regularizers.weight=0.5")
    terms = zip(*(curve("a", name) for name in ("loss", "task_loss", "istar", "cosreg")), strict=True)
    assert all(loss == pytest.approx(sum(rest), rel=1e-5) for loss, *rest in terms)
    score = curve("a", "isoscore_star")
    assert curve("a", "istar") == pytest.approx([-2 * (1 - value) for value in score], rel=1e-5)
    assert score[-1] < score[0]
    assert runs.read("a").to_dict()["regularizers"]["istar"]["weight"] == -2


def test_accumulated_shares_give_mean_terms(text_file):
    fit(text_file, "a", *ISTAR, trainer__accumulate_grad_batches=2)
    assert curve("a", "loss") == pytest.approx(
        [sum(pair) for pair in zip(curve("a", "task_loss"), curve("a", "istar"), strict=True)], rel=1e-5
    )


@pytest.mark.parametrize("renew", ["full", "epoch", "2"])
def test_a_resumed_regularised_run_equals_one_that_was_not_stopped(text_file, renew):
    words = (*ISTAR, "--model.regularizers.reference_states=300", f"--model.regularizers.renew={renew}")
    fit(text_file, "whole", *words)
    fit(text_file, "killed", *words)
    states(runs.CHECKPOINTS / "killed")[0].unlink()
    fit(text_file, "killed", "--resume", "auto", *words)
    whole, killed = weights("whole"), weights("killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(text_file, monkeypatch, capsys):
    cross_entropy, calls = torch.nn.functional.cross_entropy, []

    def spoilt(*arguments):
        calls.append(arguments)
        return cross_entropy(*arguments) * (float("nan") if torch.is_grad_enabled() and len(losses()) == 4 else 1)

    def losses():
        return [1 for logits, *_ in calls if logits.requires_grad]

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", spoilt)
    with pytest.raises(SystemExit) as exit_:
        fit(text_file, "a", *ISTAR)
    assert exit_.value.code == 1
    message = capsys.readouterr().err
    assert "the task loss was the first to be nan, at step 4" in message
    assert "istar -" in message
    folder = runs.CHECKPOINTS / "a"
    assert [path.name for path in states(folder)] == ["step-0000000003.ckpt"]
    assert len(curve("a", "loss")) == 3
    assert runs.read("a").status == "failed"
    assert all(x.isfinite().all() for x in weights("a").values())


def test_a_regulariser_that_overflows_is_named(text_file, monkeypatch, capsys):
    monkeypatch.setattr("dynamics.models.regularizers.IStar.penalty", lambda self, value: value / 0)
    with pytest.raises(SystemExit) as exit_:
        fit(text_file, "a", *ISTAR)
    assert exit_.value.code == 1
    assert "istar was the first to be -inf, at step 1" in capsys.readouterr().err


def test_the_process_group_ends_before_the_interpreter(text_file, monkeypatch):
    groups = []
    monkeypatch.setattr("dynamics.training.curves.Curves.on_fit_end", lambda *_: groups.append(dist.is_initialized()))
    with mock.patch.dict(os.environ):  # Lightning writes the group's address there
        fit(text_file, "a", trainer__strategy="ddp", trainer__devices=1)
    assert groups == [True]
    assert not dist.is_initialized()


def test_bf16_trains(text_file):
    fit(text_file, "a", *ISTAR, trainer__precision="bf16-mixed")
    assert len(curve("a", "istar")) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model.regularizers+=IStarr",), "there is no class IStarr"),
        (("--model.regularizers+=IStar",), "weight is missing"),
        ((*ISTAR, "--model.regularizers.wieght=1"), "did you mean model.regularizers.weight?"),
        ((*ISTAR, "--model.regularizers.layers=[3]"), "IStar.layers names layer 3"),
        ((*ISTAR, "--model.regularizers.reference_weight=2"), "between 0 and 1"),
    ],
)
def test_a_wrong_regulariser_is_refused(text_file, capsys, words, message):
    assert message in refusal(capsys, text_file, "a", *words)
    assert not runs.CHECKPOINTS.exists()
