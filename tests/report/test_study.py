import pytest

from dynamics import record
from dynamics.errors import InputError
from dynamics.record import Row
from dynamics.report.study import load
from tests.report.conftest import write_run


def swept(folder, conditions):
    """A record whose values depend on a condition, without steps."""
    rows = [
        Row(folder.name, "", condition, 0, "output", layer, -1, "mean_cosine", 0.1 * layer)
        for condition in conditions
        for layer in (1, 2)
    ]
    record.Record(folder).write(0, rows)
    write_run(folder, {"run": folder.name})
    return folder


def test_runs_that_differ_by_seed_and_history_are_one_arm(make):
    runs = [
        make(f"d{seed}", seed=seed, model={"seed": seed, "depth": 4}, hardware=f"node {seed}") for seed in (0, 1, 2)
    ]
    (arm,) = load(runs).arms
    assert arm.runs == ("d0", "d1", "d2")
    assert arm.seeds == ("0", "1", "2")
    assert arm.name == "decoder (causal, clm)"


def test_two_runs_of_one_seed_are_no_repetition(make):
    names = [arm.name for arm in load([make("a"), make("b")]).arms]
    assert names == ["decoder (causal, clm), a", "decoder (causal, clm), b"]


def test_runs_that_differ_by_a_setting_stay_apart_and_are_called_by_it(make):
    names = [arm.name for arm in load([make("a", width=32), make("b", width=64, seed=1)]).arms]
    assert names == ["decoder (causal, clm), width 32", "decoder (causal, clm), width 64"]


def test_every_row_belongs_to_the_arm_of_its_run(make):
    study = load([make("d"), make("e", "encoder")])
    owners = study.rows.groupby("run")["arm"].unique().map(list).to_dict()
    assert owners == {"d": ["decoder (causal, clm)"], "e": ["encoder (bidirectional, mlm)"]}
    assert (study.rows["at"] == study.rows["step"]).all()


def test_a_run_named_twice_counts_once(make):
    run = make("d")
    assert len(load([run, run, f"{run}/"]).arms) == 1


def test_two_folders_of_one_name_are_two_runs(make):
    study = load([make("one/run"), make("two/run", "encoder")])
    assert len(study.runs) == len(study.arms) == 2


@pytest.mark.parametrize("content", [{}, None])
def test_a_record_without_settings_is_called_by_its_run(make, content):
    run = make("foreign")
    (run / "run.json").unlink()
    if content is not None:
        write_run(run, content)
    (arm,) = load([run]).arms
    assert (arm.name, arm.objective, arm.about) == ("foreign", "", "")


def test_a_sweep_without_steps_is_followed_along_the_swept_number(tmp_path):
    conditions = [f"beta={beta},bias={bias},seed={seed}" for beta in (0, 0.5, 2) for bias in "qk" for seed in (0, 1)]
    study = load([swept(tmp_path / "weights", conditions)])
    assert {(arm.name, arm.seeds, arm.along) for arm in study.arms} == {
        ("weights, bias=q", ("0", "1"), "beta"),
        ("weights, bias=k", ("0", "1"), "beta"),
    }
    assert sorted(study.rows["at"].unique()) == [0, 0.5, 2]


def test_conditions_that_are_no_sweep_are_arms(tmp_path):
    study = load([swept(tmp_path / "cone", ["corpus=news", "corpus=forum"])])
    assert {(arm.name, arm.along) for arm in study.arms} == {
        ("cone, corpus=news", "step"),
        ("cone, corpus=forum", "step"),
    }


def test_refuses_a_run_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no run named"):
        load([tmp_path / "nothing"])


def test_refuses_no_run_at_all():
    with pytest.raises(InputError, match="name at least one run"):
        load([])


def test_refuses_a_run_that_has_measured_nothing(tmp_path):
    write_run(tmp_path / "fresh", {"run": "fresh"})
    with pytest.raises(InputError, match="fresh has no rows"):
        load([tmp_path / "fresh"])


def test_refuses_settings_that_are_no_object(make):
    run = make("odd")
    (run / "run.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="one JSON object"):
        load([run])
