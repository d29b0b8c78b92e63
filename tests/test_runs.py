"""A run's folder and its `run.json`: begun, locked, resumed and finished."""

import json
import os

import pytest

from dynamics import run_info, runs
from dynamics.errors import InputError
from dynamics.lock import locked
from dynamics.run_info import ConeInfo, FitInfo, ProbeInfo, RunInfo, ScanInfo, SweepInfo
from tests.report.conftest import write_run
from tests.runs import forget_digests

DESIGN = {"subject": "", "condition": "", "label": "blocks", "width": 16, "layers": 2}
INFOS = [
    RunInfo(run="a"),
    FitInfo(run="a", label="causal, clm", is_causal=False, layers=2, commit=None, data={"sha256": "0", "notes": []}),
    ScanInfo(run="a", settings={"batch_size": 8}, subjects={"gpt2@main": {"layers": 12}}),
    ConeInfo(run="a", corpora={"main": {"sentences": 9}}, pairs=0),
    ProbeInfo(run="a", beta=[0.0, 64.0], seeds=2, designs=[DESIGN]),
    SweepInfo(run="a", runs={"a-0": ["--seed_everything", "0"]}),
]


def test_a_copy_beside_kept_weights_is_none_of_the_run(tmp_path):
    for name in ("step-0000000004", "step-0000000002", "step-0000000002 (copy)", "step-x"):
        (tmp_path / "weights" / name).mkdir(parents=True)
    assert runs.kept_weights(tmp_path) == {step: runs.weights_path(tmp_path, step) for step in (2, 4)}


@pytest.fixture(autouse=True)
def here(workplace):
    return workplace


def content(run="a"):
    return json.loads((runs.CHECKPOINTS / run / "run.json").read_text())


def measure(run):
    """Put a part into the record of a run under way."""
    (run.folder / "record").mkdir(exist_ok=True)
    (run.folder / "record" / "geometry-0000000000.parquet").write_bytes(b"")


def finished(info):
    with runs.start(info) as run:
        measure(run)
    return run.folder


def break_off(info, error, resume=None, discard=False):
    """A run that measures and then ends with `error`; returns its folder."""

    def body():
        with runs.start(info, resume) as run:
            measure(run)
            run.is_discarded = discard
            raise error

    with pytest.raises(type(error)):
        body()
    return runs.CHECKPOINTS / info.run


# run.json


@pytest.mark.parametrize("info", INFOS, ids=lambda info: type(info).__name__)
def test_typed_infos_survive_the_file(info):
    info.unknown = {"of_a_later_version": [1, {"a": None}]}
    runs.Run(runs.CHECKPOINTS / "a", info, resumed=False).save()
    assert runs.read("a") == info
    assert content()["of_a_later_version"] == [1, {"a": None}]
    assert content()["schema"] == run_info.SCHEMA


@pytest.mark.parametrize("kind", [RunInfo, FitInfo, ProbeInfo])
@pytest.mark.parametrize("content", [{}, {"run": "a", "status": "done", "seed": 0, "new": [1]}])
def test_what_a_file_does_not_say_is_not_made_up(kind, content):
    expected = content | ({"kind": kind.kind} if kind.kind else {})
    assert kind.from_dict(content).to_dict() == expected


def test_empty_values_are_left_out():
    assert ScanInfo(run="a").to_dict() == {"run": "a", "kind": "scan", "status": "running", "schema": run_info.SCHEMA}


def test_a_file_without_schema_is_read_as_version_0():
    folder = runs.new("old")
    (folder / "record").mkdir(parents=True)
    stated = {"run": "old", "kind": "fit", "status": "done", "objective": "mlm", "data": {"sha256": "0"}, "extra": 1}
    (folder / "run.json").write_text(json.dumps(stated))
    info = runs.read("old")
    assert isinstance(info, FitInfo)
    assert (info.schema, info.objective, info.unknown) == (0, "mlm", {"extra": 1})
    assert info.to_dict() == stated


def test_a_kind_of_a_later_version_is_read_with_its_keys():
    write_run(runs.CHECKPOINTS / "a", {"run": "a", "kind": "fork", "parent": "b"})
    info = runs.read("a")
    assert type(info) is RunInfo
    assert info.unknown == {"parent": "b"}


