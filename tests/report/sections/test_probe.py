"""The section of untrained blocks, on a record from formulas."""

import numpy as np
import pytest

from dynamics import record
from dynamics.record import NAN, Row
from dynamics.report import origin, page
from dynamics.report.sections import probe, probe_designs
from dynamics.report.study import load
from dynamics.runs import write_run

BETAS = (0.0, 4.0, 16.0, 64.0)
WIDTH = 256


def cosine(beta, part, layer):
    narrower = {"input": 1, "attention": 8, "residual": 2, "mlp": 2}[part] * (1 + layer / 4)
    return narrower * beta**2 / (narrower * beta**2 + WIDTH)


def rows(run, seeds, layers, subject="", biases=("input", "query", "key"), **rest):
    noise = np.random.default_rng(0)
    made = []

    def add(site, layer, metric, value, **keys):
        told = record.condition(**keys, **rest)
        value += 1e-4 * noise.standard_normal()
        made.append(Row(run, subject, told, 0, site, layer, -1, metric, value, NAN, NAN, 64))

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
                mine = {"bias": "input", "part": part, **at}
                add("residual", layer, "mean_cosine", cosine(beta, part, layer), **mine)
                add("residual", layer, "mean_norm", np.sqrt(beta**2 + WIDTH), **mine)
                add("residual", layer, "anisotropy", 0.1, **mine)
    return made


@pytest.fixture
def make(tmp_path):
    """Write a run of the probe with some designs: `make("p", {"subject": "gpt2"}, ...)`."""

    def write(name, *designs, seeds=3, layers=2, **options):
        told = []
        for design in designs or ({},):
            subject, rest = design.get("subject", ""), {k: v for k, v in design.items() if k != "subject"}
            mine = rows(name, seeds, layers, subject, **rest, **options)
            record.Record(tmp_path / name).write(0, mine, part=str(design))
            condition = record.condition(**rest)
            label = f"blocks {subject}{condition}"
            size = {"tokens": 8, "width": WIDTH, "layers": layers}
            told.append({"subject": subject, "condition": condition, "label": label, **size})
        settings = {"run": name, "kind": "probe", "status": "done", "batch": 4, "inputs": "normal", "seed": 0}
        write_run(tmp_path / name, {**settings, "designs": told})
        return str(tmp_path / name)

    return write


def trace(figure, name):
    (found,) = [one for one in figure.data if (one.hovertemplate or "").startswith(f"{name}<br>") and one.xaxis == "x"]
    return found


def test_lines_are_means_over_seeds_and_the_expectation_is_exact(make):
    _, (design,) = probe_designs.split(load([make("p")]))
    cone = next(one for one in probe.drawn([design]) if one.title.startswith("The cone"))
    for name, part, layer in (
        ("input", "input", 0),
        ("attention alone", "attention", 1),
        ("block's output", "mlp", 1),
    ):
        drawn = trace(cone.figure, name)
        assert drawn.customdata[:, 0].tolist() == list(BETAS)
        np.testing.assert_allclose(drawn.y, [cosine(beta, part, layer) for beta in BETAS], atol=1e-3)
        assert drawn.x[0] == 2  # zero stands at half the smallest norm of a log axis
    dotted = next(one for one in cone.figure.data if one.line.dash == "dot")
    x = np.asarray(dotted.x)
    np.testing.assert_allclose(dotted.y, x**2 / (x**2 + WIDTH))


def test_readings_tell_the_numbers(make):
    _, (design,) = probe_designs.split(load([make("p")]))
    told = probe_designs.cone_reading(design)
    assert "β = 16" in told  # half of the input is bias at the root of the width
    for words in ("input 0.500", "attention alone 0.909", "output of block 2 0.750"):
        assert words in told
    told = probe_designs.sharpness_reading(design)
    assert "4.00 → 1.00 with the bias on queries" in told
    assert "4.00 → 4.00 with the bias on keys" in told


