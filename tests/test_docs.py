"""The pages tell the truth: what they show runs, what they link to exists, what is generated is up to date."""

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch
import yaml

from dynamics import config, metrics
from dynamics.cli import main as cli
from dynamics.measure.suite import Suite
from dynamics.models.transformer import CharTransformer, CharTransformerConfig
from dynamics.training.lightning_cli import RunCLI
from tests.report.conftest import make_run
from tests.runs import TINY, arguments

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
WATCHING = (DOCS / "watching.md").read_text()
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        import make_metrics

        return make_metrics


@pytest.fixture(scope="module")
def page() -> str:
    return (DOCS / "metrics.md").read_text()


# The page of the metrics


def test_the_page_is_what_the_docstrings_say(generator, page):
    assert page == generator.page(), "docs/metrics.md is stale: run `python docs/make_metrics.py`"


def test_every_metric_and_variant_is_on_the_page(generator, page):
    for name in metrics.names():
        assert f"\n### {name}\n" in page
    for name in {name for chosen in metrics.default().values() for name in chosen}:
        assert f"`{name}`" in page
    from dynamics.metrics.intrinsic_dimension import ESTIMATORS

    known = metrics.variants("intrinsic_dimension")
    assert set(known) >= {"intrinsic_dimension_lowest_20", *(f"intrinsic_dimension_{s}" for s in ESTIMATORS)}
    assert all(f"`{name}`" in page for name in known)


def test_every_picture_is_on_the_page_and_belongs_to_a_metric(generator, page):
    shown = set(re.findall(r"\]\(pictures/(\w+)\.svg\)", page))
    assert shown == set(generator.PICTURES)
    assert shown <= set(metrics.names())
    assert {path.stem for path in (DOCS / "pictures").glob("*.svg")} == shown


def test_every_screenshot_is_on_a_page_and_small():
    shown = {name for path in PAGES for name in re.findall(r"\]\((?:docs/)?pictures/([\w-]+\.png)\)", path.read_text())}
    there = {path.name: path.stat().st_size for path in (DOCS / "pictures").glob("*.png")}
    assert set(there) == shown
    assert {name for name, size in there.items() if size > 200_000} == set()


@pytest.mark.parametrize("path", sorted((DOCS / "pictures").glob("*.svg")), ids=lambda p: p.stem)
def test_pictures_name_their_axes_and_their_size(path):
    root = ElementTree.parse(path).getroot()
    assert (root.get("width"), root.get("height")) == ("270pt", "180pt")
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(path.stem in text for text in texts)
    assert not list(root.iter("{http://purl.org/dc/elements/1.1/}date"))


def test_a_picture_is_the_same_when_it_is_drawn_again(generator, tmp_path):
    for name in ("one", "other"):
        generator.draw(generator.PICTURES["norm_of_mean"], tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


SOUND = """A summary.

Formula: x_1,
    or so.
Pitfalls: some.
Interval: none.

Args:
    x: states.

Returns:
    0-d.

>>> 1
1
"""


def test_a_sound_docstring_is_parsed(generator):
    summary, sections = generator.parse("a", SOUND)
    assert summary == "A summary."
    assert sections["Formula"] == "x_1, or so."
    assert tuple(sections) == generator.SECTIONS


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("    or so.", "or so.", "or so"),
        ("Pitfalls: some.\n", "", "sections"),
        ("Interval: none.", "Interval: none.\nNote: more.", "Note"),
        ("Formula: x_1,\n    or so.\nPitfalls: some.", "Pitfalls: some.\nFormula: x_1.", "sections"),
        (">>> 1", "1", ">>>"),
        (SOUND, "A summary.", "sections"),
    ],
)
def test_a_docstring_that_deviates_is_named(generator, old, new, word):
    with pytest.raises(generator.DocstringError, match=f"^a: .*{word}"):
        generator.parse("a", SOUND.replace(old, new))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sigma_1^2 / sum_i s_i", "σ<sub>1</sub><sup>2</sup> / Σ<sub>i</sub> s<sub>i</sub>"),
        ("mean_{i > 0} p_i0", "mean<sub>i > 0</sub> p<sub>i0</sub>"),
        ("1 - sqrt(d) * |x|", r"1 − √(d) \* \|x\|"),
        ("`a_b` and `a_b_c` of `x_1`", "[`a_b`](#a_b) and [`a_b_c`](#a_b) of `x_1`"),
        ("(arXiv 2311.05928)", "([arXiv 2311.05928](https://arxiv.org/abs/2311.05928))"),
    ],
)
def test_formulas_and_names_are_typeset(generator, text, expected):
    assert generator.typeset(text, sections={"a_b": "a_b", "a_b_c": "a_b"}) == expected


