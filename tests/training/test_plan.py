"""Plans: past steps stay, the last step stays, the budget is kept where it can be."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics import record, runs
from dynamics.errors import InputError
from dynamics.measure import Measurement
from dynamics.measure.suite import Suite
from dynamics.schedule import Every
from dynamics.training.monitor import Monitor, read_plan
from dynamics.training.plan import plan
from tests.runs import fit

STEPS = st.lists(st.integers(0, 200), min_size=1, max_size=30, unique=True).map(lambda s: tuple(sorted(s)))


@given(
    steps=st.dictionaries(st.sampled_from("abcd"), STEPS, min_size=1),
    costs=st.dictionaries(st.sampled_from(["a", "b", "c", "d", "forward"]), st.floats(0, 10), min_size=5),
    budget=st.floats(0, 500),
    now=st.integers(0, 200),
)
def test_a_plan_keeps_the_past_the_last_step_and_the_budget(steps, costs, budget, now):
    planned = plan(steps, costs, budget, now)
    for name, wanted in steps.items():
        assert set(planned[name]) <= set(wanted)
        assert {s for s in wanted if s <= now} <= set(planned[name])
        assert planned[name][-1] == wanted[-1]
    ahead = {name: {s for s in chosen if s > now} for name, chosen in planned.items()}
    passes = len(set().union(*ahead.values()))
    spent = sum(costs[name] * len(left) for name, left in ahead.items()) + costs["forward"] * passes
    thin = all(len(left) <= 1 or costs[name] + costs["forward"] == 0 for name, left in ahead.items())
    assert spent <= budget * (1 + 1e-9) or thin


def test_the_forward_passes_are_paid_for_too():
    steps = {"a": tuple(range(9)), "b": tuple(range(9))}
    planned = plan(steps, {"a": 1.0, "b": 1.0, "forward": 2.0}, budget=16.0, now=0)
    assert planned == {"a": (0, 2, 4, 6, 8), "b": (0, 2, 4, 6, 8)}


def test_no_limit_changes_nothing():
    steps = {"a": (0, 1, 2, 4, 8)}
    assert plan(steps, {"a": 1.0}, budget=100.0, now=1) == steps


def measured(run, metric):
    return sorted(set(record.read(run).query("metric == @metric and site == 'residual'").step))


def test_a_metric_has_steps_of_its_own(workplace, text_file):
    fit(text_file, "a", metrics="{anisotropy: null, mean_cosine: {schedule: {every: 3}}}")
    assert measured("a", "anisotropy") == [0, 1, 2, 4, 6]
    assert measured("a", "mean_cosine") == [0, 3, 6]


def test_a_metric_named_by_its_class_path_is_thinned_too():
    """Costs have the names of rows."""
    asked = {"dynamics.metrics.anisotropy.Anisotropy": None, "intrinsic_dimension": {"keep": 0.2}}
    suite = Suite.parse(asked)
    assert set(suite.steps(Every(1), 3)) == suite.names == {"anisotropy", "intrinsic_dimension_lowest_20"}
    assert list(suite.only({"anisotropy"}).describe()["residual"]) == ["dynamics.metrics.anisotropy.Anisotropy"]
    with pytest.raises(InputError, match="twice at residual"):
        Suite.parse({"anisotropy": None, **asked})


def test_a_limit_is_planned_once_stored_and_shared(workplace, text_file):
    settings = {"trainer__max_steps": 40, "metrics": "{anisotropy: {schedule: {every: 1}}}"}
    fit(text_file, "a", monitor__max_overhead=1e-6, **settings)
    stored = json.loads((runs.CHECKPOINTS / "a" / "plan.json").read_text())
    assert stored["anisotropy"] == [*range(17), 40]
    assert measured("a", "anisotropy") == stored["anisotropy"]
    fit(text_file, "b", monitor__plan=runs.CHECKPOINTS / "a" / "plan.json", **settings)
    assert measured("b", "anisotropy") == stored["anisotropy"]


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def test_neither_compilation_nor_warm_up_counts(tmp_path, monkeypatch):
    """The first step takes 1000 s and the first measurement 500 s, all others 1 s and 2 s; so a limit of 10 % allows
    100 s of measuring in 1000 steps: 50 measurements, 3 of which are done when the plan is made."""
    clock, measurements = Clock(), []

    def measured(*_, **settings):
        measurements.append(settings["step"])
        clock.time += 2.0 if measurements[1:] else 500.0
        return Measurement([], [], {}, {"forward": 0.5, "anisotropy": 1.5})

    monkeypatch.setattr("dynamics.training.monitor.measure", measured)
    monkeypatch.setattr(
        "dynamics.training.monitor.get_datamodule", lambda trainer: SimpleNamespace(evaluation_batches=lambda: [])
    )
    monitor = Monitor(["anisotropy"], Every(10), keep_weights="none", max_overhead=0.1)
    monkeypatch.setattr(Monitor, "clock", clock)
    settings = {"max_steps": 1000, "default_root_dir": str(tmp_path), "loggers": []}
    trainer = SimpleNamespace(global_step=0, global_rank=0, world_size=1, **settings)
    module = SimpleNamespace(network=None)
    monitor.on_train_start(trainer, module)
    while monitor.plan is None:
        trainer.global_step += 1
        clock.time += 1.0 if trainer.global_step > 1 else 1000.0
        monitor.on_train_batch_end(trainer, module)
    assert trainer.global_step == 20
    assert monitor.plan == plan({"anisotropy": Every(10).steps(1000)}, {"anisotropy": 2.0}, 100.0 - 3 * 2.0, 20)
    assert len(monitor.plan["anisotropy"]) == 28


def test_a_plan_may_hold_more_metrics_than_the_run(workplace, text_file):
    path = workplace / "plan.json"
    path.write_text(json.dumps({"anisotropy": [0, 4, 6], "kurtosis": [0, 3, 6]}))
    fit(text_file, "a", metrics="[anisotropy]", monitor__plan=path)
    assert measured("a", "anisotropy") == [0, 4, 6]


@pytest.mark.parametrize("steps", [[-1, 2], [0, 1.5], [2, 1], [1, 1], ["2"], [True]])
def test_a_plan_with_other_than_ascending_steps_is_refused(tmp_path, steps):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"anisotropy": steps}))
    with pytest.raises(InputError, match=r"monitor\.plan: .*plan\.json .*anisotropy"):
        read_plan(path)


@pytest.mark.parametrize("settings", [{"monitor__max_overhead": 0}, {"monitor__plan": "nowhere.json"}])
def test_nonsense_is_refused(workplace, text_file, capsys, settings):
    with pytest.raises(SystemExit) as exit_:
        fit(text_file, "a", **settings)
    assert exit_.value.code == 2
    assert "monitor." in capsys.readouterr().err
