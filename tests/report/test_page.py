import json
import re
import subprocess
import sys
from html import unescape

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from dynamics import record
from dynamics.errors import InputError
from dynamics.record import NAN, Row
from dynamics.report import page
from dynamics.report.sections import SECTIONS
from dynamics.report.study import load
from tests.report.conftest import write_run


@pytest.fixture(scope="module")
def html(twins, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "report.html"
    assert page.write(twins, out) == out
    return out.read_text()


@pytest.fixture
def small(tmp_path):
    """Make a run of a few rows."""

    def make(name, **settings):
        rows = [
            Row(name, "", "", step, "residual", layer, -1, "anisotropy", 0.1 * layer)
            for step in (0, 8)
            for layer in (0, 1)
        ]
        record.Record(tmp_path / name).write(0, rows)
        write_run(tmp_path / name, settings)
        return tmp_path / name

    return make


def figures(html):
    texts = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    return [json.loads(text, parse_constant=pytest.fail) for text in texts]


def test_sections_apply_where_they_have_something_to_show(twins):
    applying = [module.__name__.rpartition(".")[2] for module in SECTIONS if module.applies(load(twins[:1]))]
    assert applying == ["curves", "glance", "geometry", "more", "settings"]


def test_the_page_needs_nothing_from_elsewhere(html):
    own = html.replace(get_plotlyjs(), "")
    assert html.count("<script") == len(figures(html)) + 2 + get_plotlyjs().count("<script")
    assert "default-src 'none'" in own
    assert not re.search(r"https?://|<link|@import|\ssrc=", own)


def test_plotly_and_the_template_are_there_once(html):
    assert html.count(get_plotlyjs()[:200]) == 1
    assert all("template" not in figure["layout"] for figure in figures(html))


def test_figures_are_sound_and_hold_no_more_than_five_digits(html):
    drawn = figures(html)
    assert len(drawn) > 20
    for figure in drawn:
        go.Figure(figure)
    assert not re.search(r"\d\.\d{12}", json.dumps(drawn))


def test_the_core_is_open_and_the_rest_waits(html):
    opened = re.sub(r"<details>.*?</details>", "", html.replace(get_plotlyjs(), ""), flags=re.DOTALL)
    for title in (
        "Anisotropy (residual stream)",
        "Drift (keys)",
        "Query-key alignment (attention), head by head",
    ):
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


def test_names_cannot_break_out_of_the_page(small, tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    html = page.write([small("d", label=evil)], tmp_path / "r.html").read_text()
    assert "<img" not in html.replace(get_plotlyjs(), "")
    assert evil in unescape(html)
    names = [trace.get("name") for figure in figures(html) for trace in figure["data"]]
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in names


def test_a_foreign_record_with_unknown_names_is_drawn(tmp_path):
    rows = [
        Row("x", "model", f"weight={weight}", 0, "somewhere", layer, -1, "new_metric", weight * layer)
        for weight in (-2.0, 0.0, 3.0)
        for layer in (1, 2, 3)
    ]
    record.Record(tmp_path / "x").write(0, rows)
    html = page.write([tmp_path / "x"], tmp_path / "r.html").read_text()
    assert "<h3>New metric (somewhere), along weight</h3>" in html
    assert [figure for figure in figures(html) if figure["layout"]["xaxis"].get("type") != "log"]


def test_single_layers_single_steps_and_gaps_are_drawn(tmp_path):
    rows = [Row("x", "", "", 0, "residual", layer, -1, "anisotropy", NAN if layer else 0.5) for layer in range(3)]
    rows += [Row("x", "", "", 0, "output", 2, -1, "anisotropy", 0.3)]
    record.Record(tmp_path / "x").write(0, rows)
    html = page.write([tmp_path / "x"], tmp_path / "r.html").read_text()
    assert "<summary>Residual stream</summary>" in html
    assert "<summary>After the final norm</summary>" in html


def test_a_record_of_curves_alone_is_drawn(tmp_path):
    out = record.Record(tmp_path / "x")
    out.add_curves([Row("x", "", "", step, "train", -1, -1, "loss", 3.0 / step) for step in (1, 2, 3)])
    out.flush()
    html = page.write([tmp_path / "x"], tmp_path / "r.html").read_text()
    assert len(figures(html)) == 1


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


def test_a_disk_that_fails_is_a_refusal_and_leaves_nothing(small, tmp_path, monkeypatch):
    run = small("d")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dynamics.files.os.fsync", full)
    with pytest.raises(InputError, match="No space left"):
        page.write([run], tmp_path / "r.html")
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


def test_many_arms_are_laid_over_one_another(small, tmp_path):
    runs = [small(f"d{width}", label="arm", width=width) for width in range(7)]
    html = page.write(runs, tmp_path / "r.html").read_text()
    last = figures(html)[-1]
    axes = [last["layout"][axis]["title"]["text"] for axis in ("xaxis", "xaxis2")]
    assert axes == ["step", "layer"]
    assert {trace["name"] for trace in last["data"] if trace.get("showlegend")} == {f"arm, width {w}" for w in range(7)}


def test_a_metric_of_the_user_has_its_title_and_axis(small, tmp_path):
    facts = {"title": "twist", "unit": "turns", "meaning": "How far states turn.", "source": "nobody", "range": [0, 1]}
    run = small("d", descriptions={"my_twist": facts})
    rows = [Row("d", "", "", step, "residual", layer, -1, "my_twist", layer) for step in (0, 8) for layer in (0, 1)]
    record.Record(run).write(1, rows)
    html = page.write([run], tmp_path / "r.html").read_text()
    assert "<h3>Twist (residual stream)</h3>" in html
    assert "How far states turn." in html
    assert "twist (turns)" in [figure["layout"]["yaxis"].get("title", {}).get("text") for figure in figures(html)]
    assert '<th scope="row">descriptions' not in html
