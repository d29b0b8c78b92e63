"""The cone on the page."""

from dataclasses import replace

import numpy as np
import pytest

from dynamics import record
from dynamics.record import NAN, Row, condition
from dynamics.report import page
from dynamics.report.sections import cone, cone_runs
from dynamics.report.study import load
from dynamics.runs import write_run

LAYERS = 4
CORPORA = ("sentences", "news")
CARD = {
    "most": [["<script>alert(1)</script> & more", 2.5]],
    "least": [["Nothing of note.", -2.25]],
    "most_tokens": [["<b>", 3.0]],
    "least_tokens": [["##ing", -3.0]],
}


def told(model, step=0, series="", revision="local", mode="mean"):
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
    "enc@local": told("enc", mode="cls"),
    "dec@local": told("dec"),
    "run@step0": told("run", 0, "run", "step0"),
    "run@step8": told("run", 8, "run", "step8"),
}


def rows_of(subject, mine):
    step, own = mine["step"], mine["setup"]["mode"]

    def row(site, layer, metric, value, **where):
        return Row(
            "c",
            subject,
            condition(**where),
            step,
            site,
            layer,
            -1,
            metric,
            value,
            value - 0.01,
            value + 0.02,
            300,
        )

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
        if mine["series"]:
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
        yield Row(
            "c",
            subject,
            condition(against="enc@local", **end),
            0,
            "sentence",
            LAYERS,
            -1,
            "linear_cka",
            0.5,
            NAN,
            NAN,
            300,
        )


@pytest.fixture
def run(tmp_path):
    out = record.Record(tmp_path / "c")
    for subject, mine in SUBJECTS.items():
        out.write(mine["step"], list(rows_of(subject, mine)), part=subject)
    corpora = {name: {"source": f"{name}.txt", "sentences": 300} for name in CORPORA}
    settings = {"run": "c", "kind": "cone", "status": "done", "corpora": corpora, "subjects": SUBJECTS}
    write_run(tmp_path / "c", settings)
    return tmp_path / "c"


@pytest.fixture
def found(run):
    rest, (found,) = cone_runs.split(load([run]))
    assert rest.rows.empty
    assert not rest.arms
    return found


def test_of_a_series_the_last_step_stands_for_it(found):
    assert [model.name for model in found.shown] == ["enc", "dec", "run@step8"]
    assert found.corpora == ["sentences", "news"]


def test_the_own_pooling_is_bold_and_the_output_follows_the_last_layer(found):
    figure = cone.drawn(found)[0].figure
    lines = [trace for trace in figure.data if trace.xaxis in ("x", "x2") and trace.y is not None and trace.line.width]
    widest = {trace.xaxis: trace.line.color for trace in lines if trace.line.width == 2.8}
    assert widest["x"] != widest["x2"]
    assert {trace.xaxis: max(trace.x) for trace in lines if trace.x[0] is not None} == {
        "x": LAYERS,
        "x2": LAYERS + 1,
    }
    assert figure.layout.xaxis2.ticktext[-1] == "out"
    assert "out" not in figure.layout.xaxis.ticktext


def test_a_guess_and_dense_layers_are_told(found):
    enc, dec, _ = (model.told["setup"] for model in found.shown)
    dec |= {"guessed": "there is no modules.json"}
    enc |= {"dense": ["8 to 6, Tanh", "6 to 4, Identity"]}
    lines = {line.label: line.cells for line in cone_runs.settings(found).lines}
    assert lines["pooling"] == ("cls", "mean, guessed", "mean")
    assert lines["dense layers"] == ("8 to 6, Tanh; 6 to 4, Identity", "–", "–")


def test_the_gap_is_told_in_numbers(found):
    reading = cone.drawn(found)[0].reading
    assert "enc: middle layer (2) 0.220 against 0.100, gap 0.120 [0.110, 0.140]; last (4)" in reading
    assert "dec: middle layer (2) 0.220 against 0.100, gap 0.120 [0.110, 0.140]; output" in reading


def test_figures_in_the_order_of_the_experiments(found):
    titles = [one.title for one in [*cone.drawn(found), *cone.compared(found)]]
    assert titles == [
        "Sentences against tokens",
        "Corpus by corpus",
        "Axes against axes",
        "The axis turning: run",
        "Similarity, layer by layer",
        "What centring buys: enc",
        "What centring buys: dec",
        "What centring buys: run@step8",
    ]


def test_matrices_have_the_stability_on_their_diagonal(found):
    drawn = next(one for one in cone.compared(found) if one.title == "Axes against axes")
    maps = [trace for trace in drawn.figure.data if trace.type == "heatmap"]
    by_model, cka, *by_corpus = (np.array(trace.z, dtype=float) for trace in maps)
    np.testing.assert_allclose(np.diag(by_model), 0.3)
    assert by_model[0, 1] == by_model[1, 0] == 0.75
    assert np.isnan(by_model[0, 2])
    np.testing.assert_allclose(np.diag(cka), 1)
    assert len(by_corpus) == 3
    np.testing.assert_allclose(by_corpus[0], [[0.3, 0.125], [0.125, 0.3]])
    texts = [trace for trace in drawn.figure.data if trace.type == "scatter"]
    assert set(texts[2].text) == {"0.300", "0.125"}
    assert len(texts[0].text) == 5
    assert "dec and enc 0.750 [0.740, 0.770]" in drawn.reading
    assert "CKA" in drawn.caption


def test_long_names_are_tilted_and_short_ones_are_not(found):
    figure = next(one for one in cone.compared(found) if one.title == "Axes against axes").figure
    angles = [figure.layout[f"xaxis{i}"].tickangle for i in ("", "2", "3")]
    assert angles == [0, 0, 0]
    long = tuple(replace(model, name=f"{model.name}-of-a-long-name") for model in found.models)
    figure = next(one for one in cone.compared(replace(found, models=long)) if one.title == "Axes against axes").figure
    angles = [figure.layout[f"xaxis{i}"].tickangle for i in ("", "2", "3")]
    assert angles == [40, 40, 0]


def test_the_axis_along_the_steps(found):
    figure = next(one for one in cone.compared(found) if one.title == "The axis turning: run").figure
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    np.testing.assert_allclose([trace.z[0] for trace in maps], [[1, 0.25], [0.25, 1]])
    lines = {trace.xaxis: list(trace.y) for trace in figure.data if trace.hovertemplate and trace.type == "scatter"}
    assert lines["x"] == [0.1, 0.1]
    assert lines["x2"] == [0.25, 1]
    assert figure.layout.yaxis3.ticktext == ("0", "1", "2", "3", "4", "out")


def test_fits_from_elsewhere_are_open_marks(found):
    figure = next(one for one in cone.compared(found) if one.title.endswith("dec")).figure
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


def test_a_run_of_one_model_and_corpus_has_no_comparison(found):
    alone = {name: one for name, one in found.told.items() if name != "corpora"} | {"corpora": {"sentences": {}}}
    single = cone_runs.Cone("c", alone, found.models[:1], found.rows[found.rows["metric"] != "spearman"])
    titles = [one.title for one in [*cone.drawn(single), *cone.compared(single)]]
    assert titles == ["Sentences against tokens", "Similarity, layer by layer", "What centring buys: enc"]
