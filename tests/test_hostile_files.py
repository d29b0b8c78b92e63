"""Files by somebody else: callables in every field of every file that is read, and none of them is run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dynamics import record, runs
from dynamics.allowed import import_class, parsing
from dynamics.cli.main import main
from dynamics.cli.parser import Parser
from dynamics.cli.verbs import VERBS
from dynamics.config import split_options
from dynamics.errors import InputError
from dynamics.training.checkpoint import states
from dynamics.training.fit import _configure
from tests.runs import CONFIGS, fit, forget_digests, working_in

MODULE = "from pathlib import Path\nPath('MARK').touch()\nclass Thing:\n    pass\n"
CODE = "__import__('pathlib').Path('MARK').touch()"
TOUCH = {"command": "touch MARK"}
CALLABLES = (
    "planted.Thing",
    "os.system",
    {"class_path": "planted.Thing"},
    {"class_path": "os.system", "init_args": TOUCH},
    {"class_path": "torch.os.system", "init_args": TOUCH},
    {"class_path": "builtins.eval", "init_args": {"source": CODE}, "dict_kwargs": {"source": CODE}},
)


class Planted:
    """Its pickle runs a command."""

    def __reduce__(self):
        import os

        return os.system, ("touch MARK",)


@pytest.fixture(scope="module")
def honest(tmp_path_factory, text_file):
    """A workplace with a tiny run in it."""
    folder = tmp_path_factory.mktemp("honest")
    with working_in(folder):
        fit(text_file, "a", trainer__max_steps=2, checkpoints__every=2, metrics="[anisotropy]")
    return folder


@pytest.fixture
def foreign(workplace, honest, monkeypatch):
    """The run of another, and a module `planted` that leaves MARK when it is imported, wherever it may be found."""
    sys.modules.pop("planted", None)
    monkeypatch.syspath_prepend(workplace / "path")
    shutil.copytree(honest, workplace, dirs_exist_ok=True)
    folder = runs.CHECKPOINTS / "a"
    (workplace / "path").mkdir()
    for place in (workplace, workplace / "path", folder, folder / "weights" / "step-0000000002"):
        (place / "planted.py").write_text(MODULE)
    yield folder
    assert not list(workplace.rglob("MARK"))


def run(*words):
    """Run a verb, which may refuse what was planted or do without it; return its exit code."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return end.code
    return 0


