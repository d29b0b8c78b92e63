"""The section of untrained blocks, on a record from formulas."""

import numpy as np
import pytest

from dynamics import record
from dynamics.record import NAN, Row
from dynamics.report import page
from dynamics.report.sections import probe
from dynamics.report.sections.probe.designs import designs
from dynamics.report.study import load
from tests.report.conftest import write_run

BETAS = (0.0, 4.0, 16.0, 64.0)
WIDTH = 256


def cosine(beta, part, layer):
    narrower = {"input": 1, "attention": 8, "residual": 2, "mlp": 2}[part] * (1 + layer / 4)
    return narrower * beta**2 / (narrower * beta**2 + WIDTH)


def measured(run, seeds, layers, subject="", biases=("input", "query", "key"), **rest):
    noise = np.random.default_rng(0)
    rows = []

    def add(site, layer, metric, value, **keys):
        condition = record.condition(**keys, **rest)
        value += 1e-4 * noise.standard_normal()
        rows.append(Row(run, subject, condition, 0, site, layer, -1, metric, value, NAN, NAN, 64))

    for seed in range(seeds):
        for beta in BETAS:
            at = {"beta": f"{beta:g}", "seed": seed}
            for bias in biases:
                for layer in range(1, layers + 1 if bias == "input" else 2):
                    sharp = 0 if bias == "key" else beta / 64
                    for metric, value in (("entropy", 4 - 3 * sharp), ("max_probability", 0.1 + 0.8 * sharp)):
                        add("attention", layer, metric, value, bias=bias, **at)
            parts = [("input", 0)]
            parts += [(part, layer) for layer in range(1, layers + 1) for part in ("attention", "residual", "mlp")]
            for part, layer in parts if "input" in biases else ():
                where = {"bias": "input", "part": part, **at}
                add("residual", layer, "mean_cosine", cosine(beta, part, layer), **where)
                add("residual", layer, "mean_norm", np.sqrt(beta**2 + WIDTH), **where)
                add("residual", layer, "anisotropy", 0.1, **where)
    return rows


@pytest.fixture
def make(tmp_path):
    """Write a run of the probe with some designs: `make("p", {"subject": "gpt2"}, ...)`."""

    def write(name, *designs, seeds=3, layers=2, **options):
        facts = []
        for design in designs or ({},):
            subject, rest = design.get("subject", ""), {k: v for k, v in design.items() if k != "subject"}
            rows = measured(name, seeds, layers, subject, **rest, **options)
            record.Record(tmp_path / name).write(0, rows, part=str(design))
            condition = record.condition(**rest)
            label = f"blocks {subject}{condition}"
            size = {"tokens": 8, "width": WIDTH, "layers": layers}
            facts.append({"subject": subject, "condition": condition, "label": label, **size})
        settings = {"run": name, "kind": "probe", "status": "done", "batch": 4, "inputs": "normal", "seed": 0}
        write_run(tmp_path / name, {**settings, "designs": facts})
        return str(tmp_path / name)

    return write


def trace(figure, name):
    (line,) = [
        trace for trace in figure.data if (trace.hovertemplate or "").startswith(f"{name}<br>") and trace.xaxis == "x"
    ]
    return line


def test_lines_are_means_over_seeds_and_the_expectation_is_exact(make):
    study = load([make("p")])
    (design,) = designs(study)
    cone = next(figure.plot for figure in probe.figures(study, [design]) if figure.title.startswith("The cone"))
    for name, part, layer in (("input", "input", 0), ("attention alone", "attention", 1), ("block's output", "mlp", 1)):
        line = trace(cone, name)
        assert line.customdata[:, 0].tolist() == list(BETAS)
        np.testing.assert_allclose(line.y, [cosine(beta, part, layer) for beta in BETAS], atol=1e-3)
        assert line.x[0] == 2  # zero stands at half the smallest norm of a log axis
    dotted = next(trace for trace in cone.data if trace.line.dash == "dot")
    x = np.asarray(dotted.x)
    np.testing.assert_allclose(dotted.y, x**2 / (x**2 + WIDTH))


