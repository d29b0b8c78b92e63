from dynamics.report.sections import settings
from dynamics.report.study import load
from tests.report.conftest import cells


def test_settings_that_differ_come_first_and_are_marked(twins):
    rows = settings.settings(load(twins))
    marks = [row.differs for row in rows]
    assert {row.label for row in rows if row.differs} == {"label", "objective", "is_causal"}
    assert marks == sorted(marks, reverse=True)
    assert cells(rows, "width") == ("64",) * 3


def test_what_differs_has_a_table_of_its_own(twins, make):
    study = load(twins)
    assert {row.label for row in settings.differences(study).rows} == {"label", "objective", "is_causal"}
    shared = next(table for table in settings.section(study).blocks if table.title == "Settings that all share")
    assert not any(row.differs for row in shared.rows)
    assert settings.differences(load([make("alone")])) is None


def test_settings_that_repeat_or_are_private_are_listed_once(make):
    run = make("d", model={"width": 64, "depth": 4, "_class_path": "x", "seed": 0})
    labels = [row.label for row in settings.settings(load([run]))]
    assert "model.depth" in labels
    assert not {"model.width", "model._class_path", "model.seed"} & set(labels)


def test_the_cost_of_measuring_is_a_share_of_the_run(twins):
    rows = settings.cost(load(twins)).rows
    assert cells(rows, "training, seconds")[0] == "22.0"
    assert cells(rows, "measuring, seconds (share of the run)")[0] == "4.00 (15%)"
    assert cells(rows, "of it: intrinsic dimension")[0] == "3.10 (78%)"


def test_history_has_a_column_for_each_run(twins):
    table = settings.history(load(twins))
    assert table.columns == ("decoder", "encoder", "masked")
    assert cells(table.rows, "status") == ("done",) * 3
