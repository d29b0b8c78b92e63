"""Runs for the live page: those of the report's tests, which look as training leaves them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dynamics import record
from dynamics.record import Row
from dynamics.watch.store import Store
from tests.report.conftest import make_run


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory without runs; a store looks again whenever it is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dynamics.watch.store.LOOK_SECONDS", 0.0)
    return tmp_path


@pytest.fixture
def make(place) -> Callable[..., Path]:
    """Make a run under checkpoints/ by name: `make("d0", "decoder", seed=0, width=32)`."""
    return lambda name, kind="decoder", **settings: make_run(place / "checkpoints" / name, kind, **settings)


@pytest.fixture
def small(place) -> Callable[..., Path]:
    """Make a run of one measured step under checkpoints/, without `run.json`."""

    def write(name: str, step: int = 0, value: float = 0.5, run: str = "") -> Path:
        folder = place / "checkpoints" / name
        rows = [
            Row(run or name, "", "", step, "residual", layer, -1, "anisotropy", value * (layer + 1))
            for layer in (0, 1, 2)
        ]
        record.Record(folder).write(step, rows)
        return folder

    return write


@pytest.fixture
def store(place) -> Store:
    """All runs under checkpoints/."""
    return Store()
