"""The help of `dynamics fit`, `validate` and `test` that needs no configuration."""

import inspect
import subprocess
import sys
from functools import reduce
from importlib import import_module

import pytest

from dynamics.cli import training
from dynamics.cli.docstrings import ROOT, read_parameters
from dynamics.cli.main import main
from dynamics.config import read_config

EXAMPLE = read_config(ROOT / training.EXAMPLE)


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_help_is_one_screen(verb, capsys):
    main([verb, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    assert lines[-1].startswith(f"All keys: dynamics {verb} --")
    offered = {line.split()[0] for line in lines if line.startswith("  --")}
    keys = {f"--{key}" for key in training.KEYS}
    assert offered == set(training.option_names(verb)) - (keys if verb != "fit" else set())


def test_help_needs_no_torch():
    code = (
        "import sys; from dynamics.cli.main import main; main(['fit', '-h']); main([]);"
        "sys.exit(bool({'torch', 'lightning', 'transformers', 'jsonargparse'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("room", list(training.CLASSES))
def test_defaults_are_those_of_the_signatures(room):
    module, _, name = training.CLASSES[room].rpartition(".")
    signature = inspect.signature(getattr(import_module(module), name)).parameters
    parameters = read_parameters(training.CLASSES[room])
    assert list(parameters) == list(signature)
    for key in training.KEYS:
        if key.startswith(f"{room}."):
            name = key.rstrip("+").rpartition(".")[2]
            assert parameters[name][0] == signature[name].default
    settings = reduce(lambda settings, part: settings.get(part, {}), room.split("."), EXAMPLE)
    assert settings.get("class_path", training.CLASSES[room]) == training.CLASSES[room]


def test_every_key_has_a_help_text_and_exists():
    keys = training.read_keys()
    assert all(text for _, text in keys.values())
    assert keys["data.batch_size"][0] == EXAMPLE["data"]["init_args"]["batch_size"]
    assert keys["monitor.keep_weights"][0] == EXAMPLE["monitor"]["keep_weights"]
    assert keys["seed_everything"][0] == EXAMPLE["seed_everything"]


@pytest.mark.parametrize("words", [["--config", str(ROOT / training.EXAMPLE)], [f"--config={ROOT / training.EXAMPLE}"]])
def test_with_a_configuration_all_keys_are_listed(words, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *words, "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: dynamics fit --config FILE")
    assert "--resume auto|PATH" in text
    assert "--trainer.max_epochs" in text
    assert "--model.help" in text
    of_classes = ("model.", "data.", "trainer.logger.")  # their class decides which keys they have
    assert all(f"--{key}" in text for key in training.KEYS if not key.startswith(of_classes))
