"""A measurement that was stopped goes on from what it has saved, to the same rows."""

import functools
import inspect
import os
import pickle
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dynamics.errors import InputError
from dynamics.files import write_atomically
from dynamics.measure import Suite, identity, measure, unfinished
from dynamics.metrics import names, resolve
from dynamics.metrics.streaming import Estimate
from tests.measure.test_layer_batches import IDS, MASK, Largest, batched, model  # noqa: F401

# So small that the samples of all metrics drop something long before the last batch.
SMALL = {"windows": 9, "tokens": 150, "size": 100}
ONE_OF_EACH = (  # kind of states
    *("isoscore", "kurtosis", "drift", "sink_mass", "qk_alignment", "score_variance", "linear_cka", "cka_to_start"),
    *("intrinsic_dimension", "qk_symmetry"),
)
SOME = {"isoscore": {"tokens": 150}, "entropy": {"windows": 9}}
BATCHES = [
    {"input_ids": ids, "attention_mask": mask.long()}
    for ids, mask in zip(torch.cat([IDS, IDS]).split(6), torch.cat([MASK, MASK]).split(6), strict=True)
]


class Stopped(Exception):
    pass


class Stopping:
    """Batches of which one cannot be read."""

    def __init__(self, number):
        self.number = number

    def __iter__(self):
        yield from BATCHES[: self.number]
        raise Stopped


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The file, which is written before every batch."""
    monkeypatch.setattr(unfinished, "LEAST", 0)
    monkeypatch.setattr(unfinished, "REST", 0)
    return tmp_path / "states.pt"


def small(name):
    """The options of a metric that make its samples small."""
    options = inspect.signature(type(resolve(name)).__init__).parameters
    return {key: value for key, value in (SMALL | {"max_tokens": 900}).items() if key in (*options, "max_tokens")}


def stopped(path, number, metrics=SOME, network=None):
    with pytest.raises(Stopped):
        measure(network or model(), Stopping(number), metrics, references={}, unfinished=path)


@functools.cache
def saved():
    """The file of a measurement that was stopped before its sixth batch."""
    with tempfile.TemporaryDirectory() as folder:
        stopped(Path(folder) / "states.pt", 5)
        return (Path(folder) / "states.pt").read_bytes()


@functools.cache
def whole():
    """The measurement in one go."""
    return measure(model(), BATCHES, SOME, references={})


def same(result, other):
    assert repr(result.recorded) == repr(other.recorded)  # to the last bit of every number
    for array, same in zip(result.arrays, other.arrays, strict=True):
        np.testing.assert_array_equal(array.values, same.values)
    assert result.references.keys() == other.references.keys()
    assert all(torch.equal(x, other.references[name]) for name, x in result.references.items())


def test_there_is_one_of_each_kind_of_states():
    assert {str(resolve(name).accumulator) for name in names()} == {
        str(resolve(name).accumulator) for name in ONE_OF_EACH
    }


@pytest.mark.parametrize("together", [False, True])
def test_every_row_array_and_reference_is_that_of_a_measurement_in_one_go(together, batched, path, capsys):  # noqa: F811
    batched(together)
    metrics = {name: small(name) for name in ONE_OF_EACH}
    one_go = measure(model(), BATCHES, metrics, references={})
    for number in (3, 7):
        stopped(path, number, metrics)
    result = measure(model(), BATCHES, metrics, references={}, unfinished=path)
    same(result, one_go)
    said = capsys.readouterr().out.splitlines()
    assert said == [f"CharTransformerLM: goes on after {number} batches" for number in (2, 6)]
    assert path.is_file()  # until the rows are safe
    assert all(seconds >= 0 for seconds in result.seconds.values())


def test_layers_that_were_parted_stay_so(batched, path, monkeypatch):  # noqa: F811
    batched(True)
    monkeypatch.setattr("dynamics.measure.layer_batches.LARGEST", int(MASK[:6].sum()) * 16 * 4)
    one_go = measure(model(), BATCHES, SOME, references={})
    stopped(path, 5)
    same(measure(model(), BATCHES, SOME, references={}, unfinished=path), one_go)


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damage, "the file is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "the file is damaged"),
        (lambda path: path.write_bytes(b""), "the file is damaged"),
        (lambda path: path.write_bytes(pickle.dumps(os.getcwd)), "the file is damaged"),
        (lambda path: torch.save({"identity": os.getcwd}, path), "UnpicklingError"),
        (lambda path: torch.save({}, path), "KeyError"),
    ],
    ids=["bit", "end", "empty", "pickle", "code", "other"],
)
def test_a_damaged_file_is_not_used_and_it_is_said(change, said, path, caplog):
    path.write_bytes(saved())
    change(path)
    result = measure(model(), BATCHES, SOME, references={}, unfinished=path)
    assert said in caplog.text
    assert "CharTransformerLM: what was measured before cannot be used" in caplog.text
    same(result, whole())


def other_row(network):
    network.model.embed_tokens.weight.data[39, 3] += 1e-3  # of a single token


@pytest.mark.parametrize(
    ("batches", "metrics", "change", "said"),
    [
        ([BATCHES[0], BATCHES[2], BATCHES[1], *BATCHES[3:]], SOME, None, "the inputs have changed"),
        (BATCHES[:2], SOME, None, "the inputs have changed"),
        (BATCHES, SOME, other_row, "the model, the metrics or the versions have changed"),
        (BATCHES, SOME | {"entropy": {"windows": 10}}, None, "the model, the metrics or the versions have changed"),
    ],
    ids=["order", "shorter", "weights", "metrics"],
)
def test_states_of_something_else_are_not_used(batches, metrics, change, said, path, caplog):
    path.write_bytes(saved())
    network = model()
    if change:
        change(network)
    result = measure(network, batches, metrics, references={}, unfinished=path)
    assert said in caplog.text
    same(result, measure(network, batches, metrics, references={}))


def test_offloaded_weights_are_read_where_they_are_kept():
    network = model()
    of = functools.partial(identity.of_states, network, Suite.parse(SOME), torch.device("cpu"), None)
    before, module = of(), network.model.layers[1].up
    kept = {"weight": module.weight.detach()}
    module.weight = torch.nn.Parameter(kept["weight"].to("meta"))
    with pytest.raises(InputError, match="offloaded"):
        of()
    module._hf_hook = SimpleNamespace(hooks=[SimpleNamespace(weights_map=kept)])
    assert of() == before


class Counted(Largest):
    """A user's quantity that keeps a number beside its states."""

    def __init__(self):
        super().__init__()
        self.batches = 0

    def update(self, batch):
        self.batches += 1

    def estimate(self, states):
        value = np.array([float(states.batches)])
        return Estimate(value, value, value, 1)


