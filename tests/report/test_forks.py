"""Forks on the page: parents come with them, curves begin at the parent's values, a mark where they begin."""

import pytest

from dynamics import runs
from dynamics.files import digests, write_text
from dynamics.record import Record, Row
from dynamics.report import page, tables
from dynamics.report.forks import marked
from dynamics.report.sections import curves, glance, settings
from dynamics.report.study import load
from tests.report.conftest import write_run

AT = 4


def rows(run, steps, shift=0.0, begin=0):
    for step in steps:
        if step > begin:
            yield Row(run, "", "", step, "train", -1, -1, "loss", 3.0 - 0.1 * step + shift)
            yield Row(run, "", "", step, "cost", -1, -1, "step_seconds", 2.0)
        if step > begin or not begin:
            yield Row(run, "", "", step, "validation", -1, -1, "loss", 3.5 - 0.1 * step + shift)
        for layer in range(3):
            yield Row(run, "", "", step, "residual", layer, -1, "anisotropy", 0.1 * layer + 0.01 * step + shift)


def write(folder, steps, about, shift=0.0, begin=0):
    """Write a run: a part of geometry for each step, and the curves."""
    write_run(folder, {"run": folder.name, "kind": "fit", **about})
    out, content = Record(folder), list(rows(folder.name, steps, shift, begin))
    for step in steps:
        out.write(step, [row for row in content if (row.step, row.site) == (step, "residual")])
    out.add_curves(row for row in content if row.site != "residual")
    out.flush()


@pytest.fixture
def forked(workplace):
    """Make a parent and its fork, of given seeds; return their folders."""

    def make(seed=0, objective="mlm", changed=None):
        parent, fork = (runs.CHECKPOINTS / f"{name}-{seed}" for name in ("parent", "fork"))
        about = {"seed": seed, "status": "done", "objective": "mlm", "is_causal": True, "label": "causal, mlm"}
        write(parent, (0, 1, 2, 4, 6, 8), about)
        state = runs.state_path(parent, AT)
        write_text(state, f"state {seed}")
        (digest,) = digests(state.parent)[state.name]
        facts = {"parent": parent.name, "parent_state": digest, "step": AT, "changed": changed or {}}
        about |= {"objective": objective, "label": f"causal, {objective}, from step {AT}", "fork": facts}
        write(fork, (4, 6, 8), about, 0.5, AT)
        return parent, fork

    return make


def test_the_parent_comes_first_and_once(forked):
    parent, fork = forked()
    assert list(load([fork]).runs) == [parent.name, fork.name]
    assert list(load([parent, fork]).runs) == [parent.name, fork.name]
    assert list(load([fork, f"base={parent}"]).runs) == [fork.name, "base"]
    runs.state_path(parent, AT).unlink()  # pruned: its digest still tells that it was the parent's
    assert list(load([fork]).runs) == [parent.name, fork.name]
    (parent / "state" / ".digests").unlink()
    assert list(load([fork]).runs) == [fork.name]


def test_curves_begin_at_the_values_of_the_parent(forked):
    _, fork = forked()
    table = tables.curves(load([fork]).rows, "loss")
    own = table[table["arm"] == f"causal, mlm, from step {AT}"]
    for site, value in (("train", 2.6), ("validation", 3.1)):
        first = own[own["site"] == site].sort_values("at").iloc[0]
        assert (first["at"], first["value"]) == (pytest.approx(AT), pytest.approx(value))
    assert set(load([fork]).records[fork.name]["run"]) == {fork.name}


def test_curves_begin_at_the_values_of_a_parent_by_another_name(forked):
    parent, fork = forked()
    for names in ([f"base={parent}", fork], [f"then={fork}"]):
        study = load(names)
        own = tables.curves(study.rows, "loss").query("arm != @study.arms[0].name and site == 'train'")
        assert own.sort_values("at").iloc[0][["at", "value"]].tolist() == pytest.approx([AT, 2.6])


def test_another_run_with_the_name_of_the_parent_is_not_taken_for_it(forked, tmp_path):
    parent, fork = forked()
    other = tmp_path / "elsewhere" / parent.name
    write(other, (0, AT, 8), {"seed": 1, "objective": "mlm", "is_causal": True}, 9.0)
    rows_of_fork = load([other, fork]).records[fork.name]
    first = rows_of_fork[(rows_of_fork["step"] == AT) & (rows_of_fork["site"] == "train")]
    assert first["value"].tolist() == pytest.approx([2.6])


def test_those_of_another_objective_do_not(forked):
    _, fork = forked(objective="clm")
    rows_of_fork = load([fork]).records[fork.name]
    assert set(rows_of_fork.loc[rows_of_fork["step"] == AT, "site"]) == {"residual"}


def test_forks_of_seeds_are_one_arm(forked):
    forks = [forked(seed, changed={"model.learning_rate": [1e-3, 1e-2]})[1] for seed in range(3)]
    study = load(forks)
    assert [arm.seeds for arm in study.arms] == [("0", "1", "2"), ("0", "1", "2")]
    assert "Continues other runs from step 4; changed: model.learning_rate 0.001 to 0.01." in study.arms[1].about


def test_another_change_is_another_arm(forked):
    one = forked(0, changed={"model.learning_rate": [1e-3, 1e-2]})[1]
    other = forked(1, changed={"model.learning_rate": [1e-3, 1e-1]})[1]
    assert len(load([one, other]).arms) == 3


def test_every_panel_along_steps_is_marked(forked):
    study = load([forked()[1]])
    sections = [curves.section(study), glance.section(study)]
    for section in marked(sections, study.runs):
        for figure in section.blocks:
            axes = [axis for axis in figure.plot.select_xaxes() if axis.title.text == "step"]
            assert [(shape.x0, shape.x1) for shape in figure.plot.layout.shapes] == [(AT, AT)] * len(axes)
            assert figure.caption.endswith("a fork begins.") == bool(axes)
    assert "Dotted upright: a fork begins." in page.page(study)


def test_nothing_is_marked_without_a_fork(forked):
    parent, _ = forked()
    assert "a fork begins" not in page.page(load([parent]))


def test_the_cost_of_training_counts_from_where_the_fork_began(forked):
    study = load([forked()[1]])
    row = next(row for row in settings.cost(study).rows if row.label == "training, seconds")
    assert [float(cell) for cell in row.cells] == [16, 8]  # 8 and 4 steps of 2 s
