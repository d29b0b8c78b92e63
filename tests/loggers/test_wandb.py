"""The view of a run in W&B: what is sent, under which names, and what happens where the server does not answer."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import wandb

from dynamics import runs
from dynamics.cli.main import main
from dynamics.errors import InputError
from dynamics.loggers import about, upload
from dynamics.loggers.names import RowLogger, flat_name
from dynamics.loggers.wandb import WandbLogger, pick_mode
from dynamics.measure import measure
from dynamics.models.transformer import CharTransformerConfig, CharTransformerLM
from tests.loggers.stand_in import StandIn
from tests.runs import CONFIGS, fit

CLASS = "dynamics.loggers.wandb.WandbLogger"


@pytest.fixture
def server(workplace, monkeypatch):
    with StandIn() as stand_in:
        for key, value in stand_in.environment.items():
            monkeypatch.setenv(key, value)
        wandb.teardown()
        yield stand_in
        wandb.teardown()


def train(text_file, run="a", *words, steps=6, log_heads=False, artifact=False, **settings):
    logger = json.dumps({"class_path": CLASS, "init_args": {"log_heads": log_heads, "artifact": artifact}})
    fixed = {"trainer__precision": "32-true", "model__final_learning_rate": 1.0}
    settings = fixed | {"metrics": "[anisotropy, entropy]", "checkpoints__every": 100} | settings
    fit(text_file, run, *words, trainer__logger=logger, trainer__max_steps=steps, **settings)


def logs(run="a"):
    return sorted((runs.CHECKPOINTS / run / "wandb").glob("*run-*/*.wandb"))


def entries(log):
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", str(log), "--json"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def sync(path, server):
    command = [Path(sys.executable).with_name("wandb"), "sync", str(path)]
    subprocess.run(command, env=os.environ | server.environment, check=True, capture_output=True)


def steps_of(run):
    return [row["_step"] for row in run.history]


def test_a_run_online(text_file, server, capfd):
    train(text_file, metrics="[anisotropy, drift, logit_max]", artifact=True)
    (run,) = server.runs.values()
    assert steps_of(run) == [0, 1, 2, 3, 4, 5, 6]
    assert all(row["trainer/global_step"] == row["_step"] for row in run.history)
    assert run.config == {key: value for key, value in about.config(runs.read("a")).items() if key != "finished"}
    assert run.config["metrics"]["residual"] == {"anisotropy": None}
    assert run.config["data"]["sha256"]
    keys = {key for row in run.history for key in row if "/" in key}
    assert {run.defined[key] for key in keys - {"trainer/global_step"}} == {"trainer/global_step"}
    assert not [key for key in keys if "_head/" in key]
    assert {row["_step"] for row in run.history if "layer_by_step/anisotropy" in row} == {0, 1, 2, 4, 6}
    assert {row["_step"] for row in run.history if "attention_logits/layer_02" in row} == {0, 1, 2, 4}
    assert run.summary["anisotropy/peak_layer"] in (1, 2)
    assert run.summary["train/loss_min_step"] in range(1, 7)
    assert run.facts["tags"] == ["clm", "causal", "text", "seed 0"]
    files = server.artifacts["a-record"]["files"]
    assert {"report.html", "record/curves-0000000000.parquet", "record/geometry-0000000006.parquet"} <= set(files)
    assert "is marked" not in (runs.CHECKPOINTS / "a" / "report.html").read_text()
    printed = capfd.readouterr()
    assert len([line for line in (printed.out + printed.err).splitlines() if "W&B" in line or "wandb" in line]) == 1


def test_an_outage_in_the_middle_of_a_run_loses_nothing(text_file, server):
    journal = runs.CHECKPOINTS / "a" / "wandb" / "journal.jsonl"

    def fail_for_a_while():
        server.wait(lambda: server.runs and journal.is_file() and b'"step": 3' in journal.read_bytes())
        server.outage = True
        server.wait(lambda: server.refused > 1)
        server.outage = False

    with_outage = threading.Thread(target=fail_for_a_while)
    with_outage.start()
    train(text_file, steps=60, **{"trainer__callbacks+": "tests.loggers.slow.Slow"})
    with_outage.join()
    (run,) = server.runs.values()
    assert server.refused > 1
    assert steps_of(run) == list(range(61))
    assert run.exit_code == 0


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_where_the_process_of_wandb_dies_another_one_takes_over(text_file, server, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    row, killed = upload.Upload._row, []

    def kill_at_step_3(self, entry):
        if entry.step == 3 and not killed:
            killed.extend(kill_client())
        return row(self, entry)

    monkeypatch.setattr(upload.Upload, "_row", kill_at_step_3)
    train(text_file)
    (log,) = logs()
    assert killed
    if mode == "offline":
        sync(log.parent, server)
    (run,) = server.runs.values()
    assert steps_of(run) == [0, 1, 2, 3, 4, 5, 6]


def kill_client():
    """Kill the processes of W&B's client that this one has started; yields their numbers."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        if name == "wandb-core" and int(rest.split()[1]) == os.getpid():
            os.kill(int(path.parent.name), signal.SIGKILL)
            yield int(path.parent.name)


