"""Bits that flip and files that are cut off, of every kind: noticed, or without effect; never another value."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dynamics.files import DIGESTS, digests
from tests.faults.damage import COUNT, HARMLESS, NOTICED, SILENT, kept, kinds, make_run
from tests.runs import forget_digests, working_in


@pytest.fixture(scope="module")
def made(tmp_path_factory, text_file):
    """A run and a cache, which every test leaves as they were."""
    with working_in(tmp_path_factory.mktemp("faults")) as place:
        yield kinds(make_run(text_file), text_file), place


def flip(path: Path, random: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[random.integers(len(content))] ^= 1 << random.integers(8)
    path.write_bytes(content)


def cut(path: Path, random: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: random.integers(path.stat().st_size)])


def zero(path: Path, random: np.random.Generator) -> None:
    """Zeros in the place of a block, as of a disk that lost one."""
    content = bytearray(path.read_bytes())
    start = random.integers(len(content))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    path.write_bytes(content)


def outcomes(kind, harm, count, seed, older=False):
    """Return how often a damage had each outcome; a kind that is made again must be what it was."""
    random, counted, before = np.random.default_rng(seed), Counter(), kind.read()
    for _ in range(count):
        with kept(kind.path.parent):
            if older:
                forget_digests(kind.path.parent)
            harm(kind.path, random)
            counted[kind.outcome(before)] += 1
    return counted


NAMES = (
    *("geometry", "curves", "arrays", "run.json", "config.yaml", "plan.json", "tokenizer.json", "state", "weights"),
    *("config.json", "text.txt", "facts.json", "ids", "inputs"),
    *("digests of a record", "digests of weights", "digests of a cache"),
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("harm", [flip, cut, zero])
def test_no_damage_is_read_as_truth(name, harm, made):
    found, _ = made
    counted = outcomes(found[name], harm, max(COUNT // 40, 1), seed=[*name.encode()])
    assert counted.keys() <= {NOTICED, HARMLESS}, counted
    if found[name].is_made_again:
        assert counted[NOTICED] == 0  # it is made again in silence, or with a warning


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("digests")])
@pytest.mark.parametrize("harm", [flip, cut, zero])
def test_no_damage_of_a_file_without_a_digest_is_a_traceback(name, harm, made):
    found, _ = made
    counted = outcomes(found[name], harm, max(COUNT // 80, 1), seed=[*name.encode(), 1], older=True)
    assert counted.keys() <= {NOTICED, HARMLESS, SILENT}, counted


def test_a_flip_is_noticed_by_the_digest_alone(made):
    """The control: without its digest, a flipped value of an array is read as it is."""
    found, _ = made
    kind = found["arrays"]
    with_digest, without = outcomes(kind, flip, 40, 0), outcomes(kind, flip, 40, 0, older=True)
    assert with_digest[SILENT] == 0
    assert without[SILENT] > 0
    assert with_digest[NOTICED] > without[NOTICED]


def test_every_file_of_a_run_has_a_digest(made):
    found, _ = made
    folder = found["run.json"].path.parent
    read = [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (DIGESTS, "report.html", "tokenizer_config.json")
    ]
    assert [path for path in read if path.name not in digests(path.parent)] == []