def test_one_design_shows_every_figure_and_a_map_for_every_quantity(make):
    _, designs = probe_designs.split(load([make("p")]))
    drawn = probe.drawn(designs)
    assert [one.title for one in drawn] == [
        "The cone: outputs against inputs",
        "Sharpness of attention",
        "The shape of the states",
        "Depth by bias",
    ]
    assert not any(one.folded for one in drawn)
    maps = [one for one in drawn[-1].figure.data if one.type == "heatmap"]
    assert len(maps) == 5
    cosines = maps[0]
    assert cosines.y.tolist() == [0, 1, 2]
    expected = [[cosine(beta, "mlp" if layer else "input", layer) for beta in BETAS] for layer in range(3)]
    np.testing.assert_allclose(cosines.customdata, expected, atol=1e-3)


def test_several_designs_are_compared_and_the_rest_is_folded(make):
    _, designs = probe_designs.split(
        load([make("p", {"norm": "pre"}, {"norm": "none"}), make("q", {"subject": "gpt2"})])
    )
    assert [design.short for design in designs] == [
        "random blocks, norm=pre, p",
        "random blocks, norm=none, p",
        "gpt2, q",
    ]
    drawn = probe.drawn(designs)
    assert drawn[0].title == "The designs compared"
    assert [one.folded for one in drawn] == [False] + [True] * 12
    assert {one.name for one in drawn[0].figure.data if one.showlegend} == {design.short for design in designs}
    titles = [note.text for note in drawn[0].figure.layout.annotations]
    gain = next(i for i, title in enumerate(titles) if "less the input" in title)
    axis = f"x{gain + 1}"
    lines = [one for one in drawn[0].figure.data if one.xaxis == axis and "markers" in one.mode]
    expected = [cosine(beta, "mlp", 2) - cosine(beta, "input", 0) for beta in BETAS]
    for line in lines:
        np.testing.assert_allclose(line.y, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "figures"),
    [
        ({"biases": ("query", "key")}, 1),
        ({"biases": ("input",), "seeds": 1}, 4),
        ({"layers": 1}, 4),
    ],
)
def test_parts_that_were_not_measured_are_left_out(make, options, figures):
    _, designs = probe_designs.split(load([make("p", **options)]))
    drawn = probe.drawn(designs)
    assert len(drawn) == figures
    for one in drawn:
        assert "nan" not in (one.reading + one.caption).lower()


def test_designs_without_a_common_figure_are_not_compared(make):
    _, designs = probe_designs.split(load([make("p", {"norm": "pre"}, {"norm": "none"}, biases=("key",))]))
    assert [one.folded for one in probe.drawn(designs)] == [True, True]


def test_training_runs_keep_their_page_beside_a_probe(make, twins, tmp_path):
    html = page.write([*twins[:1], make("p")], tmp_path / "page.html").read_text()
    assert "<h1>Geometry through training</h1>" in html
    assert 'id="probe"' in html
    assert 'id="geometry"' in html
    study, designs = probe_designs.split(load([*twins[:1], make("q")]))
    assert len(designs) == 1
    assert not (study.rows["run"] == "q").any()
    assert [arm.runs for arm in study.arms] == [("decoder",)]


def test_a_page_of_the_probe_alone(make, tmp_path):
    html = page.write([make("p")], tmp_path / "page.html").read_text()
    assert "<h1>Untrained blocks</h1>" in html
    assert 'id="geometry"' not in html
    assert "blocks" in html.split("<title>")[1].split("</title>")[0]
    assert '<th scope="row">arm</th>' not in html  # a probe has none


def test_the_settings_of_a_probe_are_told(make):
    study = load([make("p"), make("q")])
    table = origin.probed(study.runs)
    assert table.columns == ("p", "q")
    told = {line.label: line.cells for line in table.lines}
    assert told["batch"] == (str(study.runs["p"]["batch"]),) * 2
    assert not any(label.startswith("designs") for label in told)


def test_a_page_without_a_probe_has_no_section(twins, tmp_path):
    html = page.write(twins[:1], tmp_path / "page.html").read_text()
    assert 'id="probe"' not in html