def test_what_the_server_does_not_take_at_the_end_is_logged_offline(text_file, server, capsys, monkeypatch):
    monkeypatch.setattr(upload, "FINISH_SECONDS", 2)

    def fail(*_):
        (run,) = server.runs.values()
        server.wait(lambda: len(run.history) > 3)
        server.outage = True

    monkeypatch.setattr(about, "artifact", fail)
    train(text_file, artifact=True)
    assert "did not take everything within 2 seconds; all of it is logged offline" in capsys.readouterr().out
    (log,) = logs()
    server.outage = False
    sync(log.parent, server)
    (run,) = server.runs.values()
    assert steps_of(run) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("key", "word"), [("k" * 40, "CommError: "), ("", "there is no key: wandb login")])
def test_without_a_server_or_a_key_a_run_is_logged_offline(text_file, workplace, capsys, monkeypatch, key, word):
    wandb.teardown()
    monkeypatch.setattr(upload, "INIT_SECONDS", 1)
    for name, value in {"MODE": "online", "BASE_URL": "http://127.0.0.1:9", "API_KEY": key}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("NETRC", str(workplace / "netrc"))
    train(text_file)
    printed, (log,) = capsys.readouterr().out, logs()
    assert f"W&B is logged offline ({word}" in printed
    assert f"wandb sync {log.parent}\n" in printed
    wandb.teardown()


