"""Forks: nothing changed gives the parent to the bit; one thing changed is that thing alone, and is recorded."""

import json
import os
import shutil

import pytest
import torch
import yaml

from dynamics import record, runs
from dynamics.cli.main import main
from dynamics.errors import InputError
from dynamics.files import digests, is_intact
from dynamics.lineage import ancestors
from dynamics.models.language import LanguageModel
from dynamics.runs import state_path
from dynamics.training.checkpoint import states
from dynamics.training.forking import Origin
from dynamics.verify import verify
from tests.faults.chain import different
from tests.runs import CONFIGS, fit, working_in

AT, LAST = 3, 6
DROPOUT = {"model__dropout": 0.1}  # what the generators decide


@pytest.fixture(scope="module")
def place(tmp_path_factory, text_file):
    """A folder with a run that learns mlm, one that learns clm in bytes, and two forks of the first."""
    with working_in(tmp_path_factory.mktemp("forks")) as folder:
        settings = {"checkpoints__keep": "all", "checkpoints__every": 1, "health__window": 4, "health__sigmas": 0.2}
        fit(text_file, "causal", config="causal-mlm", **settings, **DROPOUT)
        fit(text_file, "bytes", config="decoder", data__vocabulary="bytes", trainer__max_steps=4, **settings)
        main(["fork", "causal", "--at", str(AT), "--run", "control"])
        main(["fork", "causal", "--at", str(AT), "--run", "switched", "--config", str(CONFIGS / "switch.yaml")])
    return folder


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("DYNAMICS_CACHE", str(place / "cache"))


@pytest.fixture
def fork():
    """Make a fork of the run `causal`, or of another one, that is deleted after the test."""
    made = []

    def make(*words, name="fork", of="causal", at=AT):
        made.append(runs.CHECKPOINTS / name)
        main(["fork", of, "--at", str(at), "--run", name, *map(str, words)])
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


def rows_after(run, step):
    rows = record.read(run)
    return rows[(rows.site != "cost") & (rows.step > step)].drop(columns="run").reset_index(drop=True)


def assert_equal(one, other, after):
    """Two runs are the same to the bit after a step: rows, weights, optimiser, generators."""
    assert len(rows_after(one, after)) > 20
    assert rows_after(one, after).equals(rows_after(other, after))
    for step in range(after + 1, LAST + 1):
        paths = (state_path(runs.CHECKPOINTS / run, step) for run in (one, other))
        assert list(different(*paths)) == []


def read_state(folder, step):
    return torch.load(state_path(folder, step), weights_only=True)


def test_a_fork_that_changes_nothing_equals_its_parent():
    assert_equal("causal", "control", AT)
    assert (rows_after("control", AT).metric == "loss_spike").any()  # it knows the losses before it began
    rows = record.read("control")
    assert rows.step.min() == AT  # measured where it begins, trained from there on
    assert set(rows.loc[rows.step == AT, "site"]) & {"train", "validation"} == set()
    assert runs.read("control").fork["changed"] == {}


def test_without_the_generators_it_would_not(fork, monkeypatch):
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    fork()
    assert not rows_after("causal", AT).equals(rows_after("fork", AT))


def test_the_mask_is_taken_off_in_mid_training():
    folder = runs.CHECKPOINTS / "switched"
    info = runs.read(folder)
    assert info.fork["parent"] == "causal"
    assert (info.fork["step"], info.fork["changed"]) == (AT, {"model.is_causal": [True, False]})
    assert (info.is_causal, info.label) == (False, f"bidirectional, mlm, from step {AT}")
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["is_causal"] is False
    # The weights are the parent's; what differs at once is what they do without the mask.
    first, parent = (runs.weights_path(f, AT) / "model.safetensors" for f in (folder, runs.CHECKPOINTS / "causal"))
    assert first.is_file()
    assert not parent.exists()  # step 3 is in no schedule: the fork measures it because it begins there
    loaded = (read_state(f, AT)["state_dict"] for f in (folder, runs.CHECKPOINTS / "causal"))
    assert all(torch.equal(*pair) for pair in zip(*(state.values() for state in loaded), strict=True))
    assert list(different(state_path(folder, LAST), state_path(runs.CHECKPOINTS / "causal", LAST)))


