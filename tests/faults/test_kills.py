"""A run that is killed, however often and wherever, ends as one that nobody touched, to the bit."""

import pytest

from dynamics import runs
from tests.faults.chain import attempt, chain, differences, without_generators
from tests.runs import fit, working_in

DROPOUT = {"config": "encoder", "model__dropout": 0.1, "trainer__accumulate_grad_batches": 2}
MOMENTS = [32, 3, 94, 17]
"""Operations on its files before which a run is killed: weights, `run.json`, after its first state, in its weights."""
FROM_STATE = 90  # one of the 127 operations, between the two states


@pytest.fixture(scope="module")
def place(tmp_path_factory, text_file):
    """A folder with a run called whole, and the function that makes others like it."""
    with working_in(tmp_path_factory.mktemp("kills")):

        def train(run, *words):
            fit(text_file, run, *words, **DROPOUT)

        assert attempt(lambda: train("whole")) == 0
        yield train


def test_a_chain_of_kills_ends_as_an_uninterrupted_run(place):
    assert chain(place, "killed", MOMENTS) == len(MOMENTS)
    assert list(differences("whole", "killed")) == []


def test_a_run_that_resumes_without_its_generators_is_told_from_one_that_nobody_touched(place):
    assert attempt(lambda: place("forgets"), operations=FROM_STATE) == -9
    assert (runs.CHECKPOINTS / "forgets" / "state").is_dir()
    with without_generators():
        assert attempt(lambda: place("forgets", "--resume", "auto")) == 0
    assert any("network" in name for name in differences("whole", "forgets"))
