"""`dynamics fit`: what a run leaves, how it resumes, what it refuses."""

import logging
import os
import signal
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from dynamics import record, run_info, runs
from dynamics.config import read_config
from dynamics.errors import InputError
from dynamics.measure import Missing
from dynamics.measure.measurement import measure
from dynamics.models.language import LanguageModel
from dynamics.training.checkpoint import states
from tests.operations import Nondeterministic
from tests.runs import CONFIGS, fit


def weights(run):
    (newest, *_) = states(runs.CHECKPOINTS / run)
    return torch.load(newest, weights_only=True)["state_dict"]


def geometry(run):
    frame = record.read(run)
    frame = frame[~frame.metric.str.contains("seconds")].drop(columns="run")
    return frame.reset_index(drop=True)


def refusal(capsys, *args, **settings):
    with pytest.raises(SystemExit) as exit_:
        fit(*args, **settings)
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("dynamics: ")
    assert len(message.splitlines()) <= 3
    assert "Traceback" not in message
    return message


@pytest.fixture
def here(workplace):
    return workplace


def test_a_run_leaves_everything_under_its_name(here, text_file):
    fit(text_file, "a")
    folder = runs.CHECKPOINTS / "a"
    assert {p.name for p in folder.glob("[!.]*")} == {
        *("config.yaml", "run.json", "tokenizer.json", "tokenizer_config.json"),
        *("record", "weights", "state"),
    }
    frame = record.read("a")
    assert list(frame.columns) == record.COLUMNS
    assert not frame.duplicated(record.KEY).any()
    residual = frame[(frame.site == "residual") & (frame.metric == "anisotropy")]
    assert sorted(set(residual.step)) == [0, 1, 2, 4, 6]
    assert sorted(set(residual.layer)) == [0, 1, 2]
    entropy = frame[frame.metric == "entropy"]
    assert sorted(set(entropy["layer"])) == [1, 2]
    assert sorted(set(entropy["head"])) == [-1, 0, 1]
    assert frame[(frame.site == "train") & (frame.metric == "loss")].step.tolist() == [1, 2, 3, 4, 5, 6]
    assert sorted(set(frame[frame.site == "validation"].step)) == [0, 3, 6]
    assert (frame[(frame.metric == "drift") & (frame.step == 0)].value == 0).all()
    info = runs.read("a")
    assert isinstance(info, run_info.FitInfo)
    assert (info.status, info.schema, info.unknown) == ("done", run_info.SCHEMA, {})
    assert info.data["sha256"]
    assert (info.label, info.layers, info.width, info.context) == ("causal, clm", 2, 16, 32)


