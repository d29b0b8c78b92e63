"""The cone on the page."""

from dataclasses import replace

import numpy as np
import pytest

from dynamics import record
from dynamics.record import NAN, Row, condition
from dynamics.report import page
from dynamics.report.blocks import Figure
from dynamics.report.sections import cone
from dynamics.report.sections.cone.axes import matrices
from dynamics.report.sections.cone.runs import ConeRun, cone_runs, settings
from dynamics.report.sections.cone.sentences import sentences_and_tokens
from dynamics.report.study import load
from tests.report.conftest import write_run

LAYERS = 4
CORPORA = ("sentences", "news")
CARD = {
    "most": [["<script>alert(1)</script> & more", 2.5]],
    "least": [["Nothing of note.", -2.25]],
    "most_tokens": [["<b>", 3.0]],
    "least_tokens": [["##ing", -3.0]],
}


def facts_of(model, step=0, series="", revision="local", mode="mean"):
    return {
        "model": model,
        "revision": revision,
        "step": step,
        "series": series,
        "layers": LAYERS,
        "width": 8,
        "setup": {"mode": mode, "normalize": False, "source": "default"},
        "input": {"sentences": {"sentences": 300, "tokens": 4000, "truncated": 0}},
        "cards": dict.fromkeys(CORPORA, CARD),
    }


SUBJECTS = {
    "enc@local": facts_of("enc", mode="cls"),
    "dec@local": facts_of("dec"),
    "run@step0": facts_of("run", 0, "run", "step0"),
    "run@step8": facts_of("run", 8, "run", "step8"),
}


def rows_of(subject, facts):
    step, own = facts["step"], facts["setup"]["mode"]

    def row(site, layer, metric, value, **where):
        interval = (value - 0.01, value + 0.02)
        return Row("c", subject, condition(**where), step, site, layer, -1, metric, value, *interval, 300)

    for depth in range(LAYERS + 2):
        layer, where = min(depth, LAYERS), {"state": "output"} if depth > LAYERS else {}
        if where and subject == "enc@local":
            continue
        yield row("token", layer, "mean_cosine", 0.1, **where)
        for mode in ("mean", "cls", "last", "max"):
            pooling = {} if mode == own else {"pooling": mode}
            yield row("sentence", layer, "mean_cosine", 0.2 + 0.01 * depth, **where, **pooling)
        yield row("sentence", layer, "cone_gap", 0.1 + 0.01 * depth, **where)
        yield row("sentence", layer, "mean_cosine", 0.5, corpus="news", **where)
        yield row("sentence", layer, "cone_gap", 0.4, corpus="news", **where)
        yield row("sentence", layer, "similarity_preservation", depth / (LAYERS + 1), **where)
        yield row("sentence", layer, "spearman", 40.0 + depth, **where)
        if facts["series"]:
            for end, at in (("first", 0), ("last", 8)):
                yield row("sentence", layer, f"axis_cosine_{end}", 1.0 if step == at else 0.25, **where)
    end = {} if subject == "enc@local" else {"state": "output"}
    for corpus in ({}, {"corpus": "news"}):
        for metric in ("axis_share", "axis_stability", "axis_to_mean", "axis_to_uncentered"):
            yield row("sentence", LAYERS, metric, 0.3, **end, **corpus)
    yield row("sentence", LAYERS, "axis_cosine", 0.125, corpus="news", against_corpus="sentences", **end)
    for transform in ("centred", "all-but-the-top", "whitened"):
        for fitted in ("own", "corpus:news", "model:enc@local"):
            where = {"transform": transform, "fitted": fitted, **end}
            yield row("sentence", LAYERS, "mean_cosine", 0.0, **where)
            yield row("sentence", LAYERS, "spearman", 44.0, **where)
            yield row("sentence", LAYERS, "spearman_change", -1.0, **where)
    if subject == "dec@local":
        yield row("sentence", LAYERS, "axis_cosine", 0.75, against="enc@local", **end)
        where = condition(against="enc@local", **end)
        yield Row("c", subject, where, 0, "sentence", LAYERS, -1, "linear_cka", 0.5, NAN, NAN, 300)


@pytest.fixture
def run(tmp_path):
    out = record.Record(tmp_path / "c")
    for subject, facts in SUBJECTS.items():
        out.write(facts["step"], list(rows_of(subject, facts)), part=subject)
    corpora = {name: {"source": f"{name}.txt", "sentences": 300} for name in CORPORA}
    content = {"run": "c", "kind": "cone", "status": "done", "corpora": corpora, "subjects": SUBJECTS}
    write_run(tmp_path / "c", content)
    return tmp_path / "c"


@pytest.fixture
def measured(run):
    study = load([run])
    assert study.rows.empty
    assert not study.arms
    (measured,) = cone_runs(study)
    return measured


def figures(run):
    """Return the figures of a run, by title."""
    return {block.title: block for block in cone.blocks(run) if isinstance(block, Figure)}


def test_of_a_series_the_last_step_stands_for_it(measured):
    assert [model.name for model in measured.displayed] == ["enc", "dec", "run@step8"]
    assert measured.corpora == ["sentences", "news"]


