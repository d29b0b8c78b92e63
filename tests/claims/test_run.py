"""`dynamics claims`: the table, the JSON and the page."""

import json
import re

import pytest

from dynamics.claims import CLAIMS
from dynamics.cli import main as cli
from tests.report.conftest import make_run


@pytest.fixture
def twins(workplace):
    kinds = ("decoder", "encoder")
    return [
        make_run(workplace / "checkpoints" / f"{kind}-{seed}", kind, seed).name for kind in kinds for seed in range(3)
    ]


def test_the_verb_prints_a_table_and_writes_json_and_a_page(twins, workplace, capsys):
    cli.main(["claims", *twins, "--json", "c.json", "--out", "c.html"])
    printed = capsys.readouterr().out
    verdicts = json.loads((workplace / "c.json").read_text())
    assert [one["id"] for one in verdicts] == [claim.id for claim in CLAIMS]
    by_id = {one["id"]: one for one in verdicts}
    assert by_id["S1b"]["verdict"] == "supported"
    assert by_id["S1b"]["low"] < by_id["S1b"]["effect"] < by_id["S1b"]["high"]
    assert by_id["S1b"]["n"] == 3
    assert by_id["S4a"]["verdict"] == "not measurable"
    assert by_id["S4a"]["effect"] is None
    assert "cone" in by_id["S4a"]["reason"]
    assert all(claim.id in printed for claim in CLAIMS)
    assert "Benjamini-Yekutieli" in printed
    page = (workplace / "c.html").read_text()
    assert all(f'<section id="{claim.anchor}">' in page for claim in CLAIMS)
    assert all(re.search(re.escape(claim.source.split(",")[0]), page) for claim in CLAIMS)
    measured = [one for one in verdicts if one["verdict"] != "not measurable"]
    assert page.count("<figure>") == len(measured)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--json", "no/c.json"], "--json no/c.json: name a file in a folder that exists"),
        (["--out", "no/c.html"], "the folder no does not exist"),
        (["nowhere"], "no run named nowhere"),
    ],
)
def test_what_cannot_be_is_refused(twins, capsys, words, sentence):
    with pytest.raises(SystemExit) as error:
        cli.main(["claims", *twins[:1], *words])
    assert error.value.code == 2
    assert sentence in capsys.readouterr().err
