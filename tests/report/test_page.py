import base64
import csv
import gzip
import json
import re
import subprocess
import sys
from html import unescape
from itertools import product
from unittest.mock import Mock

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs_version

from dynamics import record
from dynamics.errors import InputError
from dynamics.record import NAN, Row
from dynamics.report import page
from dynamics.report.plot.style import DARK, INK
from dynamics.report.sections import SECTIONS
from dynamics.report.study import load
from tests.report.conftest import write_run


@pytest.fixture(scope="module")
def html(twins, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "report.html"
    assert page.write(twins, out) == out
    return out.read_text()


def states(run, metric="anisotropy"):
    steps = product((0, 8), (0, 1))
    return [Row(run, "", "", step, "residual", layer, -1, metric, 0.1 * layer) for step, layer in steps]


@pytest.fixture
def small(tmp_path):
    """Make a run of a few rows; without settings it has no `run.json`."""

    def make(name, rows=None, **settings):
        record.Record(tmp_path / name).write(0, rows or states(name))
        if settings:
            write_run(tmp_path / name, settings)
        return tmp_path / name

    return make


@pytest.fixture
def draw(tmp_path):
    """Write the page of some runs and return its text."""
    return lambda *runs: page.write(runs, tmp_path / "r.html").read_text()


def unpack(text):
    return gzip.decompress(base64.b64decode(text)).decode()


def figures(html):
    texts = re.findall(r'<div class="plot" [^>]*><script type="application/gzip">(.*?)</script>', html)
    return [json.loads(unpack(text), parse_constant=pytest.fail) for text in texts]


def data(html):
    texts = re.findall(r'as CSV">CSV</button><script type="application/gzip">(.*?)</script>', html)
    return [list(csv.DictReader(unpack(text).splitlines())) for text in texts]


def test_sections_apply_where_they_have_something_to_show(twins):
    applying = [module.__name__.rpartition(".")[2] for module in SECTIONS if module.applies(load(twins[:1]))]
    assert applying == ["glance", "curves", "geometry", "more", "settings"]


def test_the_page_needs_nothing_from_elsewhere(html):
    assert html.count("<script") == len(figures(html)) + len(data(html)) + 2
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|<link|@import|\ssrc=", html)


def test_plotly_and_the_template_are_there_once(html):
    (plotly,) = re.findall(r'id="plotly">(.*?)</script>', html)
    assert f"v{get_plotlyjs_version()}" in unpack(plotly)[:200], "update templates/plotly-cartesian.min.js.gz"
    assert all("template" not in figure["layout"] for figure in figures(html))


def test_the_page_is_small_and_its_figures_are_of_a_kind_that_the_bundle_draws(html):
    assert len(html) < 2e6
    assert {trace["type"] for figure in figures(html) for trace in figure["data"]} == {"scatter", "heatmap"}


def test_every_figure_has_its_rows_beside_it(html, twins):
    assert len(data(html)) == len(figures(html))
    (rows,) = [
        rows for title, rows in zip(re.findall(r"<figure>\s*<h3>(.*?)</h3>", html), data(html), strict=True)
        if title == "Anisotropy (residual stream)"
    ]  # fmt: skip
    study = load(twins)
    expected = study.rows[(study.rows["site"] == "residual") & (study.rows["metric"] == "anisotropy")]
    assert sorted(float(row["value"]) for row in rows) == pytest.approx(sorted(expected["value"]), rel=1e-4)
    assert {"arm", "at", "layer", "value", "low", "high"} <= set(rows[0])


def test_headings_differ(html):
    headings = re.findall(r"<h[123]>(.*?)</h[123]>", html)
    assert len(set(headings)) == len(headings)


def test_the_answer_comes_first_then_the_main_figure(html):
    places = [html.index(part) for part in ('class="findings"', "<h3>Through training</h3>", "<h3>In numbers</h3>")]
    assert places == sorted(places)
    assert html.index("<h3>What differs between the runs</h3>") < html.index("<h2>")


def test_every_colour_of_a_figure_has_one_that_stands_on_a_dark_page(html):
    known = {colour for colour, _ in DARK.items()}
    for figure in figures(html):
        for trace in figure["data"]:
            line = trace.get("line", {}).get("color", INK)
            assert line in known, line


def test_figures_are_sound_and_hold_no_more_than_five_digits(html):
    assert len([go.Figure(figure) for figure in figures(html)]) > 20
    assert not re.search(r"\d\.\d{12}", json.dumps(figures(html)))


def test_the_core_is_open_and_the_rest_waits(html):
    opened = re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)
    for title in ("Anisotropy (residual stream)", "Drift (keys)", "Query-key alignment (attention), head by head"):
        assert f"<h3>{title}</h3>" in opened
    for title in ("Effective rank (residual stream)", "Drift (keys), head by head"):
        assert f"<h3>{title}</h3>" not in opened
        assert f"<summary>{title}</summary>" in html


