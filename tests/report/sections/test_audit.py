"""The audit on a page: suspects are marked in figure and table, and apart from what is in order."""

import numpy as np
import pytest

from dynamics import record
from dynamics.experiments.audit import order
from dynamics.record import Row
from dynamics.report.names import AUDIT
from dynamics.report.sections import audit, scan
from dynamics.report.study import load
from dynamics.report.summary import notes
from dynamics.run_info import AuditInfo
from tests.report.conftest import write_run

STEPS = range(40)
SUSPECTS = {7: "equal to step21", 8: "equal to step22", 30: "from another run"}


@pytest.fixture(params=["audit", "scan"])
def study(request, tmp_path):
    out, verdicts = record.Record(tmp_path / "a"), {}
    for step in STEPS:
        name, strange = f"m@step{step}", step in SUSPECTS

        def row(metric, value, where="", reason="", name=name, step=step):
            return Row("a", name, where, step, "weight", -1, -1, metric, value, reason=reason)

        before = [row("weight_distance", 0.0 if step == 8 else 0.5 if strange else 0.01, "to=previous")] * (step > 0)
        rows = [*before, row("weight_distance", 0.5 - step / 100, "to=main"), row("detour", 50.0 if strange else 1.0)]
        rows += [row("weight_distance", 9.0, "stack=other,to=main"), row("suspect", float(strange), reason="no")]
        geometry = [Row("a", name, "", step, "residual", layer, -1, "anisotropy", 0.5, n=9) for layer in (0, 1)]
        out.write(step, [*rows, *geometry * (request.param == "scan")], part=name)
        reasons, equal = [SUSPECTS.get(step)] * strange, {"step21": "exact"} if step == 7 else {}
        verdicts[name] = {"model": "m", "revision": f"step{step}", "step": step, "sha256": f"{step:064d}"}
        verdicts[name] |= {"suspect": strange, "reasons": reasons, "notes": [], "equal": equal}
    subjects = {name: {"model": "m", "step": facts["step"], "series": "m"} for name, facts in verdicts.items()}
    facts = {"subjects": subjects} if request.param == "scan" else {}
    write_run(tmp_path / "a", {"run": "a", "kind": request.param, "status": "done", "audit": verdicts, **facts})
    return load([tmp_path / "a"])


def test_suspects_are_apart_in_the_figure(study):
    figure = next(block for block in audit.section(study).blocks if block.kind == "figure")
    traces = [trace for trace in figure.plot.data if trace.name]
    kinds = {kind: [trace for trace in traces if trace.name == kind] for kind in ("in order", "suspect")}
    assert [list(trace.x) for trace in kinds["suspect"]] == [[7, 8, 30]] * 3
    assert all(not set(trace.x) & set(SUSPECTS) for trace in kinds["in order"])
    assert list(kinds["suspect"][0].text) == ["7\N{EN DASH}8", "", "30"]
    beside = [trace for trace in traces if trace.name == "measured to a suspect"]
    assert [list(trace.x) for trace in beside] == [[9, 31], [6, 9, 29, 31]]
    first = kinds["suspect"][0]
    assert 0 < first.y[1] < min(first.y[0], kinds["in order"][0].y[0])  # equal weights lie below all others
    assert first.customdata[1][1] == 0
    assert len(set(kinds["in order"][0].y) | set(kinds["in order"][2].y)) == 2  # no value is made up


def test_the_table_shows_suspects_and_what_is_beside_them(study):
    table = next(block for block in audit.section(study).blocks if block.kind == "table")
    assert [row.label for row in table.rows if row.differs] == ["step7", "step8", "step30"]
    assert [row.label for row in table.rows] == [f"step{i}" for i in (0, 6, 7, 8, 9, 29, 30, 31, 39)]
    row = next(row for row in table.rows if row.label == "step7")
    assert row.cells[:3] == ("suspect: equal to step21", "step21", "0.500")
    assert table.rows[0].cells[0] == "in order"


def test_curves_of_a_scan_say_what_is_suspect_and_an_audit_has_no_curves(study):
    said = "Of m, step7, step8, step30 are suspect: see Audit."
    if study.of_kind(AuditInfo):
        assert study.arms == ()
        assert not scan.applies(study)
        return
    assert notes(study)[0] == said
    assert set(study.rows["metric"]) == {"anisotropy"}
    figure = scan.section(study).blocks[-1]
    assert said in figure.reading
    assert "Crosses: suspect." in figure.caption
    marks = [trace.marker.symbol for trace in figure.plot.data if isinstance(trace.marker.symbol, tuple)]
    assert [i for i, symbol in enumerate(marks[0]) if symbol == "x"] == [*SUSPECTS]


def test_the_page_and_the_audit_agree_on_names_and_limits():
    assert audit.DETOUR == order.DETOUR
    assert np.isin(["weight_distance", "detour", "suspect", "initial_std_ratio"], AUDIT).all()


def test_a_checkpoint_without_a_step_is_called_by_its_revision(study):
    study.verdicts["a"]["m@step39"]["step"] = None
    figure = next(block for block in audit.section(study).blocks if block.kind == "figure")
    assert figure.plot.layout.xaxis.ticktext[-1] == "step39"