def places(content, at=()):
    """The path of every field of nested settings, those that hold others included."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*at, key)
        yield from places(value, (*at, key))


def planting(content, place, value):
    content = json.loads(json.dumps(content))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content


def plant_everywhere(content, value):
    """Every field that holds no others replaced."""
    if isinstance(content, dict):
        return {key: plant_everywhere(part, value) for key, part in content.items()} | {"auto_map": value}
    return [plant_everywhere(part, value) for part in content] if isinstance(content, list) else value


def test_no_field_of_a_runs_configuration_runs_what_it_names(foreign):
    config = yaml.safe_load((foreign / "config.yaml").read_text())
    config["trainer"] |= {"logger": [{"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}]}
    config["trainer"] |= {"callbacks": [{"class_path": "LambdaCallback", "init_args": {"on_fit_start": None}}]}
    config["model"]["init_args"] |= {"regularizers": [{"class_path": "IStar"}]}
    config["monitor"] |= {"schedule": {"class_path": "dynamics.schedule.Every", "init_args": {"interval": 2}}}
    fields = [place for place in places(config) if place[0] not in ("seed_everything",)]
    assert len(fields) > 80
    refused = 0
    for number, place in enumerate(fields):
        value = CALLABLES[number % len(CALLABLES)] if len(place) > 2 else CALLABLES[number % 2 + 2]
        (foreign / "config.yaml").write_text(yaml.safe_dump(planting(config, place, value)))
        try:
            _configure(foreign, split_options(["--run", "a"]))
        except InputError:
            refused += 1
        assert not Path("MARK").exists(), (place, value)
    assert refused > len(fields) / 2


@pytest.mark.parametrize("value", CALLABLES, ids=str)
@pytest.mark.parametrize("place", [("data",), ("data", "class_path"), ("metrics",), ("trainer", "logger")], ids=str)
def test_the_verbs_refuse_a_callable_in_a_configuration(foreign, place, value, capsys):
    config = yaml.safe_load((foreign / "config.yaml").read_text())
    (foreign / "config.yaml").write_text(yaml.safe_dump(planting(config, place, value)))
    if place[0] == "data":
        assert run("scan", foreign, "--metrics", "[anisotropy]", "--revisions", "step2", "--run", "s") == 2
    for words in (["validate", "--run", "a"], ["fit", "--run", "a", "--resume", "auto"]):
        assert run(*words) == 2 or (place, words[0]) == (("trainer", "logger"), "validate")
    assert run("fit", "--config", foreign / "config.yaml", "--run", "b") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_package_is_allowed_by_name(foreign, text_file, capsys):
    (foreign / "config.yaml").write_text(
        (foreign / "config.yaml").read_text().replace("dynamics.data.windows.CharData", "my_windows.Mine")
    )
    forget_digests(foreign)
    Path("my_windows.py").write_text("from dynamics.data.windows import CharData\nclass Mine(CharData):\n    pass\n")
    words = ["scan", foreign, "--metrics", "[anisotropy]", "--revisions", "step2", "--run", "s"]
    assert run(*words) == 2
    assert "my_windows.Mine is not imported" in (error := capsys.readouterr().err)
    assert "--allow-classes my_windows" in error
    assert run(*words, "--allow-classes", "my_windows") == 0
    assert run("validate", "--run", "a") == 2
    assert run("validate", "--run", "a", "--allow-classes", "my_windows") == 0
    assert run("validate", "--run", "a", "--allow-classes", "jsonargparse") == 2


def test_a_configuration_of_the_users_own_may_name_any_class_but_not_run_commands(workplace, text_file, capsys):
    Path("my_own.py").write_text(
        "import lightning as L\nfrom dynamics.metrics.anisotropy import Anisotropy\n"
        "class Mine(Anisotropy):\n    name = 'mine'\nclass Callback(L.Callback):\n    pass\n"
    )
    mine = {"metrics": "[my_own.Mine]", "trainer.callbacks": "[{class_path: my_own.Callback}]", "trainer.max_steps": 1}
    Path("mine.yaml").write_text((CONFIGS / "decoder.yaml").read_text())
    fit(text_file, "a", **{key.replace(".", "__"): value for key, value in mine.items()})
    assert run("validate", "--run", "a") == 2
    assert "my_own.Callback is not imported" in capsys.readouterr().err
    assert run("validate", "--run", "a", "--allow-classes=my_own") == 0
    words = ["--config", "mine.yaml", "--run", "b", "--trainer.callbacks", "[{class_path: os.system}]"]
    assert run("fit", *words) == 2
    assert "os.system is not imported" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["planted.Thing", "os.system", {"class_path": "planted.Thing"}], ids=str)
def test_what_run_json_and_its_kin_name_is_data(foreign, value):
    for name in ("run.json", "plan.json", "sweep.json"):
        content = json.loads((foreign / "run.json").read_text())
        planted = plant_everywhere(content, value) | {"kind": content["kind"], "run": "a"}
        (foreign / name).write_text(json.dumps(planted))
    attempts = [
        ["report", "a", "--out", "page.html"],
        ["scan", foreign, "--metrics", "[anisotropy]", "--revisions", "step2", "--run", "s"],
        ["validate", "--run", "a"],
        ["fit", "--run", "a", "--resume", "auto", "--monitor.plan", foreign / "plan.json"],
    ]
    for words in attempts:
        assert run(*words) in (0, 1, 2)


def test_states_and_weights_do_not_unpickle_code(foreign):
    (state,) = states(foreign)
    content = torch.load(state, weights_only=True)
    content["hyper_parameters"] |= {"_instantiator": "planted.Thing", "_class_path": "planted.Thing"}
    for planted in (content, content | {"callbacks": Planted()}, Planted()):
        torch.save(planted, state)
        run("validate", "--run", "a")
        run("fit", "--run", "a", "--resume", state)
    weights = foreign / "weights" / "step-0000000002"
    (weights / "model.safetensors").unlink()
    torch.save({"x": Planted()}, weights / "pytorch_model.bin")
    assert run("scan", foreign, "--metrics", "[anisotropy]", "--revisions", "step2", "--run", "s") == 2
    assert run("audit", foreign, "--revisions", "step2", "--run", "t") == 2
    np.savez(weights / "vectors.npz", x=np.array([Planted()], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(weights / "vectors.npz")["x"]


@pytest.fixture
def model(foreign):
    """A folder with a model and the files of its tokenizer, processor and pooling."""
    folder = Path("model")
    shutil.copytree(foreign / "weights" / "step-0000000002", folder)
    for path in foreign.glob("tokenizer*.json"):
        shutil.copy(path, folder)
    (folder / "configuration.py").write_text(MODULE)
    (folder / "modules.json").write_text(
        json.dumps([{"type": f"x.{kind}", "path": f"{kind}"} for kind in ("Transformer", "Pooling", "Dense")])
    )
    for kind in ("Pooling", "Dense"):
        (folder / kind).mkdir()
        (folder / kind / "config.json").write_text(json.dumps({"activation_function": "torch.nn.Tanh", "in": 1}))
    for name in ("preprocessor_config", "processor_config", "generation_config", "adapter_config", "chat_template"):
        (folder / f"{name}.json").write_text(json.dumps({"image_processor_type": "x", "processor_class": "x"}))
    Path("lines.txt").write_text("a cat sat on a mat\n" * 8 + "a mat\nthe cat\n")
    return folder


def attempts(model):
    """Read a model with the verbs that load its weights, tokenizer and pooling; return the exit codes."""
    words = ["--model.checkpoint", model, "--data.task", "sst2", "--data.path", ".", "--run", "u"]
    codes = [
        run("cone", model, "--sentences", "lines.txt", "--metrics", "[anisotropy]", "--run", "c"),
        run("fit", "--config", CONFIGS / "finetune.yaml", *words),
    ]
    for name in "cu":
        shutil.rmtree(runs.CHECKPOINTS / name, ignore_errors=True)
    return codes


def test_no_file_of_a_model_runs_what_it_names(model, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked whether to run code"))
    assert attempts(model)[0] == 0
    files = sorted(model.rglob("*.json"))
    apart = [model / name for name in ("config.json", "tokenizer_config.json", "tokenizer.json")]
    for value, planted in zip(
        ("planted.Thing", "planted--planted.Thing", "planted.Thing", "configuration.Thing"),
        (*([path] for path in apart), [path for path in files if path not in apart]),
        strict=True,
    ):
        before = {path: path.read_text() for path in planted}
        for path, text in before.items():
            content = json.loads(text)
            if isinstance(content, list):
                path.write_text(json.dumps([entry | {"type": value, "auto_map": value} for entry in content]))
            else:
                path.write_text(json.dumps(content | naming(value)))
        attempts(model)
        for path, text in before.items():
            path.write_text(text)


def naming(value):
    """Fields of the files of a model that name classes, functions or repositories of code."""
    maps = dict.fromkeys(
        ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor", "AutoImageProcessor"), value
    )
    fields = ("activation_function", "tokenizer_class", "processor_class", "image_processor_type", "custom_generate")
    return dict.fromkeys(fields, value) | {
        "auto_map": maps | {"AutoTokenizer": [value, value]},
        "architectures": [value],
    }


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_compiled_code_for_an_attention_is_refused(model, key, capsys):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {key: "evil/kernels"}))
    forget_digests(model)
    assert run("scan", model, "--text", "lines.txt", "--lines", "--metrics", "[anisotropy]", "--run", "s") == 2
    assert "evil/kernels for its attention" in capsys.readouterr().err


def test_no_configuration_decides_what_code_runs(model):
    """The options that do are given on the command line alone: no verb that has them reads options from a file."""
    for name, verb in VERBS.items():
        options = Parser(verb).options if name not in ("fit", "validate", "test") else {}
        assert not ("--config" in options and {"--module", "--trust_remote_code", "--allow_classes"} & set(options))
    Path("probe.yaml").write_text(
        "width: {class_path: planted.Thing}\nmetrics: {anisotropy: {class_path: planted.Thing}}"
    )
    assert run("probe", "--config", "probe.yaml", "--run", "p") == 2


def test_the_cache_holds_data(honest, foreign):
    """Facts, ids and verdicts of the cache replaced by pickles and callables."""
    for path in list(Path("cache").rglob("*")):
        if path.suffix == ".npy":
            np.save(path, np.array([Planted()], dtype=object), allow_pickle=True)
        elif path.suffix == ".json":
            path.write_text(json.dumps(plant_everywhere(json.loads(path.read_text()), "os.system")))
    assert run("validate", "--run", "a") in (0, 1, 2)


def test_a_class_is_imported_only_from_an_allowed_package_and_of_the_right_kind(foreign):
    assert import_class("torch.nn.Linear", torch.nn.Module, "here") is torch.nn.Linear
    for path, why in {
        "planted.Thing": "add --allow-classes planted",
        "torchvision_evil.Thing": "is not imported",
        "torch.os.system": "cannot be imported",
        "torch.nn.missing": "cannot be imported",
        "torch.nn": "is no Module",
        "torch": "cannot be imported",
        "": "is not imported",
    }.items():
        with pytest.raises(InputError, match=why):
            import_class(path, torch.nn.Module, "here")
    with pytest.raises(InputError, match="is not imported"):  # a module of ours holds it, but it is not ours
        import_class("dynamics.experiments.sweep.cells.Path", object, "here")


def test_modules_in_the_current_folder_are_not_taken_for_packages_that_libraries_miss(foreign):
    """The folder of a foreign run or model, entered before it is scanned."""
    for name in ("toml", "colorama", "pynvml", "kernels", "peft", "gmpy2", "h2", "sentencepiece", "tabulate", "snappy"):
        Path(f"{name}.py").write_text(MODULE)
    Path("my_own.py").write_text("import my_other\nfrom my_other import Mine\n")
    Path("my_other.py").write_text(
        "from dynamics.metrics.anisotropy import Anisotropy\nclass Mine(Anisotropy):\n    pass\n"
    )
    words = ["scan", str(foreign), "--revisions", "step2", "--metrics", "[anisotropy, my_own.Mine]", "--run", "s"]
    code = f"from dynamics.cli.main import main; main({words})"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mine" in set(record.read("s")["metric"])


def test_what_parsing_allows_ends_with_it():
    from jsonargparse._common import parsing_settings

    with parsing([]):  # what is decided at the first use
        pass
    before = dict(parsing_settings)
    with pytest.raises(InputError, match="--allow-classes"), parsing(["not a package"]):
        pass
    with parsing(["numpy"]):
        assert parsing_settings["import_path_verdicts"]["numpy"]
    assert parsing_settings == before