def test_every_figure_has_a_text_that_stands_for_it(html):
    texts = re.findall(r'role="img" aria-label="([^"]*)"', html)
    assert len(texts) == len(figures(html))
    assert all(len(text) > 15 for text in texts)
    assert any("highest at layer 2" in text for text in texts)


def test_masked_and_full_objectives_are_told_apart(html):
    titles = [note["text"] for figure in figures(html) for note in figure["layout"].get("annotations", ())]
    assert "<b>every character (clm)</b>" in titles
    assert "<b>masked characters only (mlm)</b>" in titles
    (bits,) = [figure for figure in figures(html) if "bits per" in str(figure["layout"].get("yaxis", {}).get("title"))]
    titles = {bits["layout"][axis]["title"]["text"] for axis in ("yaxis", "yaxis2")}
    assert titles == {"cross-entropy (bits per character)", "cross-entropy (bits per masked character)"}


def test_names_cannot_break_out_of_the_page(small, draw):
    evil = "</script><img src=x onerror=alert(1)>"
    html = draw(small("d", label=evil))
    assert "<img" not in html
    assert evil in unescape(html)
    names = [trace.get("name") for figure in figures(html) for trace in figure["data"]]
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in names


def test_a_foreign_record_with_unknown_names_is_drawn(small, draw):
    places = product((-2.0, 0.0, 3.0), (1, 2, 3))
    rows = [Row("x", "model", f"weight={w}", 0, "somewhere", layer, -1, "new_metric", w * layer) for w, layer in places]
    html = draw(small("x", rows))
    assert "<h3>New metric (somewhere), along weight</h3>" in html
    assert [figure for figure in figures(html) if figure["layout"]["xaxis"].get("type") != "log"]


def test_single_layers_single_steps_and_gaps_are_drawn(small, draw):
    rows = [Row("x", "", "", 0, "residual", layer, -1, "anisotropy", NAN if layer else 0.5) for layer in range(3)]
    html = draw(small("x", [*rows, Row("x", "", "", 0, "output", 2, -1, "anisotropy", 0.3)]))
    assert "<summary>Residual stream</summary>" in html
    assert "<summary>After the final norm</summary>" in html


def test_a_record_of_curves_alone_is_drawn(tmp_path, draw):
    out = record.Record(tmp_path / "x")
    out.add_curves([Row("x", "", "", step, "train", -1, -1, "loss", 3.0 / step) for step in (1, 2, 3)])
    out.flush()
    assert len(figures(draw(tmp_path / "x"))) == 1


@pytest.mark.parametrize(("out", "message"), [("missing/r.html", "does not exist"), (".", "is a folder")])
def test_refuses_a_place_that_cannot_hold_the_page(twins, tmp_path, out, message):
    with pytest.raises(InputError, match=message):
        page.write(twins, tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_leaves_the_older_page_as_it_was(tmp_path):
    out = tmp_path / "r.html"
    out.write_text("older")
    write_run(tmp_path / "fresh", {"run": "fresh"})
    with pytest.raises(InputError, match="no rows"):
        page.write([tmp_path / "fresh"], out)
    assert out.read_text() == "older"


def test_a_disk_that_fails_is_a_refusal_and_leaves_nothing(small, draw, tmp_path, monkeypatch):
    run = small("d")
    monkeypatch.setattr("dynamics.files.os.fsync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left"):
        draw(run)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_the_report_never_loads_torch(small, tmp_path):
    runs = [str(small(f"d{seed}", seed=seed)) for seed in (0, 1)]
    code = (
        "import sys; from dynamics.report import page;"
        f"page.write({runs}, {str(tmp_path / 'r.html')!r});"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'lightning', 'transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_many_arms_are_laid_over_one_another(small, draw):
    last = figures(draw(*(small(f"d{width}", label="arm", width=width) for width in range(7))))[-1]
    axes = [last["layout"][axis]["title"]["text"] for axis in ("xaxis", "xaxis2")]
    assert axes == ["step", "layer"]
    assert {trace["name"] for trace in last["data"] if trace.get("showlegend")} == {f"arm, width {w}" for w in range(7)}


@pytest.mark.parametrize(("count", "is_folded"), [(6, False), (7, True)])
def test_many_arms_are_listed_in_a_fold_so_that_the_answer_comes_first(small, draw, count, is_folded):
    html = draw(*(small(f"m{i}", states(f"m{i}")) for i in range(count)))
    assert (f"<details><summary>{count} arms and runs</summary>" in html) == is_folded


def test_a_metric_of_the_user_has_its_title_and_axis(small, draw):
    facts = {"title": "twist", "unit": "turns", "meaning": "How far states turn.", "source": "nobody", "range": [0, 1]}
    html = draw(small("d", states("d") + states("d", "my_twist"), descriptions={"my_twist": facts}))
    assert "<h3>Twist (residual stream)</h3>" in html
    assert "How far states turn." in html
    assert "twist (turns)" in [figure["layout"]["yaxis"].get("title", {}).get("text") for figure in figures(html)]
    assert '<th scope="row">descriptions' not in html