def test_the_metric_of_ones_own_measures(monkeypatch, page):
    code = (DOCS / "own_metric.py").read_text()
    assert code in blocks(page, "python")
    assert len(code.splitlines()) < 25
    monkeypatch.syspath_prepend(DOCS)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 16}
    model = CharTransformer(CharTransformerConfig(vocab_size=60, **shape)).eval()
    batches = [{"input_ids": torch.randint(60, (16, 16))}]
    scope = {"model": model, "batches": batches}
    (call,) = (block for block in blocks(page, "python") if "measure(" in block)
    exec(call, scope)
    rows = [row for row in scope["result"].rows if row.metric == "drift_share" and row.site == "residual"]
    states = model(**batches[0], output_hidden_states=True).hidden_states
    assert [row.layer for row in rows] == [0, 1, 2]
    for row, x in zip(rows, states, strict=True):
        x = x.double().flatten(0, 1)
        assert row.value == pytest.approx((x.mean(0).norm() / x.norm(dim=-1).mean()).item(), rel=1e-5)
        assert 0 < row.low < row.value < row.high < 1
    sys.modules.pop("own_metric")


def test_the_metrics_block_is_understood(page):
    (block,) = blocks(page, "yaml")
    suite = Suite.parse(yaml.safe_load(block)["metrics"])
    assert "intrinsic_dimension_mle" in suite.names
    for site in suite.sites:
        suite.build(site)


# The report


def test_figures_in_a_notebook_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("decoder", "encoder"):
        make_run(tmp_path / "checkpoints" / kind, kind)
    (code,) = blocks((DOCS / "reading-the-report.md").read_text(), "python")
    exec(code, {})
    assert (tmp_path / "profile.html").is_file()


# The map


def test_the_map_lists_every_file_as_it_is(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    import make_map

    assert (DOCS / "architecture.md").read_text() == make_map.page(), "stale: run `python docs/make_map.py`"


# The README


@pytest.mark.parametrize("code", blocks(README, "python"), ids=lambda code: code.splitlines()[0])
def test_python_of_the_readme_compiles(code):
    compile(code, "README.md", "exec")


def test_measuring_a_model_of_ones_own_as_the_readme_says(capsys):
    (code,) = blocks(README.partition("## Measure your own model")[2].partition("\n## ")[0], "python")
    with torch.random.fork_rng():
        exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"\w+ \d+ \w+ [\d.]+ \([\w., ]+\)", line) for line in lines), lines


def commands() -> list[str]:
    """Command lines of the README (and of pages of docs), and the options in its tables."""
    pages = [DOCS / f"{name}.md" for name in ("wandb", "loggers", "forks", "clusters", "sweeps")]
    shown = README + WATCHING + "".join(page.read_text() for page in pages)
    lines = [line for block in blocks(shown, "sh") for line in block.splitlines() if line.strip()]
    for row in re.findall(r"^\|.*\|$", README, re.MULTILINE):
        for span in re.findall(r"`([^`]+)`", row):
            if span.startswith("dynamics "):
                lines.append(span)
            elif re.match(r"--\S+ ", span):
                lines.append(f"dynamics fit --config configs/decoder.yaml {span}")
    return lines