def test_the_newest_run_is_that_which_wrote_last():
    with pytest.raises(InputError, match="there is no run under checkpoints/"):
        runs.newest()
    for age, name in enumerate(("b", "c", "a")):
        finished(ScanInfo(run=name))
        os.utime(runs.CHECKPOINTS / name / "record" / "geometry-0000000000.parquet", (2_000_000_000 - age,) * 2)
    (runs.CHECKPOINTS / "sweep").mkdir()
    assert runs.newest() == runs.CHECKPOINTS / "b"


@pytest.mark.parametrize(("text", "word"), [("[]", "should be an object"), ("{", "Invalid JSON")])
def test_a_damaged_file_is_named(text, word):
    folder = runs.new("a")
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(text)
    with pytest.raises(InputError, match=word) as error:
        runs.read("a")
    assert str(folder / "run.json") in str(error.value)


# start


def test_a_new_run_says_that_it_runs_and_how_it_ended():
    with runs.start(ScanInfo(run="a", settings={"seed": 0})) as run:
        assert (run.folder, run.resumed) == (runs.CHECKPOINTS / "a", False)
        assert content()["status"] == "running"
        assert "finished" not in content()
        run.info.subjects["gpt2"] = {"layers": 12}
    assert content()["status"] == "done"
    assert content()["finished"]
    assert content()["subjects"] == {"gpt2": {"layers": 12}}
    assert [path.name for path in run.folder.glob("[!.]*")] == ["run.json"]
    assert not (run.folder / ".lock").exists()  # the lock is gone


def test_a_run_may_end_as_stopped():
    with runs.start(FitInfo(run="a")) as run:
        run.ends_as = "stopped"
    assert content()["status"] == "stopped"


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "interrupted"), (RuntimeError(), "failed"), (SystemExit(), "failed")]
)
def test_an_error_is_written_and_passed_on(error, status):
    break_off(FitInfo(run="a"), error)
    assert content()["status"] == status
    assert content()["finished"]


def test_a_new_run_that_measured_nothing_leaves_nothing(monkeypatch):
    monkeypatch.setattr(f"{__name__}.measure", lambda run: (run.folder / "config.yaml").touch())
    assert not break_off(FitInfo(run="a"), RuntimeError()).exists()


def test_a_new_run_that_has_measured_a_part_is_kept(monkeypatch):
    monkeypatch.setattr(f"{__name__}.measure", lambda run: run.unfinished("a/model@main").touch())
    assert break_off(FitInfo(run="a"), KeyboardInterrupt()).exists()
    assert content()["status"] == "interrupted"


@pytest.mark.parametrize("resume", [None, "auto"])
def test_a_discarded_run_leaves_nothing_unless_it_was_resumed(resume):
    if resume:
        finished(FitInfo(run="a"))
    folder = break_off(FitInfo(run="a"), InputError("no"), resume, discard=True)
    assert folder.exists() == bool(resume)


@pytest.mark.parametrize("name", ["a/b", "..", "/a", ""])
def test_a_path_is_no_name(name):
    with pytest.raises(InputError, match="give a name"), runs.start(FitInfo(run=name)):
        pass


@pytest.mark.parametrize("name", [" ", "a ", "-a", "--run", ".a", "a\nb", "a\tb", "\x1b[31ma"])
def test_a_name_that_no_command_line_could_hold_is_refused(name):
    with pytest.raises(InputError, match="a name begins with"), runs.start(FitInfo(run=name)):
        pass


def test_a_run_that_exists_is_refused_and_stays_as_it_is():
    folder = finished(FitInfo(run="a"))
    before = (folder / "run.json").read_bytes()
    with pytest.raises(InputError, match=r"a run named a exists: add --resume auto"), runs.start(FitInfo(run="a")):
        pass
    assert (folder / "run.json").read_bytes() == before


def test_a_folder_that_holds_anything_is_not_taken_for_a_new_run():
    (runs.CHECKPOINTS / "a").mkdir(parents=True)
    with runs.start(FitInfo(run="a")):  # an empty one is
        pass
    (runs.CHECKPOINTS / "b").mkdir()
    (runs.CHECKPOINTS / "b" / "notes.txt").touch()
    with pytest.raises(InputError, match="a run named b exists"), runs.start(FitInfo(run="b")):
        pass