class Place:
    """Something that no file may hold."""


class Gathered(Counted):
    """A user's quantity that keeps an object."""

    def __init__(self):
        super().__init__()
        self.places = [Place()]


class Nested(Counted):
    """A user's quantity that is made of another."""

    def __init__(self):
        super().__init__()
        self.other = Largest()


def test_what_a_metric_keeps_beside_its_states_is_kept(path):
    metrics = [f"{__name__}.Counted"]
    stopped(path, 5, metrics)
    result = measure(model(), BATCHES, metrics, unfinished=path)
    assert {row.value for row in result.rows} == {float(len(BATCHES))}


def full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name", "stand_in", "metrics", "said"),
    [
        (os, "fsync", full, SOME, "No space left on device"),
        (shutil, "disk_usage", lambda _: SimpleNamespace(free=10), SOME, "10 are free"),
        (unfinished, "REST", 0, [f"{__name__}.Gathered"], f"a metric keeps {__name__}.Place, which is not read"),
        (unfinished, "REST", 0, [f"{__name__}.Nested"], "a metric keeps tests.measure.test_layer_batches.Largest"),
    ],
    ids=["full", "room", "code", "module"],
)
def test_what_cannot_be_saved_is_measured_all_the_same(owner, name, stand_in, metrics, said, path, monkeypatch, caplog):
    monkeypatch.setattr(owner, name, stand_in)
    result = measure(model(), BATCHES, metrics, references={}, unfinished=path)
    same(result, whole() if metrics is SOME else measure(model(), BATCHES, metrics))
    assert caplog.text.count(said) == 1
    assert list(path.parent.iterdir()) == []


def test_batches_that_can_be_read_once_are_refused(path):
    with pytest.raises(InputError, match="give a list"):
        measure(model(), iter(BATCHES), SOME, unfinished=path)


def test_a_half_written_file_is_deleted_by_the_next_measurement(path):
    path.with_name(f".{path.name}.123.tmp").write_bytes(b"half")
    stopped(path, 3)
    assert [part.name for part in path.parent.iterdir()] == [path.name]


def test_saving_takes_a_fiftieth_of_the_time_at_most(tmp_path, monkeypatch):
    """A batch takes ten seconds by a clock of ours, and saving two."""
    now, saved = [0.0], []

    def write(path, fill, digest, size):
        write_atomically(path, fill, digest, size)
        saved.append(now[0])
        now[0] += 2

    class Slow:
        def __iter__(self):
            for batch in BATCHES * 6:
                now[0] += 10
                yield batch

    monkeypatch.setattr(unfinished, "write_atomically", write)
    monkeypatch.setattr(unfinished.time, "monotonic", lambda: now[0])
    measure(model(), Slow(), {"isoscore": {"tokens": 8}}, unfinished=tmp_path / "states.pt")
    assert saved[0] == 60
    assert len(saved) == 5
    assert min(np.diff(saved)) >= 50 * 2
