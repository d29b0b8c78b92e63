"""docs/claims.md is what the claims say."""

from pathlib import Path

import pytest

from dynamics.claims import CLAIMS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_what_the_claims_say(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import make_claims

    assert make_claims.PAGE.read_text() == make_claims.page(), "stale: run `python docs/make_claims.py`"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_says_what_it_is(claim):
    assert claim.statement.endswith(".")
    assert all((claim.source, claim.quantity, claim.needs, claim.criteria))
    assert all(len(criterion.threshold.why) > 10 for criterion in claim.criteria)


def test_ids_and_anchors_are_unique():
    assert len({claim.id for claim in CLAIMS}) == len({claim.anchor for claim in CLAIMS}) == len(CLAIMS)