def test_drift_is_counted_from_where_the_parent_began():
    ours, parents = (read_state(runs.CHECKPOINTS / run, LAST)["callbacks"] for run in ("switched", "causal"))
    (name,) = (key for key in ours if "references" in ours[key])
    assert ours[name]["references"]
    for key, tensor in ours[name]["references"].items():
        assert torch.equal(tensor, parents[name]["references"][key])
    rows = record.read("switched")
    assert (rows.loc[(rows.metric == "drift") & (rows.step == AT), "value"] > 0).all()


def test_the_optimiser_has_the_settings_of_the_fork_and_what_it_has_accumulated(fork):
    folder = fork("model.learning_rate=1e-2", "--model.weight_decay", "0", "model.warmup_steps=5", name="rates")
    state, parent = read_state(folder, AT + 1), read_state(runs.CHECKPOINTS / "causal", AT)
    for group in state["optimizer_states"][0]["param_groups"]:
        assert (group["initial_lr"], group["weight_decay"]) == (1e-2, 0.0)
    model = LanguageModel(warmup_steps=5)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-2 * model.learning_rate_factor(AT + 1)
    # exp_avg follows from the parent's by one update; from nothing it would be (1 - beta) of a gradient
    assert state["optimizer_states"][0]["state"][0]["step"] == AT + 1 == parent["global_step"] + 1
    changed = {"model.learning_rate": [1e-3, 1e-2], "model.warmup_steps": [2, 5], "model.weight_decay": [0.1, 0.0]}
    assert runs.read(folder).fork["changed"] == changed


