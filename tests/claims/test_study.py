"""docs/study is what its records say."""

import json
from pathlib import Path

import pytest

STUDY = Path(__file__).resolve().parents[2] / "docs" / "study"
NUMBERS = ("effect", "low", "high", "p")


def test_the_records_of_the_study_give_its_verdicts_again(monkeypatch):
    monkeypatch.syspath_prepend(str(STUDY.parent))
    import make_study

    judgements = make_study.verdicts()
    found, kept = [one.to_dict() for one in judgements], json.loads((STUDY / "claims.json").read_text())
    for now, before in zip(found, kept, strict=True):
        assert {**now, **dict.fromkeys((*NUMBERS, "criteria"))} == {**before, **dict.fromkeys((*NUMBERS, "criteria"))}
        for name in NUMBERS:
            assert now[name] == (before[name] and pytest.approx(before[name], rel=1e-6))
    assert (STUDY / "README.md").read_text() == make_study.readme(judgements)
