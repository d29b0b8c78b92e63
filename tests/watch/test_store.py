import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynamics import record
from dynamics.errors import InputError
from dynamics.record import Row
from dynamics.watch import parts
from dynamics.watch.store import Store
from tests.runs import forget_digests


@pytest.fixture
def reads(monkeypatch):
    """The names of the parts that are read, in turn."""
    names = []
    read = parts.geometry
    monkeypatch.setattr(parts, "geometry", lambda path, heads: names.append(path.name) or read(path, heads))
    return names


def read_all(run):
    return {name: run.part(name).groups for name in run.files}


def name(step):
    return f"geometry-{step:010d}.parquet"


def test_runs_under_checkpoints_come_and_go(store, small):
    assert store.runs() == {}
    folder = small("a")
    small("b")
    (folder.parent / "no run").mkdir()
    assert sorted(store.runs()) == ["a", "b"]
    shutil.rmtree(folder)
    assert sorted(store.runs()) == ["b"]


def test_a_folder_whose_name_is_no_text_stays_the_same_run(store, small, place):
    try:
        small(os.fsdecode(b"a\xff"), run="a")
    except OSError:
        pytest.skip("the file system takes no such name")
    ((key, run),) = store.runs().items()
    assert key == "a\\udcff"
    assert store.runs()[key] is run


def test_named_runs_are_all_there_is_and_those_of_one_name_go_by_their_path(small, place):
    small("a")
    small("b")
    other = small("../elsewhere/a")
    assert sorted(Store(["a", str(other), "a"]).runs()) == [str(other), "a"]
    with pytest.raises(InputError, match="no run named c"):
        Store(["c"])


def test_only_what_has_changed_is_read(store, small, reads):
    small("a", 0)
    run = store.runs()["a"]
    read_all(run)
    version = run.version
    assert store.runs()["a"] is run
    assert run.version == version
    small("a", 8)
    store.runs()
    read_all(run)
    assert reads == [name(0), name(8)]
    assert run.version > version
    assert [run.changed[name(step)] > version for step in (0, 8)] == [False, True]
    small("a", 0, value=0.25)
    store.runs()
    assert read_all(run)[name(0)][0]["values"] == [0.25, 0.5, 0.75]
    assert reads == [name(0), name(8), name(0)]


def test_a_part_that_is_gone_cuts(store, small):
    small("a", 0)
    folder = small("a", 8)
    run = store.runs()["a"]
    version = run.version
    assert run.cut <= version
    (folder / "record" / name(8)).unlink()
    store.runs()
    assert run.cut == run.version > version
    assert list(run.files) == [name(0)]


def test_a_part_that_goes_before_it_is_read_is_no_problem(store, small):
    folder = small("a", 0)
    run = store.runs()["a"]
    problems = run.problems()
    (folder / "record" / name(0)).unlink()
    assert (read_all(run), run.problems()) == ({name(0): []}, problems)


def test_an_unchanged_run_is_not_listed_again(store, small, monkeypatch):
    small("a")
    for _ in range(3):
        store.runs()
    monkeypatch.setattr("dynamics.watch.store.NAME", None)  # would break a listing
    assert list(store.runs()["a"].files) == [name(0)]


def test_a_damaged_part_is_skipped_and_named(store, small):
    folder = small("a", 0)
    whole = (folder / "record" / name(0)).read_bytes()
    (folder / "record" / name(8)).write_bytes(whole[: len(whole) // 2])
    run = store.runs()["a"]
    assert [bool(groups) for _, groups in sorted(read_all(run).items())] == [True, False]
    (problem,) = [problem for problem in run.problems() if name(8) in problem]
    assert problem.startswith(f"record/{name(8)} is skipped: {name(8)} is not a readable Parquet part")
    assert str(folder) not in problem


def test_a_part_of_another_version_is_skipped_and_named(store, small):
    folder = small("a", 0)
    path = folder / "record" / name(0)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"dynamics.schema": "99"}), path)
    forget_digests(folder)
    run = store.runs()["a"]
    assert read_all(run) == {name(0): []}
    assert "has schema version 99" in run.problems()[-1]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: table.drop_columns(["metric"]), "metric"),
        (lambda table: table.set_column(4, "site", pa.array([b"\xff"] * 3)), "Invalid UTF8"),
        (lambda table: table.set_column(8, "value", pa.array(["much"] * 3)), "Failed to parse string: 'much'"),
        (lambda table: table.set_column(3, "step", pa.array([0.5] * 3)), "truncated"),
    ],
)
def test_a_part_with_other_columns_is_skipped_and_named(store, small, change, problem):
    folder = small("a", 0)
    path = folder / "record" / name(0)
    pq.write_table(change(pq.read_table(path)), path)
    forget_digests(folder)
    run = store.runs()["a"]
    assert read_all(run) == {name(0): []}
    assert f"record/{name(0)} is skipped: " in run.problems()[-1]
    assert problem in run.problems()[-1]


@pytest.mark.parametrize("part", [name(0), "run.json", "record"])
def test_links_inside_a_run_are_not_followed(store, small, place, part):
    small("a", 0)
    folder, secret = place / "checkpoints" / "a", place / "secret"
    if part == "run.json":
        secret.write_text(json.dumps({"run": "a", "label": "secret"}))
    else:
        shutil.move(folder / (part if part == "record" else f"record/{part}"), secret)
    (folder / ("record/" * part.startswith("geometry") + part)).symlink_to(secret)
    run = store.runs()["a"]
    assert not any(read_all(run).values()) or part == "run.json"
    assert run.info.to_dict() == {"run": "", "kind": ""} or "label" not in run.info.to_dict()
    assert any("is a link" in problem for problem in run.problems())


@pytest.mark.parametrize(
    "content",
    ["", "[1]", '{"kind": "fit", "run": ', "[" * 50_000, "\xff", '{"kind": "fit", "schema": 99}', '{"metrics": 3}'],
)
def test_a_run_json_of_any_kind_is_survived(store, small, content):
    folder = small("a", 0)
    (folder / "run.json").write_bytes(content.encode("latin-1"))
    run = store.runs()["a"]
    assert read_all(run)[name(0)]
    assert bool(run.problems()) == ("metrics" not in content)


def test_an_empty_run_has_no_parts(store, place):
    (place / "checkpoints" / "a").mkdir(parents=True)
    (place / "checkpoints" / "a" / "run.json").write_text('{"run": "a", "kind": "fit", "status": "running"}')
    run = store.runs()["a"]
    assert (run.files, run.problems()) == ({}, [])
    assert run.written == pytest.approx((run.folder / "run.json").stat().st_mtime)


def test_of_a_kind_the_newest_comes_first(store, place):
    out = record.Record(place / "checkpoints" / "a")
    for step in (8, 0, 64):
        out.write(step, [Row("a", "", "", step, "residual", 1, -1, "anisotropy", 0.5)])
    assert store.runs()["a"].of_kind("geometry") == [name(64), name(8), name(0)]