@pytest.fixture
def before_the_lock(monkeypatch):
    """A function of what another process does until the next run has its lock."""

    def does(work):
        def late(folder):
            monkeypatch.setattr(runs, "locked", locked)
            work()
            return locked(folder)

        monkeypatch.setattr(runs, "locked", late)

    return does


def test_a_run_that_another_process_begins_meanwhile_is_refused_and_stays_as_it_is(before_the_lock):
    before_the_lock(lambda: finished(FitInfo(run="a", seed=1)))
    with pytest.raises(InputError, match="a run named a exists"), runs.start(FitInfo(run="a", seed=2)):
        pass
    assert (content()["seed"], content()["status"]) == (1, "done")


def test_a_run_is_resumed_as_what_it_is_by_then(before_the_lock):
    finished(ScanInfo(run="a"))
    there = ScanInfo(run="a", subjects={"x": {"layers": 1}})
    before_the_lock(lambda: runs.Run(runs.CHECKPOINTS / "a", there, resumed=False).save())
    with runs.start(ScanInfo(run="a"), "auto") as run:
        assert run.info.subjects == there.subjects


def test_a_check_refuses_a_run_under_its_lock_before_anything_is_written():
    def check():
        assert (folder / ".lock").exists()
        raise InputError("no")

    folder = finished(FitInfo(run="a"))
    before = (folder / "run.json").read_bytes()
    with pytest.raises(InputError, match="no"), runs.start(FitInfo(run="a"), "auto", update=True, check=check):
        pass
    assert (folder / "run.json").read_bytes() == before
    assert not (folder / ".lock").exists()


def test_a_resumed_run_keeps_what_it_says():
    before = ScanInfo(run="a", settings={"seed": 0}, command="first", subjects={"x": {"layers": 1}})
    break_off(before, KeyboardInterrupt())
    now = ScanInfo(run="a", settings={"seed": 0}, command="second")
    with runs.start(now, "auto", same=("settings",)) as run:
        assert run.resumed
        assert (content()["status"], content().get("finished")) == ("running", None)
        assert (run.info.command, run.info.subjects) == ("first", {"x": {"layers": 1}})
    assert content()["status"] == "done"


def test_an_updated_run_says_what_it_is_now_and_keeps_unknown_keys():
    finished(FitInfo(run="a", command="first", max_steps=6, unknown={"note": "mine"}))
    with runs.start(FitInfo(run="a", command="second", max_steps=9), "auto", update=True):
        pass
    assert (content()["command"], content()["max_steps"], content()["note"]) == ("second", 9, "mine")


@pytest.mark.parametrize("text", [None, "", "null"])
def test_a_run_whose_file_is_missing_or_empty_is_refused(text):
    path = finished(FitInfo(run="a")) / "run.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError, match=r"checkpoints/a/run\.json"), runs.start(FitInfo(run="a"), "auto", update=True):
        pass
    assert text is None or path.read_text() == text


def test_an_old_run_is_resumed():
    folder = finished(ScanInfo(run="a", settings={"seed": 0}))
    old = {key: value for key, value in content().items() if key not in ("schema", "metrics")}
    (folder / "run.json").write_text(json.dumps(old))
    forget_digests(folder)
    with runs.start(ScanInfo(run="a", settings={"seed": 0}), "auto", same=("settings", "metrics")):
        pass
    assert content()["schema"] == run_info.SCHEMA


def test_a_run_of_another_kind_is_refused():
    finished(ScanInfo(run="a"))
    with pytest.raises(InputError, match="the run a is no cone"), runs.start(ConeInfo(run="a"), "auto"):
        pass


def test_other_settings_are_refused_by_name():
    finished(ScanInfo(run="a", settings={"seed": 0, "tokens": 64}))
    with (
        pytest.raises(InputError, match=r"made with other settings \(tokens\)"),
        runs.start(ScanInfo(run="a", settings={"seed": 0, "tokens": 32}), "auto", same=("settings",)),
    ):
        pass
    assert content()["settings"]["tokens"] == 64