@pytest.fixture(scope="module")
def fit_parser():
    class Parsed(RunCLI):
        def before_instantiate_classes(self) -> None:
            pass

        def instantiate_classes(self) -> None:
            pass

    known = config.RunOptions([str(ROOT / "configs" / "decoder.yaml")], None, None, None, [], [])
    with torch.random.fork_rng():
        return Parsed(Path("run"), ["--config", yaml.safe_dump(config.gather_config(known))]).parser


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_readme_exist(line, fit_parser, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    launched = re.search(r"launch/\S+\.(?:sh|yaml)", line)
    assert launched is None or Path(launched[0]).is_file()
    line = re.sub(r"^(\w+=\S+ |sbatch (-\S+ )*)?launch/\S+\.sh ", "dynamics ", line)  # which gets the same arguments
    program, verb, *words = shlex.split(line, comments=True)
    if program == "wandb":
        assert verb == "sweep"
        return
    if program == "make":
        assert re.search(rf"^{verb}:", Path("Makefile").read_text(), re.MULTILINE)
        return
    assert (program, verb in cli.VERBS) == ("dynamics", True)
    if verb in ("fit", "validate", "test"):
        options = config.split_options(words)
        if verb != "fit":  # they take the configuration of their run
            options = options._replace(configs=["configs/decoder.yaml"])
        given = yaml.safe_dump(config.gather_config(options))
        Suite.parse(fit_parser.parse_args(["--config", given, *options.rest]).metrics)
        return
    with pytest.raises(SystemExit, match="0"):
        cli.main([verb, "--help"])
    offered = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= offered


def test_the_example_of_forks_runs(workplace, text_file, capsys):
    """With a tiny model and few steps in the place of theirs."""
    settings = TINY | {"trainer.max_steps": 4, "trainer.val_check_interval": 2, "data.corpus": text_file}
    (example,) = blocks((DOCS / "forks.md").read_text(), "sh")
    for line in example.splitlines():
        _, verb, *words = shlex.split(line.replace("--at 1024", "--at 2"), comments=True)
        words = [str(ROOT / word) if word.startswith("configs/") else word for word in words]
        cli.main([verb, *words, *(arguments(settings) if verb == "fit" else [])])
    said = capsys.readouterr().out
    assert "fork of causal from step 2: model.is_causal true -> false" in said
    assert "fork of causal from step 2: nothing changes" in said
    page = Path("report.html").read_text()
    for name in ("causal, mlm", "bidirectional, mlm, from step 2", "causal, mlm, from step 2"):
        assert f"<b>{name}</b>" in page
    assert "Continues causal from step 2; changed: model.learning_rate 0.001 to 0.0003." in page


def test_the_file_of_a_sweep_is_one(tmp_path):
    from dynamics.experiments.sweep.cells import read_cells

    (example,) = blocks((DOCS / "sweeps.md").read_text(), "yaml")
    (tmp_path / "example.yaml").write_text(example)
    cells = read_cells(tmp_path / "example.yaml", "NAME")
    assert len(cells) == 48 - 12 - 16 + 4  # all, less what each line of `exclude` is about, and both are
    assert cells[0].name == "NAME-decoder-norm_pre-width_128-regularizers_none-seed_0"


# Links


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_make_faults_runs_every_test_by_which_a_promise_is_held():
    table = re.findall(r"`(tests/\S+?)`", (DOCS / "reliability.md").read_text())
    target = (ROOT / "Makefile").read_text().split("\nfaults:")[1].split("\n\n")[0]
    places = re.findall(r"tests/\S+", target)
    assert len(table) > 30
    assert [path for path in table if not any(Path(path).is_relative_to(place) for place in places)] == []
    assert all((ROOT / path).exists() for path in (*table, *places))


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text()), target
