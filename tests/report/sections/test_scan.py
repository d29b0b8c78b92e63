"""Models of a scan on one page."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from dynamics import record
from dynamics.record import Row
from dynamics.report import page, summary
from dynamics.report.plot.style import looks
from dynamics.report.sections import scan, settings
from dynamics.report.study import load
from tests.report.conftest import write_run

MODELS = {
    "bert@main": {"modality": "text", "is_causal": False, "heads": [4] * 12, "layers": 12},
    "gpt2@main": {"modality": "text", "is_causal": True, "heads": [4] * 6, "layers": 6},
    "vit@main": {"modality": "images", "is_causal": False, "heads": [4] * 4, "layers": 4},
    "resnet@main": {"modality": "images", "is_causal": None, "heads": [0] * 4, "layers": 4},
    "pythia@step0": {"modality": "text", "is_causal": True, "heads": [2] * 3, "layers": 3},
    "pythia@step512": {"modality": "text", "is_causal": True, "heads": [2] * 3, "layers": 3, "step": 512},
}


def cosine(layer, step):
    return 0.1 + 0.02 * layer + step / 4096 + 0.03 * (layer == 2)


@pytest.fixture
def study(tmp_path):
    """A scan of models of different depths, one of them at two steps."""
    out = record.Record(tmp_path / "s")
    subjects = {}
    for subject, facts in MODELS.items():
        step = facts.get("step", 0)
        where = "synthetic=noise" if subject.startswith("resnet") else ""
        rows = [
            Row("s", subject, where, step, "residual", layer, -1, metric, value, value - 0.01, value + 0.01, 500)
            for layer in range(facts["layers"] + 1)
            for metric, value in (("mean_cosine", cosine(layer, step)), ("norm_of_mean", 1.0 + layer**2))
        ]
        rows.append(Row("s", subject, where, step, "output", facts["layers"], -1, "mean_cosine", 0.9, n=500))
        out.write(step, rows, part=f"{subject}|{where}")
        model, revision = subject.split("@")
        series = model if model == "pythia" else ""
        subjects[subject] = {"model": model, "revision": revision, "step": 0, "series": series, **facts}
    content = {"run": "s", "kind": "scan", "status": "done", "subjects": subjects}
    write_run(tmp_path / "s", content | {"settings": {"seed": 3, "lines": True, "tokens": None}})
    return load([tmp_path / "s"])


def test_depth_is_relative_and_models_stand_with_their_kind(study):
    table = scan.profiles(study)
    assert table.groupby("name")["depth"].agg(["min", "max"]).to_numpy().tolist() == [[0, 1]] * 5
    assert set(table["name"]) == set(study.arm_names)
    groups = table.drop_duplicates("key").set_index("name")["group"]
    assert groups["bert"] == "encoders (bidirectional)"
    assert groups["gpt2"] == "decoders (causal)"
    assert groups["vit"] == "vision transformers"
    assert groups["resnet, synthetic=noise"] == "convolutional (images)"
    assert (
        table.loc[table["name"] == "pythia", "last"].tolist()
        == (table.loc[table["name"] == "pythia", "step"] == 512).tolist()
    )
    assert not (table["value"] == 0.9).any()


def test_the_shape_of_learning_ends_after_the_norm(study):
    rows = record.with_conditions(study.records["s"].assign(condition="protocol=shape-of-learning"))
    shaped = study.rows.assign(condition="protocol=shape-of-learning")
    table = scan.profiles(replace(study, records={"s": rows}, rows=shaped))
    ends = table[(table["metric"] == "mean_cosine") & (table["depth"] == 1)]
    assert (ends["value"] == 0.9).all()


def test_correlations_are_those_of_scipy(study):
    table = scan.profiles(study)
    rows = scan.correlations(scan.layer_points(table[table["last"]])).set_index("name")
    x, y = [1.0 + i**2 for i in range(13)], [cosine(i, 0) for i in range(13)]
    assert rows.loc["bert", "spearman"] == pytest.approx(spearmanr(x, y)[0])
    assert rows.loc["bert", "pearson"] == pytest.approx(pearsonr(x, y)[0])
    assert rows.loc["bert", "layers"] == 13
    assert np.isnan(rows.loc["gpt2", "spearman"])  # smooth profiles over 7 layers agree whatever they are
    assert "all decoders (causal)" not in rows.index  # two models


def test_the_figures_show_every_model_and_the_steps(study):
    plots = {figure.title: figure.plot for figure in scan.section(study).blocks}
    assert list(plots) == ["Over relative depth", "Cone against drift", "Along training: pythia"]
    names = {trace.name for trace in plots["Over relative depth"].data if trace.showlegend}
    assert names == set(study.arm_names)
    for plot in (plots["Over relative depth"], plots["Cone against drift"]):  # one colour a model on the whole page
        colours = {trace.name: trace.line.color for trace in plot.data if trace.showlegend}
        assert colours.items() <= {name: look.colour for name, look in looks(study.arm_names).items()}.items()
    along = plots["Along training: pythia"]
    assert {trace.name for trace in along.data if trace.showlegend} == {"step 0", "step 512"}
    mean = next(trace for trace in along.data if trace.yaxis == "y3")
    expected = [np.mean([cosine(layer, step) for layer in (1, 2, 3)]) for step in (0, 512)]
    np.testing.assert_allclose(mean.y, expected)


def test_revisions_of_one_model_are_one_arm(study):
    arms = {arm.name for arm in study.arms}
    assert "pythia" in arms
    assert len(arms) == 5


def test_a_column_of_settings_is_about_its_own_model_alone(study):
    names = study.arm_names
    rows = {row.label: dict(zip(names, row.cells, strict=True)) for row in settings.settings(study)}
    assert {name: int(layers) for name, layers in rows["layers"].items()} == {
        "bert": 12,
        "gpt2": 6,
        "vit": 4,
        "resnet, synthetic=noise": 4,
        "pythia": 3,
    }
    assert set(rows["seed"].values()) == {"3"}
    assert set(rows["lines"].values()) == {"True"}
    assert not any("@" in label or "step" in label for label in rows)
    assert "tokens" not in rows  # nobody asked for a number of them


def test_what_was_measured_once_has_no_path_and_no_step(study):
    rows = study.rows[study.rows["arm"] != "pythia"].replace({"metric": {"mean_cosine": "intrinsic_dimension"}})
    arms = tuple(arm for arm in study.arms if arm.name != "pythia")
    labels = {row.label for row in summary.key_numbers(replace(study, rows=rows, arms=arms))}
    assert "Intrinsic dimension (residual stream)" in labels
    assert not any("highest value" in label or label in ("seeds", "last step") for label in labels)
    rows = {row.label: row.cells for row in summary.key_numbers(study)}
    assert rows["last step"] == tuple("512" if arm.name == "pythia" else summary.DASH for arm in study.arms)


def test_norms_that_span_decades_have_round_ticks(study):
    figure = next(figure.plot for figure in scan.section(study).blocks if figure.title == "Cone against drift")
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.ticktext) == ["1", "10", "100"]


def test_the_page_of_a_scan(study, tmp_path):
    html = page.write([tmp_path / "s"], tmp_path / "report.html").read_text()
    assert "<h1>Geometry of models</h1>" in html
    assert "<h3>Cone against drift</h3>" in html
    assert "min-width: 0px" not in html


def test_runs_of_training_have_no_section_of_models(twins):
    assert not scan.applies(load(twins))
    assert scan.section(load(twins)) is None
