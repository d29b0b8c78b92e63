"""Loggers of others: Lightning's TensorBoard and files, and trackio, get every key at its step."""

import csv
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from dynamics import record
from dynamics.cli.main import main
from dynamics.errors import InputError
from dynamics.loggers.names import flat_name
from dynamics.loggers.trackio import TrackioLogger
from dynamics.record import Row
from tests.runs import CONFIGS, fit

PAGE = (CONFIGS.parent / "docs" / "loggers.md").read_text()
CONFIGURATIONS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SHORT = {"trainer__max_steps": 2, "checkpoints__every": 2, "metrics": "[anisotropy, drift]"}


def logged(folder):
    """The values of a run that loggers get, by key and step."""
    columns = ["run", "subject", "condition", "step", "site", "layer", "head", "metric", "value"]
    rows = [Row(*entry) for entry in record.read(folder)[columns].itertuples(index=False)]
    return {(flat_name(row), row.step): row.value for row in rows if not flat_name(row).startswith("cost/")}


def train(text_file, name, configuration):
    """Train as the page says: with the configuration as a second file."""
    Path("logger.yaml").write_text(configuration)
    loggers = yaml.safe_load(configuration)["trainer"]["logger"]
    fit(text_file, name, "--config", "logger.yaml", **{**SHORT, "trainer__logger": str(loggers)})
    return loggers


def test_a_second_configuration_replaces_the_logger_of_the_first(workplace, capsys):
    Path("logger.yaml").write_text(CONFIGURATIONS[2])
    words = [*("--config", str(CONFIGS / "decoder.yaml"), "--config", "logger.yaml", "--run", "a", "--print_config")]
    with pytest.raises(SystemExit) as end:
        main(["fit", *words])
    assert end.value.code == 0
    logger = yaml.safe_load(capsys.readouterr().out)["trainer"]["logger"]
    assert (logger["class_path"].rpartition(".")[2], logger["init_args"]["save_dir"]) == ("CSVLogger", "logs")


def test_tensorboard_has_every_key_at_its_step(workplace, text_file):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = train(text_file, "a", CONFIGURATIONS[0])
    events = EventAccumulator(f"{loggers['init_args']['save_dir']}/a/version_0").Reload()
    expected = logged("a")
    for (key, step), value in expected.items():
        scalars = {event.step: event.value for event in events.Scalars(key)}
        assert scalars[step] == pytest.approx(value, rel=1e-6, nan_ok=True)
    assert {key for key, _ in expected} <= set(events.Tags()["scalars"])


def test_files_have_every_key_at_its_step(workplace, text_file):
    train(text_file, "a", CONFIGURATIONS[2])
    with Path("logs/a/version_0/metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    for (key, step), value in logged("a").items():
        (text,) = {line[key] for line in lines if int(line["step"]) == step and line[key]}
        assert float(text) == pytest.approx(value, nan_ok=True)


class FakeTrackio(SimpleNamespace):
    """What the logger uses of trackio."""

    def init(self, project, name, **options):
        self.began = (project, name, options)
        self.rows, self.finished = [], 0
        return self

    def log(self, metrics, step):
        self.rows.append((step, metrics))

    def finish(self):
        self.finished += 1


def test_trackio_is_handed_every_row_and_the_settings(workplace, text_file, monkeypatch):
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    train(text_file, "a", CONFIGURATIONS[1])
    project, name, options = fake.began
    assert (project, name, options["resume"], fake.finished) == ("dynamics", "a", "allow", 1)
    assert (options["config"]["width"], options["config"]["betas"]) == (16, "[0.9, 0.95]")
    assert not any(key.startswith("_") for key in options["config"])
    rows = {(key, step): value for step, values in fake.rows for key, value in values.items()}
    expected = logged("a")
    assert {place: rows[place] for place in expected} == pytest.approx(expected, nan_ok=True)


def test_trackio_itself_keeps_the_rows(workplace, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(workplace / "trackio"))  # read when it is imported
    trackio = pytest.importorskip("trackio", reason="pip install trackio (it wants pillow below 13)")
    logger = TrackioLogger("project", "a")
    logger.log_hyperparams({"width": 16})
    logger.log_metrics({"anisotropy/layer_01": 0.5}, 4)
    logger.finalize("success")
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = trackio.Api().runs("project")
    assert (run.name, run.config["width"]) == ("a", 16)
    (row,) = SQLiteStorage.get_logs("project", "a")
    assert (row["step"], row["anisotropy/layer_01"]) == (4, 0.5)


def test_without_trackio_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(InputError, match="pip install trackio"):
        TrackioLogger()
