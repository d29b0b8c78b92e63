"""A null where a class takes none is refused by its key."""

import pytest
import yaml

from dynamics.cli.main import main
from tests.runs import CONFIGS, fit

EVERY = {"class_path": "dynamics.schedule.Every", "init_args": {"interval": None}}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"model": {"init_args": {"learning_rate": None}}}, "model.learning_rate"),
        ({"model": {"init_args": {"heads": None}}}, "model.heads"),
        ({"data": {"init_args": {"context": None}}}, "data.context"),
        ({"trainer": {"devices": None}}, "trainer.devices"),
        ({"health": {"skip": None}}, "health.skip"),
        ({"monitor": {"schedule": EVERY}}, "monitor.schedule.interval"),
    ],
)
def test_a_null_is_refused_by_its_key(workplace, text_file, capsys, settings, key):
    (workplace / "null.yaml").write_text(yaml.safe_dump(settings))
    words = ["--config", str(CONFIGS / "decoder.yaml"), "--config", "null.yaml", "--data.corpus", str(text_file)]
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *words, "--run", "a"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"dynamics: {key} must not be null: give a value, or leave it out.\n"
    assert not (workplace / "checkpoints").exists()


def test_a_null_that_has_a_meaning_is_taken(workplace, text_file):
    fit(text_file, "a", model__overrides="null", monitor__max_overhead="null", trainer__max_time="null")
