from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynamics import record
from dynamics.errors import InputError
from dynamics.record import Row
from dynamics.report import summary, tables
from dynamics.report.study import load
from tests.report.conftest import cells, write_run
from tests.runs import forget_digests


def swept(folder, conditions):
    """A record whose values depend on a condition, without steps."""
    places = product(conditions, (1, 2))
    rows = [Row(folder.name, "", text, 0, "output", layer, -1, "mean_cosine", layer / 10) for text, layer in places]
    record.Record(folder).write(0, rows)
    write_run(folder, {"run": folder.name})
    return folder


def test_runs_that_differ_by_seed_and_history_are_one_arm(make):
    kinds = [{"seed": seed, "model": {"seed": seed, "depth": 4}, "wandb_id": f"id{seed}"} for seed in (0, 1, 2)]
    (arm,) = load([make(f"d{i}", **settings) for i, settings in enumerate(kinds)]).arms
    assert (arm.runs, arm.seeds) == (("d0", "d1", "d2"), ("0", "1", "2"))
    assert arm.name == "decoder (causal, clm)"


@pytest.mark.parametrize(
    ("settings", "ends"),
    [(({}, {}), ("a", "b")), (({"width": 32}, {"width": 64, "seed": 1}), ("width 32", "width 64"))],
    ids=["two runs of one seed are no repetition", "runs that differ by a setting are called by it"],
)
def test_arms_that_stay_apart_have_names_of_their_own(make, settings, ends):
    names = load([make(name, **options) for name, options in zip("ab", settings, strict=True)]).arm_names
    assert names == [f"decoder (causal, clm), {end}" for end in ends]


def test_every_row_belongs_to_the_arm_of_its_run(make):
    study = load([make("d"), make("e", "encoder")])
    owners = study.rows.groupby("run")["arm"].unique().map(list).to_dict()
    assert owners == {"d": ["decoder (causal, clm)"], "e": ["encoder (bidirectional, mlm)"]}
    assert (study.rows["at"] == study.rows["step"]).all()


@pytest.mark.parametrize(("site", "condition"), [("test", ""), ("validation", "split=test")], ids=["now", "older"])
def test_results_on_the_test_split_are_no_arm_and_no_part_of_a_curve(make, site, condition):
    run = make("d")
    out = record.Record(run)
    out.add_curves([Row("d", "", condition, 200, site, -1, -1, "bits_per_character", 9.25)])
    out.flush()
    study = load([run])
    assert study.arm_names == ["decoder (causal, clm)"]
    assert ("step", "test", "bits_per_character") not in tables.quantities(study.rows)
    assert 9.25 not in tables.curves(study.rows, "bits_per_character")["value"].tolist()
    assert cells(summary.key_numbers(study), "test bits per character, every character (clm)") == ("9.25",)


def test_every_row_has_the_range_of_its_metric_also_of_one_that_the_run_alone_describes(make):
    own = {"title": "share of the tail", "range": [0.5, None]}
    run = make("d", descriptions={"tail_share": own})
    record.Record(run).write(300, [Row("d", "", "", 300, "residual", 1, -1, "tail_share", 0.7)])
    rows = load([run]).rows.groupby("metric")[["least", "greatest"]].first()
    assert rows.loc["anisotropy"].tolist() == [0, 1]
    assert rows.loc["qk_alignment"].tolist() == [-1, 1]
    assert rows.loc["tail_share"].tolist() == pytest.approx([0.5, np.nan], nan_ok=True)


def test_a_run_named_twice_counts_once(make):
    run = make("d")
    assert len(load([run, run, f"{run}/"]).arms) == 1


def test_a_run_is_called_as_it_is_told(make):
    d, e, f = make("d"), make("e", seed=1), make("f", "encoder")
    study = load([f"one={d}", f"two={e}", f])
    assert study.arm_names == ["one", "two", "encoder (bidirectional, mlm)"]  # two seeds of one kind, told apart
    assert list(study.runs) == ["one", "two", "f"]
    together = load([f"both={d}", f"both={e}"])
    assert [(arm.name, arm.seeds) for arm in together.arms] == [("both", ("0", "1"))]


