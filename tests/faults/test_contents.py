"""Files that hold something else than they should: what reads them says so in one sentence, or can use them."""

import json
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml

from dynamics import runs
from dynamics.cli.main import main
from dynamics.config import read_config
from dynamics.data.vocabulary import Vocabulary
from dynamics.errors import InputError
from dynamics.files import remember
from dynamics.run_info import ScanInfo
from dynamics.verify import verify
from tests.faults.damage import COUNT, kept, make_run
from tests.runs import forget_digests, working_in

TEXTS = [
    *("", "null", "[]", "[1]", '"x"', "3", "true", "{}", "{", '{"a": ', '{"a": NaN}'),
    *("\x00", "[" * 5000, "\ufeff{}", "9" * 5000),
]
VALUES = [None, [], {}, "x", "", -1, 0, 10**30, 1.5, float("nan"), True, [None], {"a": None}, [[1]], ["x", 3]]


@pytest.fixture(scope="module")
def run(tmp_path_factory, text_file):
    """A finished run, as of an older version: without digests."""
    with working_in(tmp_path_factory.mktemp("contents")):
        folder = make_run(text_file)
        forget_digests(folder)
        yield folder


def run_verb(capsys, *words):
    """Run a verb; whatever it meets, it ends as it should or with one sentence."""
    try:
        main([*map(str, words)])
    except SystemExit as end:
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dynamics: ")]
        return end.code if len(lines) == 1 and end.code in (1, 2) else f"{end.code}: {lines}"
    return 0