def test_the_own_pooling_is_bold_and_the_output_follows_the_last_layer(measured):
    figure = sentences_and_tokens(measured).plot
    lines = [trace for trace in figure.data if trace.xaxis in ("x", "x2") and trace.y is not None and trace.line.width]
    widest = {trace.xaxis: trace.line.color for trace in lines if trace.line.width == 2.8}
    assert widest["x"] != widest["x2"]
    assert {trace.xaxis: max(trace.x) for trace in lines if trace.x[0] is not None} == {
        "x": LAYERS,
        "x2": LAYERS + 1,
    }
    assert figure.layout.xaxis2.ticktext[-1] == "out"
    assert "out" not in figure.layout.xaxis.ticktext


def test_a_guess_and_dense_layers_are_listed(measured):
    enc, dec, _ = (model.facts["setup"] for model in measured.displayed)
    dec |= {"guessed": "there is no modules.json"}
    enc |= {"dense": ["8 to 6, Tanh", "6 to 4, Identity"]}
    rows = {row.label: row.cells for row in settings(measured).rows}
    assert rows["pooling"] == ("cls", "mean, guessed", "mean")
    assert rows["dense layers"] == ("8 to 6, Tanh; 6 to 4, Identity", "–", "–")


def test_the_gap_is_read_out_in_numbers(measured):
    reading = sentences_and_tokens(measured).reading
    assert "enc: middle layer (2) 0.220 against 0.100, gap 0.120 [0.110, 0.140]; last (4)" in reading
    assert "dec: middle layer (2) 0.220 against 0.100, gap 0.120 [0.110, 0.140]; output" in reading


def test_figures_in_the_order_of_the_experiments(measured):
    assert list(figures(measured)) == [
        "Sentences against tokens",
        "Corpus by corpus",
        "Axes against axes",
        "The axis turning: run",
        "Similarity, layer by layer",
        "What centring changes: enc",
        "What centring changes: dec",
        "What centring changes: run@step8",
    ]


def test_matrices_have_the_stability_on_their_diagonal(measured):
    figure = matrices(measured)
    maps = [trace for trace in figure.plot.data if trace.type == "heatmap"]
    by_model, cka, *by_corpus = (np.array(trace.z, dtype=float) for trace in maps)
    np.testing.assert_allclose(np.diag(by_model), 0.3)
    assert by_model[0, 1] == by_model[1, 0] == 0.75
    assert np.isnan(by_model[0, 2])
    np.testing.assert_allclose(np.diag(cka), 1)
    assert len(by_corpus) == 3
    np.testing.assert_allclose(by_corpus[0], [[0.3, 0.125], [0.125, 0.3]])
    texts = [trace for trace in figure.plot.data if trace.type == "scatter"]
    assert set(texts[2].text) == {"0.300", "0.125"}
    assert len(texts[0].text) == 5
    assert "dec and enc 0.750 [0.740, 0.770]" in figure.reading
    assert "CKA" in figure.caption


def test_long_names_are_tilted_and_short_ones_are_not(measured):
    figure = matrices(measured).plot
    angles = [figure.layout[f"xaxis{i}"].tickangle for i in ("", "2", "3")]
    assert angles == [0, 0, 0]
    long = tuple(replace(model, name=f"{model.name}-of-a-long-name") for model in measured.models)
    figure = matrices(replace(measured, models=long)).plot
    angles = [figure.layout[f"xaxis{i}"].tickangle for i in ("", "2", "3")]
    assert angles == [40, 40, 0]


def test_the_axis_along_the_steps(measured):
    figure = figures(measured)["The axis turning: run"].plot
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    np.testing.assert_allclose([trace.z[0] for trace in maps], [[1, 0.25], [0.25, 1]])
    lines = {trace.xaxis: list(trace.y) for trace in figure.data if trace.hovertemplate and trace.type == "scatter"}
    assert lines["x"] == [0.1, 0.1]
    assert lines["x2"] == [0.25, 1]
    assert figure.layout.yaxis3.ticktext == ("0", "1", "2", "3", "4", "out")


def test_fits_from_elsewhere_are_open_marks(measured):
    figure = figures(measured)["What centring changes: dec"].plot
    marks = {(trace.y[0], trace.xaxis): trace for trace in figure.data if trace.mode == "markers"}
    assert set(figure.layout.yaxis.categoryarray) == {name for name, _ in marks}
    assert "centred, from enc" in {name for name, _ in marks}
    assert marks["centred, from enc", "x2"].marker.symbol.endswith("-open")
    assert not marks["centred", "x2"].marker.symbol.endswith("-open")
    assert marks["as they are", "x2"].x[0] == 40 + LAYERS + 1


def test_cards_are_escaped(run, tmp_path):
    html = page.write([run], tmp_path / "report.html").read_text()
    assert "<h1>Inside the cone</h1>" in html
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert html.count('<article class="card">') == 3 * len(CORPORA)
    assert "&lt;b&gt;" in html


def test_two_runs_and_a_training_share_a_page(run, twins, tmp_path):
    html = page.write([run, *twins], tmp_path / "report.html").read_text()
    assert "The cone of sentence vectors" in html
    assert "<h1>Geometry through training</h1>" in html


def test_a_run_of_one_model_and_corpus_has_no_comparison(measured):
    info = replace(measured.info, corpora={"sentences": {}})
    single = ConeRun("c", info, measured.models[:1], measured.rows[measured.rows["metric"] != "spearman"])
    assert list(figures(single)) == [
        "Sentences against tokens",
        "Similarity, layer by layer",
        "What centring changes: enc",
    ]