def test_a_damaged_part_is_left_out_and_named(make):
    run = make("d")
    broken = run / "record" / "geometry-0000000008.parquet"
    broken.write_bytes(broken.read_bytes()[:100])
    study = load([run])
    assert 8 not in set(study.rows.loc[study.rows["site"] == "residual", "step"])
    (note,) = [text for text in summary.notes(study) if "left out" in text]
    assert note == "Of run d, 1 part cannot be read and is left out: geometry-0000000008.parquet."


def test_many_damaged_parts_are_one_note_also_where_nothing_is_left(make):
    run = make("d")
    for path in run.glob("record/arrays-*"):  # intact as files, but of another size than their shape
        table = pq.read_table(path)
        pq.write_table(table.set_column(8, "shape", pa.array([[7]] * len(table))), path)
    forget_digests(run)
    (note,) = [text for text in summary.notes(load([run])) if "left out" in text]
    assert note.startswith("Of run d, 10 parts cannot be read and are left out: arrays-0000000000.parquet and 9 more (")
    for path in run.glob("record/*.parquet"):
        path.write_bytes(b"x")
    assert any("none of its parts can be read" in text for text in summary.notes(load([make("e"), run])))


def test_a_run_without_rows_is_left_out_beside_others(make, tmp_path):
    write_run(tmp_path / "fresh", {"run": "fresh"})
    study = load([make("d"), tmp_path / "fresh"])
    assert list(study.runs) == ["d"]
    assert any("Run fresh has no rows" in text for text in summary.notes(study))


def test_intervals_do_not_leave_the_range(make):
    run = make("d")
    record.Record(run).write(300, [Row("d", "", "", 300, "residual", 1, -1, "anisotropy", 0.01, -0.2, 1.2)])
    rows = load([run]).rows
    assert rows.loc[rows["step"] == 300, ["low", "high"]].to_numpy().tolist() == [[0, 1]]


def test_states_of_convolutions_are_no_residual_stream(make):
    study = load([make("d", heads=[0, 0])])
    assert study.heading("residual", "anisotropy") == "Anisotropy (hidden states)"
    assert "stages" in study.layers("residual")


def test_two_folders_of_one_name_are_two_runs(make):
    study = load([make("one/run"), make("two/run", "encoder")])
    assert len(study.runs) == len(study.arms) == 2


@pytest.mark.parametrize("content", [{}, None])
def test_a_record_without_settings_is_called_by_its_run(make, content):
    run = make("foreign")
    (run / "run.json").unlink()
    if content is not None:
        write_run(run, content)
    (arm,) = load([run]).arms
    assert (arm.name, arm.objective, arm.about) == ("foreign", "", "")


def test_a_sweep_without_steps_is_followed_along_the_swept_number(tmp_path):
    conditions = [f"beta={beta},bias={bias},seed={seed}" for beta in (0, 0.5, 2) for bias in "qk" for seed in (0, 1)]
    study = load([swept(tmp_path / "weights", conditions)])
    assert {(arm.name, arm.seeds, arm.along) for arm in study.arms} == {
        ("weights, bias=q", ("0", "1"), "beta"),
        ("weights, bias=k", ("0", "1"), "beta"),
    }
    assert sorted(study.rows["at"].unique()) == [0, 0.5, 2]


def test_conditions_that_are_no_sweep_are_arms(tmp_path):
    study = load([swept(tmp_path / "cone", ["corpus=news", "corpus=forum"])])
    assert {(arm.name, arm.along) for arm in study.arms} == {(f"cone, corpus={c}", "step") for c in ("news", "forum")}


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "name at least one run"),
        (["nothing"], "no run named"),
        (["fresh"], "fresh has no rows"),
        (["odd"], "Input should be an object"),
        (["newer"], "schema version 99"),
    ],
)
def test_refuses_what_cannot_be_reported_on(make, tmp_path, runs, message):
    write_run(tmp_path / "fresh", {"run": "fresh"})
    (make("odd") / "run.json").write_text("[1, 2]")
    part = make("newer") / "record" / "geometry-0000000008.parquet"
    table = pq.read_table(part)
    pq.write_table(table.replace_schema_metadata({"dynamics.schema": "99"}), part)
    forget_digests(tmp_path)
    with pytest.raises(InputError, match=message):
        load([tmp_path / run for run in runs])