def places(content, path=()):
    """Return the path of every value in a nested content."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in inside for place in places(value, (*path, key)))]


def changed(content, place, value):
    """Return a copy of a content in which the value at a place is another one."""
    copy = json.loads(json.dumps(content))
    if not place:
        return value
    target = copy
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return copy


def drawn(content, count, seed):
    """Return contents that differ in one value, a place and a value drawn at random."""
    random = np.random.default_rng(seed)
    every = places(content)
    for _ in range(count):
        yield changed(content, every[random.integers(len(every))], VALUES[random.integers(len(VALUES))])


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_file_that_holds_anything_is_refused_by_name(text, run, capsys):
    report, verifying, validate = ("report", "a", "--out", "page.html"), ("verify", "a"), ("validate", "--run", "a")
    for name, read, verbs in (
        ("run.json", lambda: runs.read(run), (report, verifying)),
        ("config.yaml", lambda: read_config(run / "config.yaml"), (verifying, validate)),
        ("tokenizer.json", lambda: Vocabulary.load(run), (verifying,)),
    ):
        with kept(run):
            (run / name).write_text(text)
            may_be = name != "tokenizer.json" and text in ("{}", "\ufeff{}", '{"a": NaN}')
            with suppress(InputError) if may_be else pytest.raises(InputError, match=re.escape(str(run / name))):
                read()
            for words in verbs:
                assert run_verb(capsys, *words) in (0, 1, 2)


def test_wrong_values_in_run_json_do_not_break_the_report(run, capsys):
    content = json.loads((run / "run.json").read_text())
    for wrong in drawn(content, COUNT // 8, 0):
        with kept(run):
            (run / "run.json").write_text(json.dumps(wrong))
            assert run_verb(capsys, "report", "a", "--out", "page.html") in (0, 1, 2)


def test_wrong_values_in_config_yaml_do_not_break_a_run(run, capsys):
    content = read_config(run / "config.yaml")
    Path("own.yaml").write_text(yaml.safe_dump(content))
    for wrong in drawn(content, COUNT // 8, 1):
        with kept(run):
            (run / "config.yaml").write_text(yaml.safe_dump(wrong))
            assert run_verb(capsys, "validate", "--run", "a") in (0, 1, 2)
            # With a configuration of its own, that of the run is compared only.
            assert run_verb(capsys, "fit", "--config", "own.yaml", "--run", "a", "--resume", "auto") in (0, 1, 2)


SCHEDULE = {"class_path": "dynamics.schedule.Every", "init_args": {"interval": "x"}}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (None, 2),
        *(({section: None}, 2) for section in ("trainer", "data", "model")),
        *(({"monitor": {"schedule": schedule}}, 2) for schedule in ("LogSpaced", SCHEDULE, {"class_path": 3})),
        *(({"monitor": monitor}, 0) for monitor in (None, {"schedule": None}, {"schedule": [1]})),  # as by default
    ],
    ids=str,
)
def test_a_configuration_in_which_a_section_is_something_else_is_compared(changes, code, run, capsys):
    content = read_config(run / "config.yaml")
    Path("own.yaml").write_text(yaml.safe_dump(content))
    with kept(run):
        (run / "config.yaml").write_text(yaml.safe_dump({} if changes is None else content | changes))
        assert run_verb(capsys, "fit", "--config", "own.yaml", "--run", "a", "--resume", "auto") == code
        assert run_verb(capsys, "validate", "--config", "own.yaml", "--run", "a") in (0, 2)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_wrong_values_of_a_model_do_not_break_a_scan(name, run, capsys):
    path = run / "weights" / "step-0000000002" / name if name == "config.json" else run / name
    content = json.loads(path.read_text())
    for number, wrong in enumerate(drawn(content, COUNT // 16, 2)):
        with kept(run):
            path.write_text(json.dumps(wrong))
            words = ["--revisions", "2", "--metrics", "[mean_norm]", "--run", f"scan-{number}", "--device", "cpu"]
            assert run_verb(capsys, "scan", "a", *words) in (0, 1, 2)


@pytest.mark.parametrize("name", ["run.json", "plan.json"])
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_what_a_sweep_and_a_plan_hold_is_checked(name, text, tmp_path, monkeypatch):
    from dynamics.experiments.sweep.running import _words
    from dynamics.training.monitor import read_plan

    (tmp_path / name).write_text(text)
    try:
        content = _words(tmp_path) if name == "run.json" else read_plan(tmp_path / name)
    except InputError as error:
        content = str(error)
    assert content == {} or str(tmp_path / name) in content


@pytest.mark.parametrize("steps", [[-1], ["x"], 3, [1.5], None, [True]])
def test_a_plan_of_other_steps_is_refused(steps, tmp_path):
    from dynamics.training.monitor import read_plan

    (tmp_path / "plan.json").write_text(json.dumps({"anisotropy": steps}))
    with pytest.raises(InputError, match=r"monitor\.plan: .*plan\.json"):
        read_plan(tmp_path / "plan.json")


def test_a_newest_state_that_is_not_ours_is_left_out(run, caplog):
    import torch

    from dynamics.training.checkpoint import resolve_resume, states

    with kept(run):
        newest, older = states(run)
        for content in ([1], {"state_dict": {}}, {"state_dict": 3, "global_step": 3}):
            torch.save(content, newest)
            assert resolve_resume("auto", run) == older
            assert f"{newest} is damaged, or not a state of ours" in caplog.text
        with np.load(run / "vectors" / "a.npz") as arrays:
            np.savez(newest.open("wb"), **arrays)
        assert resolve_resume("auto", run) == older


@pytest.mark.parametrize("name", ["geometry-0000000000.parquet", "curves-0000000000.parquet"])
def test_who_resumes_is_told_of_a_damaged_part_at_once(name, run, capsys):
    part = run / "record" / name
    with kept(run):
        remember(part)
        part.write_bytes(part.read_bytes()[::-1])
        assert run_verb(capsys, "fit", "--run", "a", "--resume", "auto") == 2
        forget_digests(run)  # as of an older version
        assert run_verb(capsys, "fit", "--run", "a", "--resume", "auto", "--trainer.max_steps", 4) == 2


def test_verify_names_what_is_damaged_and_what_can_be_measured_again(run, text_file, capsys):
    assert run_verb(capsys, "verify", "a") == 0
    assert "have no digest" in capsys.readouterr().out
    with kept(run):
        for path in (run / "record").glob("*-0000000002.parquet"):
            path.write_bytes(b"PAR1")
        (run / "record" / "geometry-0000000003.parquet").write_bytes(b"PAR1")
        with pytest.raises(SystemExit):
            main(["verify", "a"])
        said = capsys.readouterr()
        assert "damaged: record/geometry-0000000002.parquet" in said.out
        assert "dynamics scan a --revisions 2 --run a-again" in said.out
        assert "cannot be measured again (no whole weights are kept): steps 3" in said.out
        assert "2 files are damaged" in said.err or "3 files are damaged" in said.err


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "plan.json", "tokenizer.json", "vectors/a.npz"])
def test_verify_looks_into_what_has_no_digest(name, run, capsys):
    with kept(run):
        path = next(run.glob(f"weights/*2/{name}"), run / name)
        path.write_bytes(b"garbage")
        (run / "record" / "geometry-0000000002 (copy).parquet").touch()
        (run / "weights" / "step-0000000002" / "notes.txt").touch()
        assert run_verb(capsys, "verify", "a") == 1
        found = str(verify("a"))
    assert f"damaged: {path.relative_to(run)} (" in found
    assert "not looked into: weights/step-0000000002/notes.txt" in found
    assert "damaged: record/geometry-0000000002 (copy).parquet" in found


def test_verify_names_the_command_of_what_is_no_training_run(run):
    with kept(run):
        info = ScanInfo(run="a", command="dynamics scan gpt2 --run a")
        (run / "run.json").write_text(json.dumps(info.to_dict()))
        (run / "record" / "geometry-0000000002.parquet").write_bytes(b"PAR1")
        found = str(verify("a"))
        (run / "run.json").unlink()
        without = str(verify("a"))
    assert "can be measured again, under another --run, by: dynamics scan gpt2 --run a" in found
    assert "cannot be measured again" not in found
    assert "dynamics scan a --revisions 2 --run a-again" in without


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: &a {b: *a}",
        "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30))]),
        "[" * 3000,
        "a: 2024-13-45",
        "? [a]\n: b",
        "1: 2",
        "a: " + "x" * 300_000,
        "a: !!python/object/apply:os.system [ls]",
    ],
    ids=["self", "self in a mapping", "doubling", "deep", "date", "key", "number as a key", "long", "code"],
)
def test_yaml_that_never_ends_or_cannot_be_is_refused_at_once(text, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=r"a\.yaml"):
        read_config(tmp_path / "a.yaml")


DEVICES = [("fit", "--config"), ("probe", "--config"), ("sweep",), ("data",), ("scan", "random:gpt2", "--text")]


@pytest.mark.parametrize("words", [*DEVICES, ("scan", "random:gpt2", "--config")])
def test_a_device_is_no_file(words, run, capsys, tmp_path):
    assert run_verb(capsys, *words, "/dev/zero") == 2
    (tmp_path / "link.txt").symlink_to("/dev/zero")
    assert run_verb(capsys, *words, tmp_path / "link.txt") == 2


@pytest.mark.parametrize("option", [("data.batch_size", 10_000_000), ("trainer.devices", 99)])
def test_what_no_machine_can_hold_is_refused(option, run, text_file, capsys):
    name, value = option
    words = ["--config", run / "config.yaml", "--run", "b", f"--{name}", value, "--data.corpus", text_file]
    assert run_verb(capsys, "fit", *words) == 2
    assert not Path("checkpoints/b").exists()
