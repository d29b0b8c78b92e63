"""Which runs belong together."""

from dynamics.report.arms import design


def test_a_run_of_before_other_architectures_is_one_of_the_default():
    old = {"objective": "clm", "model": {"objective": "clm", "depth": 2}}
    new = {
        "objective": "clm",
        "architecture": "char_transformer",
        "model": {"objective": "clm", "depth": 2, "architecture": "char_transformer", "overrides": {}},
    }
    assert design(old) == design(new)
    assert design(old) != design(new | {"architecture": "llama"})
