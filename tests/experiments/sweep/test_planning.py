"""What a sweep says before it runs: what `dynamics fit` refuses, and how long the rest takes."""

import re

import pytest
import yaml

from dynamics import runs
from dynamics.cli.main import main
from dynamics.training import rehearsal
from dynamics.training.rehearsal import Costs, read_costs
from tests.runs import CONFIGS, TINY, arguments, fit


@pytest.fixture
def sweep(workplace, text_file, capsys):
    """Run the verb for a file with these keys; return its exit code and what it printed."""

    def run(*words, fits=("decoder",), **keys):
        commands = {name: f"--config {CONFIGS}/{name}.yaml --data.corpus {text_file}" for name in fits}
        settings = {key: value for key, value in TINY.items() if key not in keys.get("grid", {})}
        path = workplace / "s.yaml"
        path.write_text(yaml.safe_dump({"fit": commands, "seeds": [0, 1], **keys}, sort_keys=False))
        try:
            main(["sweep", str(path), *words, *arguments(settings)])
        except SystemExit as exit_:
            return exit_.code, capsys.readouterr()
        return 0, capsys.readouterr()

    return run


GRID = {"model.is_causal": [True, False], "model.objective": ["clm", "mlm"]}


def test_a_dry_run_lists_what_fit_refuses(sweep, workplace):
    code, printed = sweep("--dry-run", grid=GRID)
    assert code == 2
    assert printed.out.count("dynamics fit --run s-decoder-") == 8
    refused = re.findall(r"^(\S+) is refused: (.+)", printed.out, re.MULTILINE)
    assert [name for name, _ in refused] == [f"s-decoder-is_causal_false-objective_clm-seed_{seed}" for seed in (0, 1)]
    assert all("sees the character that it must predict" in why for _, why in refused)
    assert len(printed.err.strip().splitlines()) == 1
    assert not runs.CHECKPOINTS.exists()
    assert not list(workplace.glob("*lightning*"))


def test_nothing_begins_where_fit_refuses_a_cell(sweep):
    code, printed = sweep(grid=GRID)
    assert (code, printed.out) == (2, "")
    assert "cannot be made: a bidirectional model with objective clm sees" in printed.err
    assert "(and 1 more; --dry-run lists them)" in printed.err
    assert not runs.CHECKPOINTS.exists()


@pytest.mark.parametrize(
    ("key", "values", "sentence"),
    [
        ("model.nrm", ["pre"], "there is no option model.nrm: did you mean model.norm?"),
        ("model.norm", ["pst"], "model.norm must be one of pre, post, none (got pst)"),
        ("trainer.max_step", [3], "there is no option trainer.max_step: did you mean trainer.max_steps?"),
    ],
)
def test_a_key_that_no_config_has_is_refused_with_the_nearest(sweep, key, values, sentence):
    code, printed = sweep("--dry-run", grid={key: values}, seeds=[0])
    assert code == 2
    assert sentence in printed.err
    assert len(printed.err.strip().splitlines()) == 1


def test_time_is_told_by_earlier_runs_and_by_short_ones(sweep, text_file):
    fit(text_file, "earlier", data__corpus=text_file, model__learning_rate=0.01)
    rule = {"model.is_causal": False, "model.objective": "clm"}
    code, printed = sweep("--dry-run", "--jobs", "2", grid=GRID, exclude=[rule, {"model.is_causal": False}])
    count, last = printed.out.splitlines()[-2:]
    assert (code, printed.err, count) == (0, "", "4 runs, 0 of them complete")
    assert re.fullmatch(
        r"about \d:\d\d:\d\d one after the other, at best \d:\d\d:\d\d with 2 side by side, "
        r"by earlier runs \(1 of 2 designs\), short runs just now \(1 of 2 designs\)",
        last,
    )
    assert [path.name for path in runs.CHECKPOINTS.iterdir()] == ["earlier"]


def test_costs_are_those_of_the_record(workplace, text_file):
    fit(text_file, "a", trainer__max_steps=12)
    costs = read_costs(runs.CHECKPOINTS / "a")
    assert costs is not None
    assert 0 < costs.step < 30
    assert 0 < costs.measurement < 30


def test_work_is_the_sum_of_its_parts():
    work = rehearsal.Work("", 9, 1000, 11, None)
    assert work.seconds(Costs(0.02, 1.5)) == pytest.approx(1000 * 0.02 + 11 * 1.5)
