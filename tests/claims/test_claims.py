"""Every claim is supported, contradicted and left open by a record in which it must be."""

import pytest

from dynamics.claims import CLAIMS
from dynamics.claims.judge import judge
from tests.claims.worlds import WORLDS

BY_ID = {claim.id: claim for claim in CLAIMS}


def test_there_is_a_world_for_every_claim():
    assert [*WORLDS] == [claim.id for claim in CLAIMS]
    assert len(CLAIMS) >= 25


def test_opponents_name_each_other():
    pairs = {frozenset((claim.id, other)) for claim in CLAIMS for other in claim.opposes}
    assert len(pairs) >= 3
    assert all(claim.id in BY_ID[other].opposes for claim in CLAIMS for other in claim.opposes)


@pytest.mark.parametrize("id", BY_ID)
def test_a_claim_that_holds_is_supported_and_its_opponents_are_contradicted(id):
    case = WORLDS[id]
    study = case.world(case.holds, case.quiet)
    one, *others = judge(study, [BY_ID[id], *(BY_ID[other] for other in BY_ID[id].opposes)])
    assert one.verdict == "supported", one.to_dict()
    assert {other.verdict for other in others} <= {"contradicted"}


@pytest.mark.parametrize("id", BY_ID)
def test_a_claim_that_does_not_hold_is_contradicted(id):
    case = WORLDS[id]
    (one,) = judge(case.world(case.fails, case.quiet), [BY_ID[id]])
    assert one.verdict == "contradicted", one.to_dict()


@pytest.mark.parametrize("id", BY_ID)
def test_a_claim_that_cannot_be_told_stays_open(id):
    case = WORLDS[id]
    (one,) = judge(case.world(case.holds if case.open is None else case.open, case.loud), [BY_ID[id]])
    assert one.verdict == "inconclusive", one.to_dict()
