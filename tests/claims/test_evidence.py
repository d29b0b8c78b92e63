"""What claims are judged by: runs, sweeps, scans and records of others; and what they do not depend on."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from dynamics import record
from dynamics.claims import CLAIMS
from dynamics.claims.evidence import evidence, load
from dynamics.claims.judge import judge
from dynamics.claims.members import CONVOLUTIONAL, DECODER, ENCODER
from dynamics.claims.table import as_json
from dynamics.errors import InputError
from tests.claims.worlds import DECODER as CAUSAL
from tests.claims.worlds import ENCODER as BIDIRECTIONAL
from tests.claims.worlds import TWINS, WORLDS, bell, cosine, rows_of, scanned, study, trained
from tests.report.conftest import make_run

BY_ID = {claim.id: claim for claim in CLAIMS}
BELLS = {("residual", "anisotropy"): lambda arm, d, t, h: 0.1 + 0.5 * t * bell(d) * arm.startswith("decoder")}


def one(study_, id):
    return judge(study_, [BY_ID[id]])[0]


def test_the_order_of_runs_changes_nothing():
    twins = trained(BELLS, TWINS, 0.05)
    turned = study(dict(reversed(twins.runs.items())), dict(reversed(twins.records.items())))
    shape = [BY_ID[id] for id in ("S1a", "S1b", "S1d")]
    assert as_json(judge(twins, shape)) == as_json(judge(turned, shape)) == as_json(judge(twins, shape))


@pytest.mark.parametrize("kind", ["seeds", "models"])
def test_one_unit_less_changes_the_interval_and_too_few_say_what_is_missing(kind):
    found = []
    for count in (5, 4, 3, 2):
        facts = {"is_causal": True}
        seeds = trained(BELLS, {"decoder": CAUSAL}, 0.02, range(count))
        found.append(one(seeds if kind == "seeds" else scanned(BELLS, {"decoder": (count, facts)}, 0.02), "S1a"))
    assert [judged.to_dict()["n"] for judged in found] == [5, 4, 3, 0]
    assert [judged.verdict for judged in found[:2]] == ["supported"] * 2
    widths = [judged.main.outcome.high - judged.main.outcome.low for judged in found[:3]]
    assert len(set(widths)) == 3
    assert found[3].verdict == "not measurable"
    assert f"3 {kind} at least, found 2" in found[3].reason


def test_models_of_two_kinds_are_two_groups():
    arms = {"decoder": (4, {"is_causal": True}), "encoder": (3, {"is_causal": False})}
    judged = one(scanned(BELLS, arms, 0.02), "S1b")
    assert (judged.verdict, judged.population, judged.main.outcome.n) == ("supported", "models", 7)


def test_convolutional_models_are_told_by_their_heads():
    values = {
        ("residual", "mean_cosine"): lambda arm, d, t, h: 0.1 + 0.5 * d,
        ("residual", "norm_of_mean"): lambda arm, d, t, h: 3 + 2 * d * (1 if arm == "vit" else -1),
    }
    images = {"modality": "images"}
    facts = {"vit": (3, images | {"heads": [4], "is_causal": False}), "resnet": (3, images | {"heads": [0, 0]})}
    scan = scanned(values, facts, 0.01)
    assert {member.kind for member in evidence(scan).members} == {ENCODER, CONVOLUTIONAL}
    judged = one(scan, "S3b")
    assert judged.verdict == "supported"
    assert not judged.judged[1].missing


def test_seeds_decide_where_both_are_measurable_and_the_models_are_told():
    seeds, models = trained(BELLS, TWINS, 0.02), scanned(BELLS, {"gpt": (5, {"is_causal": True})}, 0.001)
    judged = one(study(seeds.runs | models.runs, seeds.records | models.records), "S1a")
    assert (judged.verdict, judged.population) == ("supported", "seeds")
    assert judged.other is not None
    assert judged.other.verdict == "contradicted"
    assert "Over models: contradicted." in judged.reason


def test_designs_without_twins_are_left_out_of_claims_about_one_kind():
    arms = {**TWINS, "other": CAUSAL | {"model": {"attention": "none"}}}
    main = evidence(trained(BELLS, arms, 0.02)).main
    assert {member.kind for member in main} == {DECODER, ENCODER}
    assert not any("none" in member.design for member in main)


def test_a_sweep_of_lambda_is_compared_with_runs_of_its_own_kind():
    case = WORLDS["S2a"]
    sweep = case.world(case.holds, case.quiet)
    others = trained({("residual", "isoscore"): lambda *_: 9.0}, {"encoder": BIDIRECTIONAL}, 0.01)
    both = study(sweep.runs | others.runs, sweep.records | others.records)
    assert one(both, "S2a").main.outcome == one(sweep, "S2a").main.outcome


def test_runs_with_two_regularizers_are_neither_plain_nor_of_one_lambda():
    terms = {"istar": {"class": "IStar", "weight": -1.0}, "cosine": {"class": "MeanCosine", "weight": 1.0}}
    arms = {"decoder": CAUSAL, "both": CAUSAL | {"regularizers": terms}}
    found = evidence(trained(BELLS, arms, 0.02))
    assert {member.regularizer[0] for member in found.trained} == {"", "IStar -1 + MeanCosine 1"}
    assert {member.name for member in found.main} == {f"decoder-{seed}" for seed in range(4)}


def test_a_control_that_fails_takes_support_away():
    case = WORLDS["S1c"]
    risen = case.world(case.holds, case.quiet)
    assert one(risen, "S1c").verdict == "supported"
    assert "Controls that the record lacks" in one(risen, "S1c").reason
    doubled = {run: with_duplicates(rows, 0.9) for run, rows in risen.records.items()}
    judged = one(study(risen.runs, doubled), "S1c")
    assert judged.verdict == "inconclusive"
    assert "Does not survive its control: share of duplicates" in judged.reason
    few = {run: with_duplicates(rows, 0.01) for run, rows in risen.records.items()}
    assert "Survives:" in one(study(risen.runs, few), "S1c").reason


def with_duplicates(rows, share):
    more = rows.assign(metric="duplicate_share", value=share + 0.001 * np.arange(len(rows)) / len(rows))
    return pd.concat([rows, more], ignore_index=True)


def test_correction_counts_all_tests_that_were_made():
    twins = trained(BELLS, TWINS, 0.05)
    alone, among = one(twins, "S1b"), judge(twins, CLAIMS)
    (same,) = [judged for judged in among if judged.claim.id == "S1b"]
    assert same.p == alone.p
    assert same.corrected > alone.corrected == pytest.approx(alone.p)


def test_sampling_errors_of_windows_widen_the_interval():
    bare = trained(BELLS, {"decoder": CAUSAL}, 0.02)
    wide = {run: rows.assign(low=rows["value"] - 0.4, high=rows["value"] + 0.4) for run, rows in bare.records.items()}
    narrow, broad = (one(s, "S1d").main.outcome for s in (bare, study(bare.runs, wide)))
    assert broad.high - broad.low > 2 * (narrow.high - narrow.low)
    assert broad.effect == narrow.effect


def foreign(path, **columns):
    """Write twins as somebody else would: no run.json, and `columns` beside those of the schema."""
    parts = []
    for arm, settings in TWINS.items():
        for seed in range(4):
            rows = rows_of(f"{arm}-{seed}", BELLS, arm, 0.01, np.random.default_rng([1, seed, arm == "decoder"]))
            parts.append(rows.assign(**{key: value(arm, seed, settings) for key, value in columns.items()}))
    pd.concat(parts).to_parquet(path)
    return path


@pytest.mark.parametrize(
    "columns",
    [
        {"condition": lambda arm, seed, settings: record.condition(seed=seed, **settings)},
        {"seed": lambda arm, seed, _: seed, "objective": lambda arm, seed, settings: settings["objective"]},
        {
            "condition": lambda arm, seed, settings: record.condition(seed=seed, **settings),
            "seed": lambda arm, seed, _: seed,  # said twice, as in a frame that `record.read` returned
        },
        {"condition": lambda arm, seed, _: record.condition(seed=seed)},  # told by the names of the runs
        {"seed": lambda arm, seed, _: seed, "model": lambda arm, *_: {"decoder": "gpt2", "encoder": "bert"}[arm]},
    ],
    ids=["conditions", "columns", "both", "names", "models"],
)
def test_records_of_others_are_judged(tmp_path, columns):
    path = foreign(tmp_path / "theirs.parquet", **columns)
    for name in (path, tmp_path):
        judged = {x.claim.id: x for x in judge(load([name]), CLAIMS)}
        assert {id: judged[id].verdict for id in ("S1a", "S1b", "S1d")} == dict.fromkeys(
            ("S1a", "S1b", "S1d"), "supported"
        )
        assert judged["S1b"].population == "seeds"
        assert judged["S1b"].main.outcome.n == 4


def test_runs_of_one_name_in_several_records_stay_apart(tmp_path):
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        rows = rows_of("", BELLS, "decoder", 0.01, np.random.default_rng(seed))
        rows.assign(seed=seed, objective="clm").to_parquet(folder / "record.parquet")
    judged = one(load([tmp_path / str(seed) / "record.parquet" for seed in range(3)]), "S1a")
    assert (judged.verdict, judged.main.outcome.n) == ("supported", 3)


def test_a_record_of_others_needs_a_few_columns_alone(tmp_path):
    path = foreign(tmp_path / "theirs.parquet", seed=lambda arm, seed, _: seed)
    few = ["run", "seed", "step", "site", "layer", "metric", "value"]
    pd.read_parquet(path)[few].to_parquet(path)
    assert one(load([path]), "S1b").verdict == "supported"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: path.write_text("no parquet"), "is not a readable Parquet file"),
        (lambda path: pd.read_parquet(path).drop(columns="layer").to_parquet(path), "lacks the column layer"),
        (lambda path: pd.read_parquet(path).iloc[:0].to_parquet(path), "holds no rows"),
        (lambda path: pd.read_parquet(path).assign(step="a").to_parquet(path), "has a column of another type"),
        (
            lambda path: pd.read_parquet(path).assign(extra=[[1]] * len(pd.read_parquet(path))).to_parquet(path),
            "has a column of another type",
        ),
        (lambda path: pd.read_parquet(path).assign(**{"lambda": "high"}).to_parquet(path), "lambda=high: it must be"),
    ],
)
def test_a_bad_record_is_refused_in_a_sentence(tmp_path, change, sentence):
    path = foreign(tmp_path / "theirs.parquet")
    change(path)
    with pytest.raises(InputError, match=sentence):
        judge(load([path]), [])


def test_a_folder_of_arrays_alone_holds_no_rows(tmp_path):
    foreign(tmp_path / "arrays-0.parquet")
    with pytest.raises(InputError, match="holds no rows"):
        load([tmp_path])


def test_a_sweep_stands_for_its_runs(workplace):
    runs = [make_run(workplace / "checkpoints" / f"s-{seed}", "decoder", seed).name for seed in range(3)]
    (workplace / "checkpoints" / "s").mkdir()
    words = {run: ["x"] for run in [*runs, "not-begun"]}
    (workplace / "checkpoints" / "s" / "run.json").write_text(json.dumps({"run": "s", "kind": "sweep", "runs": words}))
    assert sorted(load(["s"]).runs) == runs
    assert one(load(["s"]), "S1a").to_dict()["n"] == 3


def test_untrained_models_are_controls_of_those_of_the_same_name():
    scan = scanned(cosine(0.5), {"gpt2": (1, {"is_causal": True})}, 0.0)
    rows = scan.records["scan"]
    info = scan.runs["scan"]
    info.subjects["gpt2-0:untrained@seed0"] = {"model": "gpt2-0:untrained", "kind": "untrained", "is_causal": True}
    both = pd.concat([rows, rows.assign(subject="gpt2-0:untrained@seed0", value=0.1)])
    found = evidence(study({"scan": info}, {"scan": both}))
    models = dataclasses.replace(found, population="models")
    (member,) = models.main
    control = models.control(member, "untrained")
    assert control is not None
    assert control.at("residual", "mean_cosine", 0).value == pytest.approx(0.1)


def test_bidirectional_models_are_encoders():
    found = evidence(trained(BELLS, {"encoder": BIDIRECTIONAL}, 0.0, range(1))).members
    assert [member.kind for member in found] == [ENCODER]
