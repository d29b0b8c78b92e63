"""The file of a sweep: its axes, what is excluded, the names and words of its cells, and what is refused."""

import pytest
import yaml

from dynamics.errors import InputError
from dynamics.experiments.sweep.cells import read_cells
from tests.runs import CONFIGS

GRID = {"model.norm": ["pre", "post"], "model.width": [128, 256]}


def cells(path, *more, **keys):
    path.write_text(yaml.safe_dump({"fit": {"plain": "--config a.yaml"}, "seeds": [0, 1], **keys}, sort_keys=False))
    return read_cells(path, "s", more)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.yaml"


def test_a_grid_combines_all_values(path):
    found = cells(path, "--size", "tiny", grid=GRID)
    assert [cell.name for cell in found] == [
        f"s-plain-norm_{norm}-width_{width}-seed_{seed}"
        for seed in (0, 1)
        for norm in ("pre", "post")
        for width in (128, 256)
    ]
    assert found[1].words == (
        *("--config", "a.yaml", "--model.norm=pre", "--model.width=256", "--size", "tiny", "--seed_everything", "0"),
    )
    assert found[1].design == found[5].design == found[1].words[:-2]


def test_seeds_alone_are_a_sweep(path):
    assert [cell.name for cell in cells(path)] == ["s-plain-seed_0", "s-plain-seed_1"]


def test_vary_and_grid_are_crossed(path):
    vary = {"istar": {"option": "--x={}", "values": [-2]}, "cosreg": {"option": "--y={}", "values": [1, 3]}}
    found = cells(path, vary=vary, grid={"model.depth": [2, 4]}, seeds=[0])
    assert [cell.name for cell in found] == [
        f"s-plain-{value}-depth_{depth}-seed_0" for value in ("istar_-2", "cosreg_1", "cosreg_3") for depth in (2, 4)
    ]


def test_values_of_any_kind_are_written_as_the_command_line_takes_them(path):
    terms = [{"class_path": "IStar", "init_args": {"weight": -2}}]
    grid = {
        "model.is_causal": [True, False],
        "model.compile": [None],
        "data.corpus": ["my text.txt"],
        "model.regularizers": {"none": None, "istar": terms},
    }
    found = cells(path, grid=grid, seeds=[0])
    assert found[1].name == "s-plain-is_causal_true-compile_null-corpus_my_text.txt-regularizers_istar-seed_0"
    assert found[1].words[2:-2] == (
        *("--model.is_causal=true", "--model.compile=null", "--data.corpus=my text.txt"),
        '--model.regularizers=[{"class_path": "IStar", "init_args": {"weight": -2}}]',
    )


def test_keys_that_end_alike_are_named_in_full(path):
    found = cells(path, grid={"model.seed": [1], "data.seed": [2], "model.width": [3]}, seeds=[0])
    assert found[0].name == "s-plain-model.seed_1-data.seed_2-width_3-seed_0"


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ([{"model.norm": "post"}], 4),
        ([{"model.norm": "post", "model.width": 256}], 6),
        ([{"model.norm": "post", "model.width": [128, 256]}, {"seed": 1}], 2),
        ([{"fit": "plain", "seed": [0]}], 4),
        ([], 8),
    ],
)
def test_what_is_excluded_is_no_cell(path, rules, left):
    assert len(cells(path, grid=GRID, exclude=rules)) == left


@pytest.mark.parametrize(
    ("name", "count"),
    [("ablation", 9), ("mask", 6), ("arms", 27), ("istar-sweep", 51), ("istar-sweep-twins", 102), ("study/arms", 75)],
)
def test_the_shipped_sweeps(name, count):
    assert len(read_cells(CONFIGS / f"{name}.yaml", name)) == count


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"gird": GRID}, "there is no gird in a sweep: did you mean grid?"),
        ({"fit": {}}, "fit must hold the words"),
        ({"grid": ["model.norm"]}, "grid must hold values for each key"),
        ({"grid": {"model.norm": "pre"}}, "grid.model.norm must be a list of numbers and texts"),
        ({"grid": {"model.norm": []}}, "grid.model.norm must be a list"),
        ({"grid": {"model.regularizers": [[{"class_path": "IStar"}]]}}, "or hold a value of any kind for each name"),
        ({"grid": {"model.width": [1, 2, 1.0]}}, "grid.model.width holds 1.0 twice"),
        ({"grid": {"data.corpus": ["a/b", "a_b"]}, "seeds": [0]}, "2 runs would be called s-plain-corpus_a_b-seed_0"),
        ({"fit": {"a": "--x 1", "b": "--x 1"}}, "the runs s-a-seed_0 and s-b-seed_0 are the same"),
        ({"seeds": [0, True]}, "seeds must be a list of whole numbers from 0 on"),
        ({"seeds": [0, 1, 0]}, "seeds holds 0 twice"),
        ({"vary": {"a": {"option": "--x=1", "values": [1]}}}, "an option with {} in it"),
        ({"vary": {"a": {"option": "--x={}", "values": []}}}, "a list of values"),
        ({"vary": {"a": {"option": "--x={}", "values": [1, 1.0]}}}, "vary.a holds 1.0 twice"),
        ({"fit": {"a": "--run b"}}, "--run is set by the sweep"),
        ({"seeds": [-1]}, "seeds must be a list of whole numbers from 0 on"),
        ({"seeds": 3}, "seeds must be a list of whole numbers from 0 on"),
        ({"grid": {"seed_everything": [0, 1]}}, "--seed_everything is set by the sweep"),
        ({"exclude": {"seed": 0}}, "exclude must be a list of mappings"),
        ({"grid": GRID, "exclude": [{"model.nrm": "pre"}]}, "which does not vary here: did you mean model.norm?"),
        ({"grid": GRID, "exclude": [{"model.norm": "none"}]}, r'exclude holds {"model.norm": "none"}, which no run is'),
        ({"exclude": [{"seed": True}]}, r'exclude holds {"seed": true}, which no run is'),
        ({"exclude": [{"fit": "plain"}]}, "exclude leaves no run"),
    ],
)
def test_impossible_files_are_refused(path, keys, sentence):
    with pytest.raises(InputError) as error:
        cells(path, **keys)
    assert sentence in str(error.value)


def test_what_varies_is_not_set_for_all_runs(path):
    with pytest.raises(InputError, match=r"--model.norm is what .*s.yaml varies"):
        cells(path, "--model.norm=pre", grid=GRID)