def test_readings_give_the_numbers(make):
    study = load([make("p")])
    (design,) = designs(study)
    text = probe.cone_reading(design)
    assert "β = 16" in text  # half of the input is bias at the root of the width
    for words in ("input 0.500", "attention alone 0.909", "output of block 2 0.750"):
        assert words in text
    text = probe.sharpness_reading(study, design)
    assert "4.00 → 1.00 with the bias on queries" in text
    assert "4.00 → 4.00 with the bias on keys" in text


def test_one_design_shows_every_figure_and_a_map_for_every_quantity(make):
    study = load([make("p")])
    figures = probe.figures(study, designs(study))
    assert [figure.title for figure in figures] == [
        "The cone: outputs against inputs",
        "Sharpness of attention",
        "The shape of the states",
        "Depth by bias",
    ]
    assert not any(figure.fold for figure in figures)
    maps = [trace for trace in figures[-1].plot.data if trace.type == "heatmap"]
    assert len(maps) == 5
    cosines = maps[0]
    assert cosines.y.tolist() == [0, 1, 2]
    expected = [[cosine(beta, "mlp" if layer else "input", layer) for beta in BETAS] for layer in range(3)]
    np.testing.assert_allclose(cosines.z, expected, atol=1e-3)


def test_several_designs_are_compared_and_the_rest_is_folded(make):
    study = load([make("p", {"norm": "pre"}, {"norm": "none"}), make("q", {"subject": "gpt2"})])
    members = designs(study)
    assert [design.short for design in members] == [
        "random blocks, norm=pre, p",
        "random blocks, norm=none, p",
        "gpt2, q",
    ]
    compared, *rest = probe.figures(study, members)
    assert (compared.title, compared.fold) == ("The designs compared", "")
    assert [figure.fold for figure in rest] == ["closed"] * 12
    assert {trace.name for trace in compared.plot.data if trace.showlegend} == {design.short for design in members}
    titles = [note.text for note in compared.plot.layout.annotations]
    gain = next(i for i, title in enumerate(titles) if "less the input" in title)
    axis = f"x{gain + 1}"
    lines = [trace for trace in compared.plot.data if trace.xaxis == axis and "markers" in trace.mode]
    expected = [cosine(beta, "mlp", 2) - cosine(beta, "input", 0) for beta in BETAS]
    for line in lines:
        np.testing.assert_allclose(line.y, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"biases": ("query", "key")}, 1),
        ({"biases": ("input",), "seeds": 1}, 4),
        ({"layers": 1}, 4),
    ],
)
def test_parts_that_were_not_measured_are_left_out(make, options, count):
    study = load([make("p", **options)])
    figures = probe.figures(study, designs(study))
    assert len(figures) == count
    for figure in figures:
        assert "nan" not in (figure.reading + figure.caption).lower()


def test_designs_without_a_common_figure_are_not_compared(make):
    study = load([make("p", {"norm": "pre"}, {"norm": "none"}, biases=("key",))])
    assert [figure.fold for figure in probe.figures(study, designs(study))] == ["closed", "closed"]


def test_training_runs_keep_their_page_beside_a_probe(make, twins, tmp_path):
    html = page.write([*twins[:1], make("p")], tmp_path / "page.html").read_text()
    assert "<h1>Geometry through training</h1>" in html
    assert 'id="probe"' in html
    assert 'id="geometry"' in html
    study = load([*twins[:1], make("q")])
    assert len(designs(study)) == 1
    assert not (study.rows["run"] == "q").any()
    assert [arm.runs for arm in study.arms] == [("decoder",)]


def test_a_page_of_the_probe_alone(make, tmp_path):
    html = page.write([make("p")], tmp_path / "page.html").read_text()
    assert "<h1>Untrained blocks</h1>" in html
    assert 'id="geometry"' not in html
    assert "blocks" in html.split("<title>")[1].split("</title>")[0]
    assert '<th scope="row">arm</th>' not in html  # a probe has none


def test_the_settings_of_a_probe_are_listed(make):
    study = load([make("p"), make("q")])
    table = probe.settings(study)
    assert table.columns == ("p", "q")
    rows = {row.label: row.cells for row in table.rows}
    assert rows["batch"] == ("4", "4")
    assert not any(label.startswith("designs") for label in rows)


def test_a_page_without_a_probe_has_no_section(twins, tmp_path):
    html = page.write(twins[:1], tmp_path / "page.html").read_text()
    assert 'id="probe"' not in html
