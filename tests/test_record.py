"""The record: what is written is read, nothing twice, nothing half."""

import ast
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics import files, record, runs
from dynamics.errors import InputError
from dynamics.record import COLUMNS, KEY, Array, Record, Row
from tests.report.conftest import write_run
from tests.runs import forget_digests


def row(step=0, layer=0, metric="anisotropy", value=0.5, site="residual", head=-1):
    return Row("r", "", "", step, site, layer, head, metric, value, n=10)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def test_reading_gives_the_columns_and_the_rows(folder):
    written = Record(folder)
    written.write(0, [row(layer=1), row(layer=0)])
    written.write(4, [row(step=4, value=float("nan"))])
    frame = record.read(folder)
    assert list(frame.columns) == COLUMNS
    assert frame[["step", "layer"]].values.tolist() == [[0, 0], [0, 1], [4, 0]]
    assert np.isnan(frame.value.iloc[2])
    assert frame.low.isna().all()


def test_the_same_step_again_replaces_its_part(folder):
    Record(folder).write(4, [row(step=4, value=1.0)])
    Record(folder).write(4, [row(step=4, value=2.0)])
    assert record.read(folder).value.tolist() == [2.0]


def test_parts_of_one_step_stand_side_by_side(folder):
    for subject in ("a", "b"):
        Record(folder).write(0, [row()._replace(subject=subject)], part=subject)
    assert record.read(folder).subject.tolist() == ["a", "b"]


def test_a_key_given_twice_is_an_error(folder):
    with pytest.raises(ValueError, match="share the key"):
        Record(folder).write(0, [row(), row()])
    assert not list(folder.rglob("*.parquet"))