def test_the_first_update_has_the_learning_rate_of_the_fork(fork):
    fork("model.learning_rate=0", name="still")
    before, after = (read_state(runs.CHECKPOINTS / "still", step)["state_dict"] for step in (AT, LAST))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["seed_everything=1"], {"seed_everything": [0, 1]}),
        (["--model.regularizers+=IStar", "--model.regularizers.weight=-2"], "model.regularizers"),
        (["model.objective=clm"], {"model.objective": ["mlm", "clm"]}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_one_thing_is_changed(fork, words, changed):
    folder = fork(*words)
    found = runs.read(folder).fork["changed"]
    assert found == changed if isinstance(changed, dict) else all(key.startswith(changed) for key in found)
    assert found
    assert not rows_after("causal", AT).equals(rows_after("fork", AT))
    assert runs.read(folder).status == "done"


def test_another_text_in_the_same_vocabulary(fork, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("dogs run fast over " * 2000)
    folder = fork("--data.corpus", other, of="bytes")
    info, parent = runs.read(folder), runs.read("bytes")
    assert info.data["sha256"] != parent.data["sha256"]
    assert list(info.fork["changed"]) == ["data.corpus"]


def test_a_fork_is_another_run_in_wandb(fork, text_file, capsys):
    logger = {"class_path": "dynamics.loggers.wandb.WandbLogger", "init_args": {"id": "given"}}
    fit(text_file, "named", trainer__logger=json.dumps(logger), checkpoints__every=1, checkpoints__keep="all")
    with pytest.raises(SystemExit, match="2"):
        fork(of="named")
    assert "W&B has named under the id given" in capsys.readouterr().err
    folder = fork("--trainer.logger.id", "null", of="named")
    assert runs.read("named").wandb_id == "given"
    assert runs.read(folder).wandb_id not in ("", "given")


def test_a_fork_resumes_as_what_it_is():
    folder = runs.CHECKPOINTS / "switched"
    whole, info = rows_after("switched", -1), runs.read(folder)
    newest = read_state(folder, LAST)["state_dict"]
    for left in (AT + 1, AT):
        for path in states(folder)[: LAST - left]:
            path.unlink()
        main(["fit", "--run", "switched", "--resume", "auto"])
        assert rows_after("switched", -1).equals(whole)
        assert all(torch.equal(tensor, newest[name]) for name, tensor in read_state(folder, LAST)["state_dict"].items())
        again = runs.read(folder)
        assert (again.fork, again.label) == (info.fork, info.label)
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--run", "switched", "--resume", "auto", "--model.is_causal=true"])


def test_a_fork_that_was_killed_before_it_had_its_state_begins_again():
    shutil.rmtree(runs.CHECKPOINTS / "control" / "state")
    main(["fit", "--run", "control", "--resume", "auto"])
    assert_equal("causal", "control", AT)


def test_a_fork_of_a_fork(fork):
    folder = fork(of="control", at=AT + 1)
    assert_equal("causal", "fork", AT + 1)
    assert [(parent.name, last) for parent, last in ancestors(folder)] == [("control", AT + 1), ("causal", AT)]


def test_a_run_of_the_same_name_is_not_the_parent():
    folder = runs.CHECKPOINTS / "control"
    assert [parent.name for parent, _ in ancestors(folder)] == ["causal"]
    moved = shutil.move(runs.CHECKPOINTS / "causal", runs.CHECKPOINTS / "aside")
    try:
        assert list(ancestors(folder)) == []
        shutil.copytree(runs.CHECKPOINTS / "bytes", runs.CHECKPOINTS / "causal")
        assert list(ancestors(folder)) == []
        shutil.rmtree(runs.CHECKPOINTS / "causal")
    finally:
        shutil.move(moved, runs.CHECKPOINTS / "causal")


def test_the_state_is_brought_without_a_copy():
    ours, parents = (state_path(runs.CHECKPOINTS / run, AT) for run in ("control", "causal"))
    assert ours.samefile(parents)
    findings = verify("control")
    assert ours in findings.whole
    assert not findings.damaged


def test_a_copy_where_there_are_no_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    Origin.find("causal", AT).bring(tmp_path)
    ours, parents = (state_path(f, AT) for f in (tmp_path, runs.CHECKPOINTS / "causal"))
    assert not ours.samefile(parents)
    assert ours.read_bytes() == parents.read_bytes()
    assert is_intact(ours)
    assert ours.name in digests(ours.parent)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--at", "9"], "has no training state at step 9: the nearest is --at 6 (there are 1, 2, 3, 4, 5, 6; "),
        ([], "--at is missing: give a step with a training state (1, 2, 3, 4, 5, 6)"),
        (["--at", "3", "model.width=32"], "model.width is 16 in causal (now 32) and cannot change in a fork"),
        (["--at", "3", "model.depth=3"], "model.depth is 2 in causal (now 3) and cannot change in a fork"),
        (["--at", "3", "model.heads=4"], "model.heads is 2 in causal (now 4) and cannot change in a fork"),
        (["--at", "3", "model.qk_norm=true"], "is the state of another network"),
        (["--at", "3", "model.positions=none"], "of shape (32, 16), but missing in this model"),
        (["--at", "3", "data.context=16"], "is the state of another network"),
        (["--at", "3", "trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches is 1 in causal (now 2)"),
        (["--at", "3", "trainer.max_steps=3"], "trainer.max_steps 3 leaves nothing to do from step 3 on"),
        (["--at", "3", "data.vocabulary=bytes"], "has another vocabulary of bytes than causal"),
        (["--at", "3", "--size", "tiny"], "--size has no effect on a fork"),
        (["--at", "3", "--resume", "auto"], "--resume has no effect on a fork"),
        (["--at", "3", "model.is_causal=false", "odd"], "odd is no option: write KEY=VALUE or --KEY VALUE"),
        (["--at", "3", "model.hight=3"], "hight"),
        (["--at", "3", "--run", "bytes"], "a run named bytes exists"),
    ],
    ids=lambda value: " ".join(value[-1:]) if isinstance(value, list) else "",
)
def test_what_cannot_be_forked_is_refused_in_a_sentence(words, sentence, capsys, place):
    before = sorted(path.name for path in (place / "checkpoints").iterdir())
    with pytest.raises(SystemExit, match="2"):
        main(["fork", "causal", *([] if "--run" in words else ["--run", "refused"]), *words])
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in (place / "checkpoints").iterdir()) == before


def test_a_text_that_has_changed_meanwhile_is_refused(fork, text_file, capsys):
    text = text_file.read_text()
    text_file.write_text(text[:-20])
    try:
        with pytest.raises(SystemExit, match="2"):
            fork()
    finally:
        text_file.write_text(text)
    assert "is not the one that causal was trained on" in capsys.readouterr().err
    assert not (runs.CHECKPOINTS / "fork").exists()


def test_a_clm_run_cannot_lose_its_mask(fork, capsys):
    with pytest.raises(SystemExit, match="2"):
        fork("--config", CONFIGS / "switch.yaml", of="bytes")
    assert "sees the character that it must predict" in capsys.readouterr().err


def test_a_damaged_state_is_refused():
    path = state_path(runs.CHECKPOINTS / "bytes", 2)
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    try:
        with pytest.raises(InputError, match=r"is damaged, .* \(1, 2, 3, 4\)"):
            Origin.find("bytes", 2)
    finally:
        path.write_bytes(content)