@pytest.mark.parametrize("step", [4, 3])  # no state is due after it; a state, and a validation before it
def test_ctrl_c_stops_after_a_step_with_its_state_saved(here, text_file, monkeypatch, capsys, step):
    training_step, presses = LanguageModel.training_step, [2 * step - 2]

    def pressed(self, batch, index):
        if index in presses:  # the first half of the step
            presses.clear()
            signal.raise_signal(signal.SIGINT)
        return training_step(self, batch, index)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(LanguageModel, "training_step", pressed)
    with pytest.raises(SystemExit) as exit_:
        fit(text_file, "cut", trainer__accumulate_grad_batches=2)
    assert exit_.value.code == 130
    assert signal.getsignal(signal.SIGINT) is handler
    printed = capsys.readouterr()
    assert f"step-{step:010d}.ckpt) with --resume auto" in printed.out
    assert printed.err.endswith("dynamics: interrupted.\n")
    assert runs.read("cut").status == "interrupted"
    assert states(runs.CHECKPOINTS / "cut")[0].name == f"step-{step:010d}.ckpt"
    fit(text_file, "cut", "--resume", "auto", trainer__accumulate_grad_batches=2)
    fit(text_file, "shares", trainer__accumulate_grad_batches=2)
    whole, cut = weights("shares"), weights("cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert geometry("shares").equals(geometry("cut"))


def test_measured_weights_load_through_transformers(here, text_file):
    fit(text_file, "a")
    saved = sorted((runs.CHECKPOINTS / "a" / "weights").iterdir())
    assert [path.name for path in saved] == [f"step-{step:010d}" for step in (0, 1, 2, 4, 6)]
    network = AutoModelForCausalLM.from_pretrained(saved[-1])
    last = weights("a")
    assert all(torch.equal(p, last[f"network.{name}"]) for name, p in network.named_parameters())
    trunk = AutoModel.from_pretrained(saved[-1])
    assert all(torch.equal(p, last[f"network.model.{name}"]) for name, p in trunk.named_parameters())


def test_one_seed_gives_one_run_to_the_bit_and_another_seed_another(here, text_file):
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(text_file, run, seed_everything=seed)
    a, b, c = (weights(run) for run in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert geometry("a").equals(geometry("b"))
    assert not all(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize("config", ["decoder", "encoder"])
def test_the_monitor_does_not_touch_the_training(here, text_file, config):
    fit(text_file, "often", config=config, model__dropout=0.1)
    fit(
        text_file,
        "seldom",
        *("--monitor.schedule.class_path", "dynamics.schedule.Every"),
        *("--monitor.schedule.init_args.interval", 100),
        config=config,
        model__dropout=0.1,
    )
    often, seldom = weights("often"), weights("seldom")
    assert all(torch.equal(often[name], seldom[name]) for name in often)
    loss = [
        record.read(run).query("site == 'train' and metric == 'loss'").value.tolist() for run in ("often", "seldom")
    ]
    assert loss[0] == loss[1]


def test_what_is_not_measured_is_said_once_a_run(here, text_file, caplog):
    """No two tokens: nothing has a dimension, at any of the steps."""
    fit(text_file, "a", metrics="[intrinsic_dimension, mean_norm]", data__probe_tokens=1, data__context=4)
    messages = [entry.getMessage() for entry in caplog.records if entry.name == "dynamics.measure.meter"]
    assert messages
    assert len(messages) == len(set(messages))
    assert not logging.getLogger("dynamics.measure.meter").filters


@pytest.mark.parametrize("config", ["decoder", "encoder"])
def test_every_operation_of_a_run_has_a_deterministic_kernel(here, text_file, config):
    with Nondeterministic() as operations:
        fit(text_file, "a", "--model.regularizers+=IStar", "--model.regularizers.weight=1", config=config)
    assert operations.count
    assert operations.names == set()


def test_parameters_without_a_gradient_are_no_hindrance_to_ddp(here, text_file):
    words = ["--trainer.callbacks+=tests.training.breaking.Spare", "--model.architecture", "gpt2"]
    with mock.patch.dict(os.environ):  # Lightning writes the group's address there
        fit(text_file, "a", *words, trainer__strategy="ddp", trainer__devices=1, metrics="[mean_norm]")
    assert runs.read("a").status == "done"


def test_a_strict_monitor_refuses_what_it_cannot_measure(here, text_file, monkeypatch, capsys):
    def lacking(*args, **settings):
        return measure(*args, **settings)._replace(missing=[Missing("entropy", "attention", (1,), "no softmax")])

    monkeypatch.setattr("dynamics.training.monitor.measure", lacking)
    fit(text_file, "lenient", trainer__max_steps=1)
    with pytest.raises(SystemExit, match="2"):
        fit(text_file, "strict", trainer__max_steps=1, monitor__strict="true")
    assert "monitor.strict: entropy at attention: no softmax; remove it from" in capsys.readouterr().err
    assert not Path("checkpoints/strict").exists()


def test_the_configurations_of_twins_differ_in_mask_and_objective_alone():
    twins = [read_config(CONFIGS / f"{name}.yaml") for name in ("decoder", "encoder", "causal-mlm")]
    switches = [[twin["model"]["init_args"].pop(key) for key in ("is_causal", "objective")] for twin in twins]
    assert switches == [[True, "clm"], [False, "mlm"], [True, "mlm"]]
    assert twins[0] == twins[1] == twins[2]


def test_twins_start_alike_and_part(here, text_file):
    for config in ("decoder", "encoder", "causal-mlm"):
        fit(text_file, config, config=config)
    start = [
        AutoModelForCausalLM.from_pretrained(runs.CHECKPOINTS / config / "weights" / f"step-{0:010d}")
        for config in ("decoder", "encoder", "causal-mlm")
    ]
    parameters = [dict(network.named_parameters()) for network in start]
    assert [network.config.is_causal for network in start] == [True, False, True]
    for name, first in parameters[0].items():
        assert all(torch.equal(first, other[name]) for other in parameters[1:])
    decoder, causal_mlm = weights("decoder"), weights("causal-mlm")
    assert any(not torch.equal(decoder[name], causal_mlm[name]) for name in decoder)


def test_a_resumed_run_equals_one_that_was_not_stopped(here, text_file):
    fit(text_file, "whole", config="encoder", model__dropout=0.1)
    fit(text_file, "killed", config="encoder", model__dropout=0.1)
    folder = runs.CHECKPOINTS / "killed"
    # As a kill between steps 3 and 6 leaves it: the newest state is gone, later rows are still there.
    states(folder)[0].unlink()
    fit(text_file, "killed", "--resume", "auto", config="encoder", model__dropout=0.1)
    whole, killed = weights("whole"), weights("killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert geometry("whole").equals(geometry("killed"))


def test_a_run_can_be_made_longer(here, text_file):
    fit(text_file, "a", model__final_learning_rate=1.0)
    fit(text_file, "a", "--resume", "auto", model__final_learning_rate=1.0, trainer__max_steps=9)
    frame = record.read("a")
    assert frame[(frame.site == "train") & (frame.metric == "loss")].step.tolist() == list(range(1, 10))
    assert not frame.duplicated(record.KEY).any()
    fit(text_file, "b", model__final_learning_rate=1.0, trainer__max_steps=9)
    assert all(torch.equal(weights("a")[name], tensor) for name, tensor in weights("b").items())


def test_resuming_without_a_state_starts_from_the_beginning(here, text_file):
    fit(text_file, "a", "--resume", "auto")
    assert runs.read("a").status == "done"


def test_accumulation_gives_the_same_windows_and_nearly_the_same_weights(here, text_file):
    fit(text_file, "whole", config="encoder")
    fit(text_file, "parts", config="encoder", trainer__accumulate_grad_batches=2)
    losses = [record.read(run).query("site == 'train' and metric == 'loss'").value for run in ("whole", "parts")]
    assert losses[0].to_numpy() == pytest.approx(losses[1].to_numpy(), rel=1e-4)


def test_a_checkpoint_loads_without_its_data(here, text_file):
    fit(text_file, "a")
    (newest, *_) = states(runs.CHECKPOINTS / "a")
    module = LanguageModel.load_from_checkpoint(newest, weights_only=True)
    assert torch.equal(module.network.lm_head.weight, weights("a")["network.lm_head.weight"])


def test_evaluating_a_run(here, text_file, capsys):
    fit(text_file, "a")
    from dynamics.cli.main import main

    before = record.read("a")
    main(["validate", "--run", "a"])
    pd.testing.assert_frame_equal(record.read("a"), before)  # the rows of its last validation
    main(["validate", "--run", "a", "--data.validation_windows", "4"])
    assert "(not recorded: 4 validation windows, 8 in the run)" in capsys.readouterr().out
    pd.testing.assert_frame_equal(record.read("a"), before)
    main(["test", "--run", "a"])
    assert "test/bits_per_character at step 6" in capsys.readouterr().out
    frame = record.read("a")
    test = frame[frame.site == "test"]
    assert set(test.metric) == {"loss", "bits_per_character"}
    assert (set(test.step), set(frame.condition)) == ({6}, {""})


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"data__contxt": 5}, "contxt"),
        ({"monitor__schedule__class_path": "dynamics.schedule.Evry"}, "did you mean Every?"),
        ({"model__class_path": "nowhere.Model"}, "there is no module nowhere"),
        ({"trainer__max_step": 5}, "max_steps"),
        ({"model__depth": "deep"}, "depth must be int"),
        ({"model__is_causal": "false"}, "sees the character"),
        ({"model__heads": 5}, "5 heads"),
        ({"metrics": "[anisotrpy]"}, "anisotropy"),
        ({"metrics": "{anisotropy: {sites: [query]}}"}, "query"),
        ({"metrics": "[]"}, "metrics is empty"),
        ({"data__context": 5000}, "less than one window"),
        ({"trainer__max_steps": -1}, "max_steps"),
        ({"checkpoints__every": 0}, "checkpoints.every"),
        ({"seed_everything": -1}, "seed_everything"),
        ({"metrics": "{anisotropy: 3}"}, "metrics must be dict or list (got 3)"),
        ({"model__learning_rate": -1}, "learning rate"),
        ({"model__betas": "[0.9, 2]"}, "betas"),
        ({"trainer__val_check_interval": 0}, "val_check_interval must be positive"),
        ({"trainer__devices": 0}, "devices"),
        ({"trainer__devices": "x"}, "trainer.devices must be auto, a number or a list of numbers (got x)"),
        ({"trainer__devices": -3}, "trainer.devices -3"),
        ({"monitor__keep_weights": "some"}, "all, last, none"),
    ],
)
def test_bad_settings_are_refused_and_leave_no_run(here, text_file, capsys, settings, word):
    assert word in refusal(capsys, text_file, "bad", **settings)
    assert not (runs.CHECKPOINTS / "bad").exists()


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "missing.txt"), (b"", "no"), (b"caf\xe9 " * 500, "not UTF-8"), (b"short", "window")],
)
def test_bad_corpora_are_refused_and_leave_no_run(here, capsys, content, word):
    path = here / "missing.txt"
    if content is not None:
        path.write_bytes(content)
    assert word in refusal(capsys, path, "bad")
    assert not (runs.CHECKPOINTS / "bad").exists()