@given(steps=st.lists(st.integers(1, 450), min_size=1, max_size=60))
def test_curves_keep_the_newest_value_of_every_key(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("run")
    written = Record(folder)
    newest = {}
    for order, step in enumerate(steps):
        written.add_curves([row(step=step, value=float(order), site="train", metric="loss")])
        newest[step] = float(order)
    written.flush()
    frame = record.read(folder)
    assert dict(zip(frame.step, frame.value, strict=True)) == newest


def test_curves_go_on_in_a_block_begun_by_another_process(folder):
    for step in (1, 2):
        written = Record(folder)
        written.add_curves([row(step=step, site="train", metric="loss")])
        written.flush()
    assert record.read(folder).step.tolist() == [1, 2]
    assert len(list((folder / "record").glob("curves-*"))) == 1


def test_cutting_forgets_what_lies_beyond_the_step(folder):
    written = Record(folder)
    for step in (0, 64, 128):
        written.write(step, [row(step=step)], [Array(*row(step=step)[:8], values=np.zeros((2, 3)))])
    written.add_curves(row(step=step, site="train", metric="loss") for step in range(1, 251))
    written.flush()
    Record(folder).cut(100)
    frame = record.read(folder)
    assert frame[frame.site == "residual"].step.tolist() == [0, 64]
    assert frame[frame.site == "train"].step.tolist() == list(range(1, 101))
    assert [a.step for a in record.read_arrays(folder)] == [0, 64]


def test_cutting_keeps_what_is_not_written_yet(folder):
    written = Record(folder)
    written.add_curves(row(step=step, site="train", metric="loss") for step in range(1, 11))
    written.cut(4)
    assert record.read(folder).step.tolist() == [1, 2, 3, 4]


def test_arrays_keep_their_shape(folder):
    values = np.arange(6.0).reshape(2, 3)
    Record(folder).write(0, [row()], [Array(*row()[:8], values=values)])
    (array,) = record.read_arrays(folder)
    assert np.array_equal(array.values, values)
    assert tuple(getattr(array, name) for name in KEY) == row()[:8]


def test_many_runs_are_one_frame(tmp_path):
    for name in ("a", "b"):
        Record(tmp_path / name).write(0, [row()._replace(run=name)])
    assert record.read([tmp_path / "a", tmp_path / "b"]).run.tolist() == ["a", "b"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        files.write_atomically(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_missing_run_is_refused_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "checkpoints" / "decoder-a", {"run": "decoder-a"})
    with pytest.raises(InputError, match="did you mean decoder-a"):
        record.read("decoder-b")


def test_a_damaged_part_is_refused_by_name(folder):
    Record(folder).write(0, [row()])
    (part,) = (folder / "record").glob("geometry-*")
    part.write_bytes(b"not parquet")
    with pytest.raises(InputError, match=part.name):
        record.read(folder)
    curves = part.rename(part.with_name("curves-0000000000.parquet"))
    for go_on in (lambda: Record(folder).cut(0), lambda: Record(folder).add_curves([row(step=1)])):
        with pytest.raises(InputError, match=curves.name):
            go_on()


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", "/tmp/x"])
def test_a_new_run_has_a_name_and_no_path(name):
    with pytest.raises(InputError, match="a name, not a path"):
        runs.new(name)


@given(settings=st.dictionaries(st.text(min_size=1), st.text(), max_size=4))
def test_a_condition_is_parsed_as_it_was_written(settings):
    assert record.parse_condition(record.condition(**settings)) == settings


def test_conditions_become_columns(folder):
    for beta, model in ((1, "a,b"), (2, "c=d")):
        condition = record.condition(beta=beta, against=model, step=7)
        Record(folder).write(0, [row()._replace(condition=condition)], part=condition)
    Record(folder).write(0, [row()], part="none")
    frame = record.read(folder, conditions=True).set_index("condition").sort_index()
    assert frame.beta.tolist()[1:] == ["1", "2"]
    assert frame.against.tolist()[1:] == ["a,b", "c=d"]
    assert frame.condition_step.tolist()[1:] == ["7", "7"]
    assert frame.loc["", ["beta", "against", "condition_step"]].isna().all()


def rewrite(folder, version):
    """The same part with another schema version in its metadata, or none."""
    (path,) = (folder / "record").glob("*.parquet")
    table = pq.read_table(path)
    metadata = None if version is None else {b"dynamics.schema": str(version).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    forget_digests(folder)
    return path


def test_parts_say_their_schema_version_and_older_ones_are_read(folder):
    Record(folder).write(0, [row()])
    (path,) = (folder / "record").glob("*.parquet")
    assert pq.read_schema(path).metadata[b"dynamics.schema"] == b"2"
    pq.write_table(pq.read_table(path).drop_columns(COLUMNS[12:]).replace_schema_metadata(None), path)
    forget_digests(folder)
    frame = record.read(folder)
    assert list(frame) == COLUMNS
    assert frame.value.tolist() == [0.5]
    assert frame.windows.tolist() == [0]
    assert frame.n_effective.isna().all()
    assert frame.reason.tolist() == [""]


def test_a_part_of_a_newer_version_is_refused_by_name(folder):
    Record(folder).write(0, [row()])
    path = rewrite(folder, 99)
    with pytest.raises(InputError, match=f"{path.name} has schema version 99"):
        record.read(folder)


def test_duckdb_and_polars_read_the_record_as_documented(workplace):
    folder = Path("checkpoints/decoder")
    for step in (0, 4):
        Record(folder).write(step, [row(step=step, layer=1)._replace(run="decoder")])
    page = (Path(__file__).resolve().parents[1] / "docs" / "record.md").read_text()
    code = [block for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "dynamics" not in block]
    assert len(code) == 2
    for block in code:
        *lines, last = ast.parse(block).body
        scope = {}
        exec(compile(ast.Module(lines, []), "record.md", "exec"), scope)
        frame = eval(compile(ast.Expression(last.value), "record.md", "eval"), scope)
        assert list(frame["step"]) == [0, 4]
        assert list(frame["value"]) == [0.5, 0.5]