def test_an_offline_run_that_resumes_is_one_log(text_file, server, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(text_file, steps=3)
    before = logs()
    train(text_file, "a", "--resume", "auto", steps=5)
    (log,) = logs()
    assert log not in before
    history = [entry["history"] for entry in entries(log) if entry["type"] == "history"]
    assert len(history) == 6
    sync(log.parent, server)
    (run,) = server.runs.values()
    assert steps_of(run) == [0, 1, 2, 3, 4, 5]
    assert {row["_step"] for row in run.history if "layer_by_step/anisotropy" in row} == {0, 1, 2, 3, 4, 5}
    printed = capfd.readouterr()
    lines = [line for line in (printed.out + printed.err).splitlines() if "W&B" in line or "wandb" in line]
    assert lines == [f"W&B was logged offline; send it: wandb sync {path.parent}" for path in (*before, log)]


def test_a_finished_run_that_goes_on_continues_its_history(text_file, server):
    train(text_file, steps=3)
    (run,) = server.runs.values()
    assert steps_of(run) == [0, 1, 2, 3]
    train(text_file, "a", "--resume", "auto", steps=5)
    assert len(server.runs) == 1
    assert steps_of(run) == [0, 1, 2, 3, 4, 5]
    assert run.summary["train/loss_max_step"] == 1


def test_steps_that_are_trained_again_with_other_values_are_named(text_file, server, capsys, monkeypatch):
    train(text_file, checkpoints__every=3)
    state = runs.CHECKPOINTS / "a" / "state" / "step-0000000003.ckpt"
    train(text_file, "a", "--resume", str(state), checkpoints__every=3)
    assert "keeps the values" not in capsys.readouterr().out
    monkeypatch.setattr("dynamics.training.continuation.refuse_configuration", lambda cli: None)
    train(text_file, "a", "--resume", str(state), checkpoints__every=3, data__validation_windows=1)
    assert "keeps the values of before the resume up to step 6: at step 6 its validation/" in capsys.readouterr().out
    (run,) = server.runs.values()
    assert steps_of(run) == [0, 1, 2, 3, 4, 5, 6]


def test_heads_are_logged_where_they_are_asked_for(text_file, workplace):
    train(text_file, log_heads="entropy_head/L01.*")
    journal = (runs.CHECKPOINTS / "a" / "wandb" / "journal.jsonl").read_text()
    assert "entropy_head/L01H01" in journal
    assert "entropy_head/L02H01" not in journal
    with pytest.raises(InputError, match="log_heads"):
        WandbLogger(log_heads="(")


def test_a_model_of_twelve_layers_has_at_most_500_keys():
    import torch

    network = CharTransformerLM(CharTransformerConfig(hidden_size=32, num_hidden_layers=12, num_attention_heads=8))
    batch = {"input_ids": torch.randint(0, network.config.vocab_size, (4, 32))}
    logger = WandbLogger(mode="offline")
    keys = {key for key in map(flat_name, measure(network, [batch]).rows) if logger._is_logged(key)}
    assert 300 < len(keys) <= 460  # 40 are left for curves, costs and pictures


def test_a_group_is_what_differs_in_its_seed_alone(text_file, workplace):
    for run, options in {"a": {}, "b": {"seed_everything": 1}, "c": {"model__learning_rate": 0.1}}.items():
        fit(text_file, run, metrics="[mean_norm]", trainer__max_steps=2, **options)
    groups = {run: about.group(runs.read(run)) for run in "abc"}
    assert groups["a"] == groups["b"] != groups["c"]
    assert groups["a"].startswith("causal, clm, 2 x 16 (")


def test_what_other_callbacks_log_stands_at_the_step_that_it_made(text_file, workplace):
    train(text_file, **{"trainer__callbacks+": "lightning.pytorch.callbacks.LearningRateMonitor"})
    lines = map(json.loads, (runs.CHECKPOINTS / "a" / "wandb" / "journal.jsonl").read_text().splitlines())
    rates = {line["step"]: value for line in lines for key, value in line["values"].items() if key.startswith("lr-")}
    assert list(rates) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("given", "set_", "mode"),
    [
        (None, None, "online"),
        (None, "dryrun", "offline"),
        ("online", "offline", "online"),
        (None, "disabled", "disabled"),
    ],
)
def test_the_mode_is_that_of_the_configuration_then_of_the_environment(monkeypatch, given, set_, mode):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if set_:
        monkeypatch.setenv("WANDB_MODE", set_)
    assert pick_mode(given) == mode


def test_a_logger_that_is_disabled_leaves_nothing(text_file, workplace, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    train(text_file)
    assert not (runs.CHECKPOINTS / "a" / "wandb").exists()
    assert isinstance(WandbLogger(), RowLogger)


WITHOUT_WANDB = """
import sys
sys.modules["wandb"] = None
from dynamics.cli.main import main
for logger in ([], ["--trainer.logger", "false"]):
    try:
        main(["fit", *sys.argv[1:], *logger])
    except SystemExit as exit:
        assert exit.code == 2
"""


def test_a_configuration_that_names_the_logger_runs_without_wandb():
    words = ["--config", str(CONFIGS / "decoder.yaml"), "--data.corpus", "none.txt", "--run", "a"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_WANDB, *words], capture_output=True, text=True)
    with_logger, without = done.stderr.strip().splitlines()
    assert "the package wandb is missing" in with_logger
    assert "none.txt" in without


def test_a_client_that_fails_ends_no_run(text_file, workplace, monkeypatch, capsys):
    def fail(**_):
        raise ValueError("a bug\nof the client")

    monkeypatch.setattr(wandb, "init", fail)
    train(text_file)
    assert "W&B failed (ValueError: a bug of the client): the run goes on" in capsys.readouterr().out
    assert runs.read("a").status == "done"
    main(["report", "a"])