@pytest.mark.parametrize(("error", "status"), [(InputError("no"), None), (RuntimeError("no"), "failed")])
def test_an_error_before_the_first_step_discards_a_run_only_where_the_input_is_wrong(
    here, text_file, monkeypatch, error, status
):
    def fails(self, batch, index):
        raise error

    monkeypatch.setattr(LanguageModel, "training_step", fails)
    with pytest.raises(SystemExit if status is None else RuntimeError):
        fit(text_file, "a")
    assert (runs.read("a").status if runs.find("a") else None) == status


def test_a_name_that_exists_is_refused_and_nothing_is_lost(here, text_file, capsys):
    fit(text_file, "a")
    before = {p: p.stat().st_mtime_ns for p in (runs.CHECKPOINTS / "a").rglob("*")}
    message = refusal(capsys, text_file, "a")
    assert "--resume" in message
    assert {p: p.stat().st_mtime_ns for p in (runs.CHECKPOINTS / "a").rglob("*")} == before


def test_a_made_up_name_is_printed(here, text_file, capsys):
    fit(text_file, None)
    (folder,) = runs.CHECKPOINTS.iterdir()
    assert folder.name in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--size", "huge"], ["--config", "nowhere.yaml"], ["--resume", "nowhere.ckpt"]])
def test_files_that_are_missing_are_named(here, text_file, capsys, words):
    assert words[1] in refusal(capsys, text_file, "bad", *words)
    assert not (runs.CHECKPOINTS / "bad").exists()


def test_a_place_that_cannot_be_written_is_named(here, text_file, capsys):
    (here / "checkpoints").write_text("a file in the way")
    assert "checkpoints" in refusal(capsys, text_file, "a")
