"""The same arm twice, in other seeds: no claim that compares arms is supported in more than 5 % of the simulations."""

import numpy as np
import pandas as pd
import pytest

from dynamics.claims import CLAIMS
from dynamics.claims.evidence import Evidence
from dynamics.claims.judge import _judged
from dynamics.claims.members import DECODER, ENCODER, MASKED, Grid, Member
from dynamics.report.study import Study
from tests.claims.worlds import grid

SIMULATIONS, SEEDS = 200, 3
BY_ID = {claim.id: claim for claim in CLAIMS}
STUDY = Study(pd.DataFrame(), pd.DataFrame(), (), {}, {})
TWINS = [(kind, {}, ("", 0.0)) for kind in (DECODER, ENCODER, MASKED)]
SWEEP = [(DECODER, {}, ("IStar" if weight else "", weight)) for weight in (-5.0, -1.0, 0.0, 1.0, 5.0)]
VALUES = {
    **{(site, metric): lambda *_: 0.3 for site, metric in (("residual", "anisotropy"), ("weight", "qk_symmetry"))},
    **{("residual", metric): lambda *_: 10.0 for metric in ("isoscore", "intrinsic_dimension", "kurtosis")},
    **{("validation", "bits_per_character"): lambda *_: 2.0, ("train", "isoscore_star"): lambda *_: 0.2},
    **{("residual", metric): lambda *_: 1.0 for metric in ("norm_of_mean", "mean_norm")},
}


def arms(key, *values):
    return [(DECODER, {key: value}, ("", 0.0)) for value in values]


ARMS = {  # a claim that compares arms, and the arms
    **dict.fromkeys(("S1b", "B1", "B14", "B15"), TWINS),
    **dict.fromkeys(("S2a", "S2c", "B13"), SWEEP[1:4]),
    "S2b": SWEEP,
    "S2d": [(DECODER, {"regularizer.reference_weight": w}, ("IStar", -1.0)) for w in (0.0, 0.2)],
    "B3": arms("model.optimizer", "adamw", "sgd"),
    "B4": arms("model.optimizer", "adamw", "muon"),
    "B17": arms("model.attention", "softmax", "none"),
}
# Noise at which a test at its threshold may err: chance alone, an effect of 0, must not be found.
NOISE = {"S2c": 0.01, "B13": 0.01}


def member(values, kind, settings, regularizer, seed, noise, generator):
    """A model whose quantities are known without rows."""
    one = Member("", f"seed {seed}", "seeds", kind, "", pd.DataFrame(), settings, regularizer=regularizer)
    steps = (0, 1, 4, 16, 64, 256)
    grids = {}
    for key in values:
        array, layers = grid(*key, VALUES[key], "", noise, generator)
        grids[key] = Grid(steps, layers, array.mean(axis=2), np.zeros(array.shape[:2]))
    if ("train", "isoscore_star") in grids:
        restless = 0.2 + 0.01 * generator.standard_normal((64, 1))
        grids["train", "isoscore_star"] = Grid((*range(64),), (-1,), restless, np.zeros((64, 1)))
    one.__dict__.update(_grids=grids | dict.fromkeys(set(CHECKED) - set(grids)), steps=steps)
    return one


CHECKED = [*VALUES, *(("residual", name) for name in ("duplicate_share", "scale_dependence"))]
CHECKED += [("validation", name) for name in ("bits_per_masked_character", "accuracy", "f1", "exact_match")]
CHECKED += [("validation", f"{name}_correlation") for name in ("matthews", "spearman", "pearson")]


@pytest.mark.parametrize("id", ARMS)
def test_null_twins_are_not_supported(id):
    claim, generator, supported = BY_ID[id], np.random.default_rng(0), 0
    used = [key for key in VALUES if any(name in claim.quantity or name in claim.needs for name in NAMES[key[1]])]
    assert used
    for _ in range(SIMULATIONS):
        members = [member(used, *arm, seed, NOISE.get(id, 0.3), generator) for arm in ARMS[id] for seed in range(SEEDS)]
        one = _judged(claim, Evidence(tuple(members), "seeds", pd.DataFrame(), pd.DataFrame(), STUDY))
        assert not one.missing
        supported += one.p_for < 0.05 / 2  # alone: correction over claims only makes it rarer
    assert supported <= 0.05 * SIMULATIONS


NAMES = {
    **{name: (name,) for name in ("anisotropy", "isoscore", "kurtosis", "qk_symmetry")},
    **{"intrinsic_dimension": ("intrinsic dimension",), "bits_per_character": ("bits",), "isoscore_star": ("batches",)},
    **dict.fromkeys(("norm_of_mean", "mean_norm"), ("norm of the mean embedding",)),
}
NAMES["isoscore"] = ("isoscore", "IsoScore")
